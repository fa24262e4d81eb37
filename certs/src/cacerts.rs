//! What a folder of CA files means: Istio's four files or a TLS secret's three, judged as a whole before
//! anything is signed.
//!
//! All findings are reported together, each with its file. [`folder`](self::Folder) is the input,
//! [`finding`](self::Finding) what is said of it; see [`Cacerts::read`] for the rules.

mod finding;
mod folder;

use std::time::SystemTime;

use crate::ca::Ca;
use crate::chain::{Certificate, CertificateError};
use crate::key::{KeyKind, PrivateKey};
use crate::name;
use crate::validity::Validity;

use finding::{Kind, called};

pub use finding::{Fault, Finding, Named, Note};
pub use folder::{
    CA_CERT, CA_CRL, CA_KEY, CERT_CHAIN, Content, Folder, MAX_FILE, NAMES, ROOT_CERT, TLS_CA, TLS_CERT,
    TLS_KEY,
};

/// More than this many certificates between leaf and root are refused by rustls peers.
const MAX_INTERMEDIATES: usize = 6;

const UNSORTED: Kind = Kind { code: "UNSORTED", why: "" };

/// Which of the forms that Istio knows a folder has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem`, `root-cert.pem`, and perhaps `ca-crl.pem`.
    Cacerts,
    /// `tls.crt`, `tls.key`, `ca.crt`, as in a secret of the type kubernetes.io/tls.
    TlsSecret,
}

/// A plugged-in CA that can sign now, and everything that its leaves are answered with.
#[derive(Debug)]
pub struct Cacerts {
    /// Who signs.
    pub ca: Ca,
    /// From the signing certificate upwards, without roots; empty where the signer is a root.
    pub intermediates: Vec<Certificate>,
    /// The root that the chain ends in.
    pub anchor: Certificate,
    /// All roots, each once, in their order.
    pub roots: Vec<Certificate>,
    /// CRLs of the chain's CAs, PEM as given.
    pub crl: Option<Vec<u8>>,
    /// Which files it came from.
    pub form: Form,
    /// What was put right, or is worth knowing.
    pub notes: Vec<Note>,
}

impl Cacerts {
    /// From parts that belong together, without a judgement.
    pub fn of(ca: Ca, intermediates: Vec<Certificate>, anchor: Certificate, roots: Vec<Certificate>) -> Self {
        Self { ca, intermediates, anchor, roots, crl: None, form: Form::Cacerts, notes: Vec::new() }
    }

    /// Reads and judges the files at `now`: every certificate parses; the signer is a CA, may sign
    /// certificates, and the key fits it; the chain begins with the signer, each member is signed by the
    /// next and the last by a root; path lengths suffice; nothing on the way constrains URI names;
    /// every member is valid now; roots are self-signed CAs.
    pub fn read(folder: &Folder, now: SystemTime) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults(Vec::new());
        let signer = faults.content(folder, CA_CERT);
        let signer = signer.and_then(|pem| faults.take(CA_CERT, Certificate::from_pem(pem).map_err(explain)));
        let key = faults.content(folder, CA_KEY);
        let key = key.map(|pem| PrivateKey::from_pem(pem).map_err(|error| error.to_string()));
        let key = key.and_then(|key| faults.take(CA_KEY, key));
        let chain = faults.content(folder, CERT_CHAIN);
        let chain =
            chain.and_then(|pem| faults.take(CERT_CHAIN, Certificate::all_from_pem(pem).map_err(explain)));
        let roots = faults.content(folder, ROOT_CERT);
        let roots =
            roots.and_then(|pem| faults.take(ROOT_CERT, Certificate::all_from_pem(pem).map_err(explain)));

