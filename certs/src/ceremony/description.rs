//! What is said of one certificate, request or key: the same facts for people and, as JSON, for programs.
//!
//! Of a private key only its kind is ever kept. `inspect` decides which files are looked at.

use std::time::SystemTime;

use serde::Serialize;
use signet_certs::chain::{Certificate, CertificateError};
use signet_certs::clock::{rfc3339, to_unix};
use signet_certs::csr::VerifiedCsr;
use signet_certs::key::{KeyError, KeyKind, PrivateKey};
use signet_certs::validity::{Validity, ValidityError};
use signet_certs::{name, pem};
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::text::{colons, span};

/// One thing found in a file.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Description {
    /// A certificate.
    Certificate(CertificateDescription),
    /// A certificate signing request.
    Csr(CsrDescription),
    /// A private key, of which nothing is shown but its kind, or why the CA could not use it.
    PrivateKey {
        /// The kind.
        key: String,
    },
    /// A public key.
    PublicKey {
        /// The kind.
        key: String,
    },
    /// A PEM block of another type, such as `EC PARAMETERS`.
    Other {
        /// Its label.
        label: String,
    },
}

/// A certificate; times in RFC 3339, identifiers and fingerprint in hex with colons.
#[derive(Debug, Serialize)]
pub(crate) struct CertificateDescription {
    subject: String,
    issuer: String,
    serial: String,
    not_before: String,
    not_after: String,
    /// Until NotAfter; negative after it.
    seconds_left: i64,
    /// For people.
    #[serde(skip)]
    standing: String,
    key: String,
    names: Vec<String>,
    ca: bool,
    path_length: Option<u32>,
    subject_key_id: Option<String>,
    authority_key_id: Option<String>,
    sha256: String,
}

/// A request: what it asks for, and whether the CA takes it.
#[derive(Debug, Serialize)]
pub(crate) struct CsrDescription {
    subject: String,
    key: String,
    /// Asked for, and ignored.
    names: Vec<String>,
    /// Asked for, and ignored.
    ca: bool,
    /// Why the CA refuses it; nothing where it does not.
    refused: Option<String>,
}

/// Why something cannot be described.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum DescriptionError {
    /// Labelled as a certificate, and none.
    #[error("a certificate was expected")]
    Certificate(#[from] CertificateError),
    /// Labelled as a request, and none.
    #[error("this is not a PKCS#10 certification request")]
    Csr,
    /// DER of something else.
    #[error("expected a certificate, a CSR or a key in PEM or DER; this is none of them")]
    Unknown,
}

impl Description {
    /// Describes a PEM block. Its content may be a private key, so it is wiped.
    pub(crate) fn of_block(block: pem::Block, now: SystemTime) -> Result<Self, DescriptionError> {
        let der = Zeroizing::new(block.der);
        match block.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" => Self::of_certificate(&der, now),
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Self::of_csr(&der),
            "PUBLIC KEY" => Ok(Self::PublicKey { key: public_key(&der) }),
            label if label.ends_with("PRIVATE KEY") && block.encrypted => {
                Ok(Self::PrivateKey { key: format!("not usable: {}", KeyError::Encrypted) })
            }
            label if label.ends_with("PRIVATE KEY") => {
                let text = Zeroizing::new(pem::encode(label, &der));
                let key = match PrivateKey::from_pem(text.as_bytes()) {
                    Ok(key) => key.kind().to_string(),
                    Err(error) => format!("not usable: {error}"),
                };
                Ok(Self::PrivateKey { key })
            }
            _ => Ok(Self::Other { label: name::escaped(&block.label) }),
        }
    }

    /// Describes one DER value by what it turns out to be.
    pub(crate) fn of_der(der: &[u8], now: SystemTime) -> Result<Self, DescriptionError> {
        Self::of_certificate(der, now).or_else(|_| Self::of_csr(der)).or_else(
            |_| match PrivateKey::from_pkcs8(Zeroizing::new(der.to_vec())) {
                Ok(key) => Ok(Self::PrivateKey { key: key.kind().to_string() }),
                Err(_) => Err(DescriptionError::Unknown),
            },
        )
    }

    fn of_certificate(der: &[u8], now: SystemTime) -> Result<Self, DescriptionError> {
        let certificate = Certificate::from_der(der.to_vec())?;
        let facts = certificate.facts();
        let Validity { not_before, not_after } = facts.validity;
        // Read once more: the facts keep only the types of names that meshes use.
        let names = match X509Certificate::from_der(der) {
            Ok((_, parsed)) => parsed.extensions().iter().flat_map(|e| names(e.parsed_extension())).collect(),
            Err(_) => Vec::new(),
        };
        Ok(Self::Certificate(CertificateDescription {
            subject: name::display(&facts.subject),
            issuer: name::display(&facts.issuer),
            serial: facts.serial.to_string(),
            not_before: rfc3339(not_before),
            not_after: rfc3339(not_after),
            seconds_left: to_unix(not_after) - to_unix(now),
            standing: standing(facts.validity, now),
            key: public_key(&facts.spki),
            names,
            ca: facts.ca,
            path_length: facts.path_length,
            subject_key_id: facts.subject_key_id.as_deref().map(colons),
            authority_key_id: facts.authority_key_id.as_deref().map(colons),
            sha256: colons(&certificate.digest()),
        }))
    }

    fn of_csr(der: &[u8]) -> Result<Self, DescriptionError> {
        let (_, request) = X509CertificationRequest::from_der(der).map_err(|_| DescriptionError::Csr)?;
        let info = &request.certification_request_info;
        let asked: Vec<_> = request.requested_extensions().into_iter().flatten().collect();
        Ok(Self::Csr(CsrDescription {
            subject: name::display(info.subject.as_raw()),
            key: public_key(info.subject_pki.raw),
            names: asked.iter().flat_map(|extension| names(extension)).collect(),
            ca: asked.iter().any(|e| matches!(e, ParsedExtension::BasicConstraints(c) if c.ca)),
            refused: VerifiedCsr::from_der(der).err().map(|error| error.to_string()),
        }))
    }

    /// What it is, then its facts as name and value.
    pub(crate) fn rows(&self) -> (&'static str, Vec<(&'static str, String)>) {
        match self {
            Self::Certificate(certificate) => ("certificate", certificate.rows()),
            Self::Csr(csr) => ("certificate signing request", csr.rows()),
            Self::PrivateKey { key } => ("(private key)", vec![("key", key.clone())]),
            Self::PublicKey { key } => ("public key", vec![("key", key.clone())]),
            Self::Other { label } => ("another PEM block", vec![("label", label.clone())]),
        }
    }
}

