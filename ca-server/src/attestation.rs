//! Attestation: who sends this request? Evidence goes in, a [`Caller`] comes out, or a reason why not.
//!
//! A token is verified here, with keys that we hold: no request to anybody unless a key is missing. What is
//! read from a token before its signature is verified only selects (algorithm, issuer, key); the types along
//! the way keep that order: [`token`] takes it apart, [`keys`] has one issuer's current key set ([`jwks`]; a
//! URL's by [`fetch`]) and verifies, [`claims`] reads what the signature covers. Nothing here prints a token.
//! Start reading at [`Attestation::attest`]. [`client_certificate`] is the other kind of evidence.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};
use signet_certs::digest::sha256;
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};
use url::Url;

use self::claims::Claims;
use self::client_certificate::Presented;
pub use self::error::{AttestationError, AttestationSetupError};
use self::jwks::KeySet;
pub use self::keys::KeySetStatus;
use self::keys::Keys;
use self::token::Jws;
use crate::issuance_log::EvidenceEntry;

mod claims;
pub mod client_certificate;
mod error;
mod fetch;
pub(crate) mod fuzzing;
mod jwks;
mod keys;
mod token;
mod verified;

/// What a request brings to prove who sends it. Debug prints no token.
#[derive(Debug, Default)]
pub struct Evidence {
    /// The bearer token, without its scheme.
    pub token: Option<SecretString>,
    /// The agent's own id (`x-signet-instance`), as it was sent.
    pub instance: Option<String>,
    /// The `clusterid` header, as it was sent.
    pub cluster: Option<String>,
    /// What the client presented on its connection. It proved to hold the leaf's key; nothing else is judged.
    pub certificates: Option<Presented>,
}

/// A workload whose evidence was verified.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its SPIFFE ID, in the trust domain of the token's issuer.
    pub identity: SpiffeId,
    /// Its Kubernetes namespace; a DNS-1123 label.
    pub namespace: String,
    /// Its Kubernetes service account; a DNS-1123 subdomain.
    pub service_account: String,
    /// The uid of the token's pod, else the agent's id if that is well-formed. Only the former is proven.
    pub instance: Option<String>,
    /// What the issuance log keeps of the evidence.
    pub evidence: EvidenceEntry,
    /// Key ids of the CA that signed the certificate which was shown, and of those above it; none with a token.
    pub issuer_key_ids: Vec<Vec<u8>>,
    /// When the evidence ends.
    pub expires: SystemTime,
    /// What the caller calls its cluster, if that is fit for a log. A claim, not proven.
    pub cluster: Option<String>,
}

/// One issuer of tokens, and what it may vouch for.
#[derive(Debug)]
pub struct TokenIssuer {
    /// The `iss` of its tokens; no other issuer has the same.
    pub issuer: String,
    /// Where its keys are.
    pub jwks: KeySource,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    /// A token that is for one of these is for the API server, and refused.
    pub api_server_audiences: Vec<String>,
    /// Where its workloads live.
    pub trust_domain: TrustDomain,
    /// The namespaces that it may vouch for; `None` is all of them.
    pub namespaces: Option<Vec<String>>,
}

/// Where an issuer's key set (RFC 7517) comes from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A file; it may be replaced at any time.
    File(PathBuf),
    /// A URL: https, or http to this machine only.
    Url {
        /// The key set's.
        url: Url,
        /// Roots for its server's certificate, in PEM; without it, the system's.
        ca_file: Option<PathBuf>,
    },
}

/// Verifies evidence; knows the configured issuers and keeps their keys fresh.
#[derive(Debug)]
pub struct Attestation {
    issuers: Vec<Issuer>,
}

#[derive(Debug)]
struct Issuer {
    rules: TokenIssuer,
    keys: Arc<Keys>,
}

impl Attestation {
    /// Reads the key files. URLs are fetched later: by [`Attestation::refresh_forever`], or when the first
    /// token needs them.
    ///
    /// # Errors
    /// A key file or a URL's CA file is missing or holds nothing usable, a URL is not allowed, or two issuers
    /// have one name.
    pub fn new(issuers: Vec<TokenIssuer>) -> Result<Attestation, AttestationSetupError> {
        let mut known: Vec<Issuer> = Vec::with_capacity(issuers.len());
        for rules in issuers {
            if known.iter().any(|other| other.rules.issuer == rules.issuer) {
                return Err(AttestationSetupError::DuplicateIssuer(rules.issuer));
            }
            let keys = Keys::new(&rules.issuer, rules.jwks.clone())
                .map_err(|source| AttestationSetupError::Keys { issuer: rules.issuer.clone(), source })?;
            known.push(Issuer { rules, keys: Arc::new(keys) });
        }
        Ok(Attestation { issuers: known })
    }