        let roots = roots.map(deduplicated);
        if let Some(roots) = &roots {
            faults.check_roots(roots);
        }
        if let (Some(signer), Some(key)) = (&signer, &key) {
            faults.check_key(signer, key);
        }
        let (Some(signer), Some(chain), Some(roots)) = (signer, chain, roots) else {
            return Err(faults.0);
        };
        let path = faults.check_chain(&signer, chain, &roots, now);
        match (key, path) {
            (Some(key), Some((intermediates, anchor))) if faults.0.is_empty() => {
                Ok(Self::of(Ca { certificate: signer, key }, intermediates, anchor, roots))
            }
            _ => Err(faults.0),
        }
    }

    /// The validity of every certificate above a leaf.
    pub fn validities(&self) -> impl Iterator<Item = Validity> {
        self.intermediates.iter().chain([&self.anchor]).map(|member| member.facts().validity)
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, file: &'static str, what: impl Into<String>) {
        self.0.push(UNSORTED.of(file, what, ""));
    }

    fn content<'a>(&mut self, folder: &'a Folder, file: &'static str) -> Option<&'a [u8]> {
        match folder.get(file) {
            Some(Ok(content)) => Some(content),
            Some(Err(why)) => {
                self.add(file, format!("cannot be read: {why}"));
                None
            }
            None => {
                self.add(file, "is missing");
                None
            }
        }
    }

    fn take<T>(&mut self, file: &'static str, result: Result<T, String>) -> Option<T> {
        result.map_err(|what| self.add(file, what)).ok()
    }

    fn check_roots(&mut self, roots: &[Certificate]) {
        for root in roots {
            let called = called(root);
            if !root.is_self_issued() || !root.is_signed_by(root) {
                self.add(ROOT_CERT, format!("{called} is not a root: it is not signed by itself"));
            } else if !root.facts().ca {
                self.add(ROOT_CERT, format!("{called} is not a CA (basic constraints say so)"));
            }
        }
    }

    fn check_key(&mut self, signer: &Certificate, key: &PrivateKey) {
        match KeyKind::of_spki(&signer.facts().spki) {
            Err(error) => self.add(CA_CERT, format!("{}: {error}", called(signer))),
            Ok(kind) if signer.facts().spki != key.spki() => {
                let found = format!("a {} key that is not its own", key.kind());
                self.add(CA_KEY, format!("expected the {kind} key of {}, found {found}", called(signer)));
            }
            Ok(_) => {}
        }
    }

    /// Follows the chain from the signer to a root; answers the intermediates and the anchor.
    fn check_chain(
        &mut self,
        signer: &Certificate,
        mut chain: Vec<Certificate>,
        roots: &[Certificate],
        now: SystemTime,
    ) -> Option<(Vec<Certificate>, Certificate)> {
        if chain.first() != Some(signer) {
            self.add(CERT_CHAIN, format!("must begin with the certificate of {CA_CERT}"));
            return None;
        }
        // Istio's tools end the chain with the root; clients have it from the bundle.
        while chain.last().is_some_and(|last| roots.contains(last)) {
            chain.pop();
        }
        for pair in chain.windows(2) {
            if !pair[0].is_signed_by(&pair[1]) {
                let (below, above) = (called(&pair[0]), called(&pair[1]));
                self.add(CERT_CHAIN, format!("{below} is followed by {above}, which did not sign it"));
                return None;
            }
        }
        let last = chain.last().unwrap_or(signer);
        let above = roots.iter().find(|root| *root == last || last.is_signed_by(root));
        let Some(anchor) = above else {
            let issuer = name::display(&last.facts().issuer);
            let what = format!("{} is signed by ({issuer}), which is not in {ROOT_CERT}", called(last));
            self.add(CERT_CHAIN, what);
            return None;
        };
        if chain.len() > MAX_INTERMEDIATES {
            let what =
                format!("at most {MAX_INTERMEDIATES} certificates below the root, found {}", chain.len());
            self.add(CERT_CHAIN, what);
        }
        for (below, member) in chain.iter().chain([anchor]).enumerate() {
            let file = match below {
                0 => CA_CERT,
                _ if member == anchor => ROOT_CERT,
                _ => CERT_CHAIN,
            };
            self.check_member(file, member, below, now);
        }
        Some((chain, anchor.clone()))
    }

    /// One CA on the path, with this many CAs below it.
    fn check_member(&mut self, file: &'static str, member: &Certificate, below: usize, now: SystemTime) {
        let (called, facts) = (called(member), member.facts());
        if !facts.ca {
            self.add(
                file,
                format!("{called} is not a CA: its basic constraints are missing or say CA:FALSE"),
            );
        }
        if facts.cert_sign == Some(false) {
            self.add(file, format!("{called} may not sign certificates: its key usage lacks keyCertSign"));
        }
        if facts.path_length.is_some_and(|length| (length as usize) < below) {
            let length = facts.path_length.unwrap_or_default();
            self.add(file, format!("{called} has path length {length}, but {below} CAs stand below it"));
        }
        if facts.constrains_uris {
            self.add(
                file,
                format!("{called} constrains URI names, so peers refuse every SPIFFE ID below it"),
            );
        }
        if let Err(error) = facts.validity.at(now) {
            self.add(file, format!("{called} {error}"));
        }
    }
}

fn explain(error: CertificateError) -> String {
    match error {
        CertificateError::Pem(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

fn deduplicated(roots: Vec<Certificate>) -> Vec<Certificate> {
    let mut once: Vec<Certificate> = Vec::with_capacity(roots.len());
    for root in roots {
        if !once.contains(&root) {
            once.push(root);
        }
    }
    once
}

#[cfg(test)]
mod tests;
