//! Doors for the fuzz targets: tokens and key sets without files, network or a runtime.

use std::time::SystemTime;

use secrecy::ExposeSecret;

use super::error::shown;
use super::jwks::KeySet;
use super::token::Jws;
use super::{AttestationError, Caller, Evidence, TokenIssuer};

/// A key set.
#[derive(Debug)]
pub struct Jwks(KeySet);

impl Jwks {
    /// Reads a key set; also says which keys were left out and why.
    ///
    /// # Errors
    /// Why the text is none.
    pub fn parse(json: &[u8]) -> Result<(Jwks, Vec<String>), String> {
        let (set, skipped) = KeySet::parse(json).map_err(|error| error.to_string())?;
        Ok((Jwks(set), skipped.iter().map(ToString::to_string).collect()))
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether the token's key is here and signed it.
    pub fn verifies(&self, token: &str) -> bool {
        Jws::parse(token).is_ok_and(|jws| self.0.verify(&jws, "the issuer").is_ok())
    }
}

/// Attestation by one issuer with fixed keys.
#[derive(Debug)]
pub struct Attestor {
    /// What the issuer may vouch for; where its keys come from does not count.
    pub rules: TokenIssuer,
    /// Its keys.
    pub keys: Jwks,
}

impl Attestor {
    /// As [`Attestation::attest`](super::Attestation::attest).
    ///
    /// # Errors
    /// Why the evidence is refused.
    pub fn attest(&self, evidence: &Evidence, now: SystemTime) -> Result<Caller, AttestationError> {
        let token = evidence.token.as_ref().ok_or(AttestationError::Missing)?.expose_secret();
        let jws = Jws::parse(token)?;
        match jws.unverified_issuer()? {
            Some(issuer) if issuer == self.rules.issuer => {
                self.rules.caller(&jws, &self.keys.0, token, evidence, now)
            }
            found => {
                let found = found.as_deref().map(shown);
                Err(AttestationError::Issuer { expected: vec![self.rules.issuer.clone()], found })
            }
        }
    }
}