    /// Whether an issuer's key file, or the roots for its URL, can be used now. Nothing is kept.
    ///
    /// # Errors
    /// As those of [`Attestation::new`].
    pub fn try_keys(rules: &TokenIssuer) -> Result<(), AttestationSetupError> {
        Keys::new(&rules.issuer, rules.jwks.clone())
            .map(|_| ())
            .map_err(|source| AttestationSetupError::Keys { issuer: rules.issuer.clone(), source })
    }

    /// Says who brings this evidence. Waits only if the token names a key that we do not have, and then at
    /// most two seconds.
    ///
    /// # Errors
    /// Why the evidence is refused, or that the issuer's keys cannot be had.
    pub async fn attest(&self, evidence: &Evidence, now: SystemTime) -> Result<Caller, AttestationError> {
        let token = evidence.token.as_ref().ok_or(AttestationError::Missing)?.expose_secret();
        let jws = Jws::parse(token)?;
        let issuer = self.issuer(jws.unverified_issuer()?.as_deref())?;
        let keys = issuer.keys.with(jws.key_id()).await?;
        issuer.rules.caller(&jws, &keys, token, evidence, now)
    }

    /// Whether the issuer of the token that a caller's certificate goes back to may still vouch for it.
    fn still_vouches(&self, caller: &Caller) -> Result<(), AttestationError> {
        let issuer = &caller.evidence.issuer;
        let vouches = self.issuers.iter().map(|issuer| &issuer.rules).any(|rules| {
            let namespaces = rules.namespaces.as_ref();
            rules.issuer == *issuer
                && rules.trust_domain == *caller.identity.trust_domain()
                && namespaces.is_none_or(|all| all.contains(&caller.namespace))
        });
        let refused = || AttestationError::CertificateTokenIssuer {
            issuer: issuer.clone(),
            identity: caller.identity.to_string(),
        };
        vouches.then_some(()).ok_or_else(refused)
    }

    /// Keeps all key sets fresh: files within 30 seconds of a change, URLs every 5 minutes. The last good set
    /// stays through every failure. Never returns; may be dropped at any time.
    pub async fn refresh_forever(&self) {
        futures::future::join_all(self.issuers.iter().map(|issuer| issuer.keys.refresh_forever())).await;
    }

    /// How each issuer's keys stand, in the order of the configuration.
    pub fn key_sets(&self) -> Vec<KeySetStatus> {
        self.issuers.iter().map(|issuer| issuer.keys.status()).collect()
    }

    fn issuer(&self, name: Option<&str>) -> Result<&Issuer, AttestationError> {
        self.issuers.iter().find(|issuer| Some(issuer.rules.issuer.as_str()) == name).ok_or_else(|| {
            AttestationError::Issuer {
                expected: self.issuers.iter().map(|issuer| issuer.rules.issuer.clone()).collect(),
                found: name.map(error::shown),
            }
        })
    }
}

impl TokenIssuer {
    /// Who the token speaks of, if one of these keys signed it and these rules let it. Pure.
    fn caller(
        &self,
        jws: &Jws<'_>,
        keys: &KeySet,
        token: &str,
        evidence: &Evidence,
        now: SystemTime,
    ) -> Result<Caller, AttestationError> {
        let payload = keys.verify(jws, &self.issuer)?;
        let claims = Claims::read(&payload)?;
        let expires = claims.check_times(now)?;
        claims.check_audiences(&self.audiences, &self.api_server_audiences)?;
        let workload = claims.workload()?;
        if let Some(namespaces) = &self.namespaces
            && !namespaces.iter().any(|namespace| namespace == workload.namespace)
        {
            return Err(AttestationError::Namespace {
                issuer: self.issuer.clone(),
                found: workload.namespace.to_owned(),
            });
        }
        let id = claims.id().unwrap_or(token);
        let evidence_entry = EvidenceEntry {
            kind: "token".to_owned(),
            issuer: self.issuer.clone(),
            token_id_hash: sha256(id.as_bytes()).to_vec(),
            pod_name: workload.pod.map(|pod| pod.name.to_owned()).unwrap_or_default(),
            pod_uid: workload.pod.map(|pod| pod.uid.to_owned()).unwrap_or_default(),
            node_name: workload.node.map(|node| node.name.to_owned()).unwrap_or_default(),
            node_uid: workload.node.map(|node| node.uid.to_owned()).unwrap_or_default(),
            renewal: None,
        };
        let own_id = || evidence.instance.as_deref().filter(|id| claims::is_id(id));
        let instance = workload.pod.map(|pod| pod.uid).or_else(own_id);
        Ok(Caller {
            identity: workload.identity(&self.trust_domain),
            namespace: workload.namespace.to_owned(),
            service_account: workload.service_account.to_owned(),
            instance: instance.map(str::to_owned),
            evidence: evidence_entry,
            issuer_key_ids: Vec::new(),
            expires,
            cluster: evidence.cluster.clone().filter(|cluster| is_cluster(cluster)),
        })
    }
}

/// Cluster ids are free text; this much of it can do no harm in a log.
fn is_cluster(text: &str) -> bool {
    (1..=253).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