impl CertificateDescription {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let ca = match (self.ca, self.path_length) {
            (false, _) => "no".to_owned(),
            (true, None) => "yes, without a path length".to_owned(),
            (true, Some(length)) => format!("yes, path length {length}"),
        };
        let mut rows = vec![
            ("subject", self.subject.clone()),
            ("issuer", self.issuer.clone()),
            ("serial", self.serial.clone()),
            ("valid", format!("{} to {} ({})", self.not_before, self.not_after, self.standing)),
            ("key", self.key.clone()),
        ];
        rows.extend(self.names.iter().map(|name| ("name", name.clone())));
        rows.push(("CA", ca));
        rows.extend(self.subject_key_id.iter().map(|id| ("key id", id.clone())));
        rows.extend(self.authority_key_id.iter().map(|id| ("issuer key id", id.clone())));
        rows.push(("SHA-256", self.sha256.clone()));
        rows
    }
}

impl CsrDescription {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("subject", self.subject.clone()), ("key", self.key.clone())];
        rows.extend(self.names.iter().map(|name| ("asks for", name.clone())));
        rows.extend(self.ca.then(|| ("asks for", "being a CA".to_owned())));
        let verdict = match &self.refused {
            None => "accepted: of a CSR only the key counts".to_owned(),
            Some(reason) => format!("refused: {reason}"),
        };
        rows.push(("the CA", verdict));
        rows
    }
}

fn public_key(spki: &[u8]) -> String {
    match KeyKind::of_spki(spki) {
        Ok(kind) => kind.to_string(),
        Err(error) => format!("not allowed: {error}"),
    }
}

fn names(extension: &ParsedExtension<'_>) -> Vec<String> {
    match extension {
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().map(name::display_general).collect()
        }
        _ => Vec::new(),
    }
}

fn standing(validity: Validity, now: SystemTime) -> String {
    let between = |from: SystemTime, to: SystemTime| span(to.duration_since(from).unwrap_or_default());
    match validity.at(now) {
        Ok(()) => format!("{} left", between(now, validity.not_after)),
        Err(ValidityError::NotYet(from)) => format!("begins in {}", between(now, from)),
        Err(_) => format!("ended {} ago", between(validity.not_after, now)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::clock::from_unix;

    #[test]
    fn a_validity_says_what_is_left_and_when_nothing_is() {
        let validity = Validity { not_before: from_unix(1_000), not_after: from_unix(1_000 + 90_000) };
        assert_eq!(standing(validity, from_unix(1_000)), "1d 1h left");
        assert_eq!(standing(validity, from_unix(940)), "begins in 1m 0s");
        assert_eq!(standing(validity, from_unix(91_010)), "ended 10s ago");
    }

    #[test]
    fn a_private_key_leaves_nothing_but_its_kind() {
        let key = PrivateKey::generate_p256().unwrap();
        let block = pem::only(&key.to_pkcs8_pem()).unwrap();
        let der = block.der.clone();
        for found in [
            Description::of_block(block, SystemTime::now()).unwrap(),
            Description::of_der(&der, SystemTime::now()).unwrap(),
        ] {
            assert_eq!(serde_json::to_string(&found).unwrap(), r#"{"type":"private_key","key":"P-256"}"#);
            assert_eq!(found.rows(), ("(private key)", vec![("key", "P-256".to_owned())]));
        }
    }

    #[test]
    fn unusable_keys_are_described_by_why() {
        let block = pem::Block {
            label: "ENCRYPTED PRIVATE KEY".into(),
            der: vec![1, 2, 3],
            line: 1,
            encrypted: false,
        };
        let Ok(Description::PrivateKey { key }) = Description::of_block(block, SystemTime::now()) else {
            panic!("a private key was expected");
        };
        assert!(key.starts_with("not usable: the private key is encrypted"), "{key}");
    }

    #[test]
    fn what_is_labelled_wrongly_is_an_error() {
        let block =
            |label: &str| pem::Block { label: label.into(), der: vec![0x30, 0], line: 1, encrypted: false };
        let now = SystemTime::now();
        let describe = |label| Description::of_block(block(label), now).unwrap_err();
        assert!(matches!(describe("CERTIFICATE"), DescriptionError::Certificate(_)));
        assert_eq!(describe("CERTIFICATE REQUEST"), DescriptionError::Csr);
        assert_eq!(Description::of_der(&[0x30, 0], now).unwrap_err(), DescriptionError::Unknown);
    }
}
