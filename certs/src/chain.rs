//! Certificates as read, and judging a chain as a stranger would: webpki decides paths, signatures,
//! usages and dates; the rules of X.509-SVIDs come on top.

use std::net::IpAddr;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::clock::{from_unix, to_unix};
use crate::digest::sha256;
use crate::key::{KeyKind, SignatureAlgorithm, key_identifier, verify as verify_with_key};
use crate::name;
use crate::pem::{self, PemError};
use crate::serial::Serial;
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::validity::{Validity, ValidityError};

/// Why bytes are not a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CertificateError {
    /// Not PEM, or not one certificate.
    #[error("reading the PEM")]
    Pem(#[from] PemError),
    /// Not an X.509 certificate; carries the line in its file where that is known.
    #[error("{}this is not an X.509 certificate", line_prefix(*.0))]
    Malformed(Option<usize>),
    /// Bytes behind the certificate.
    #[error("{prefix}{1} bytes stand behind the certificate's end", prefix = line_prefix(*.0))]
    Trailing(Option<usize>, usize),
}

fn line_prefix(line: Option<usize>) -> String {
    line.map(|line| format!("line {line}: ")).unwrap_or_default()
}

/// A certificate with the facts that are asked of it. Equal when its bytes are.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    facts: Facts,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Raw DER name.
    pub subject: Vec<u8>,
    /// Raw DER name.
    pub issuer: Vec<u8>,
    /// As found.
    pub serial: Serial,
    /// From and to.
    pub validity: Validity,
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The basic constraints' CA flag; false where there are none.
    pub ca: bool,
    /// How many CAs may stand beneath; nothing for no limit.
    pub path_length: Option<u32>,
    /// Nothing where the extension is absent.
    pub cert_sign: Option<bool>,
    /// Whether digitalSignature is allowed; nothing where the extension is absent.
    pub digital_signature: Option<bool>,
    /// The subject key identifier, where there is one.
    pub subject_key_id: Option<Vec<u8>>,
    /// The key identifier of the authority key identifier, where there is one.
    pub authority_key_id: Option<Vec<u8>>,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ip: Vec<IpAddr>,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({}, serial {})", name::display(&self.facts.subject), self.facts.serial)
    }
}

impl Certificate {
    /// Reads one certificate and nothing behind it.
    pub fn from_der(der: Vec<u8>) -> Result<Self, CertificateError> {
        Self::read(der, None)
    }

    /// Reads the first certificate of a PEM text.
    pub fn from_pem(text: &[u8]) -> Result<Self, CertificateError> {
        let (line, der) = pem::certificates(text)?.swap_remove(0);
        Self::read(der, Some(line))
    }

    /// Reads all certificates of a PEM text, in order; at least one.
    pub fn all_from_pem(text: &[u8]) -> Result<Vec<Self>, CertificateError> {
        pem::certificates(text)?.into_iter().map(|(line, der)| Self::read(der, Some(line))).collect()
    }

    fn read(der: Vec<u8>, line: Option<usize>) -> Result<Self, CertificateError> {
        let facts = {
            let (rest, parsed) =
                X509Certificate::from_der(&der).map_err(|_| CertificateError::Malformed(line))?;
            if !rest.is_empty() {
                return Err(CertificateError::Trailing(line, rest.len()));
            }
            if ![parsed.subject(), parsed.issuer()].iter().all(|name| name::is_whole(name.as_raw())) {
                return Err(CertificateError::Malformed(line));
            }
            facts_of(&parsed)
        };
        Ok(Self { der: CertificateDer::from(der), facts })
    }

    /// What it says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its bytes.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// PEM with a trailing newline.
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }

    /// SHA-256 of its bytes.
    pub fn digest(&self) -> [u8; 32] {
        sha256(&self.der)
    }

    /// What its own certificates carry as authority key identifier: the subject key identifier, or one
    /// made from the key where it has none.
    pub fn key_id(&self) -> Vec<u8> {
        self.facts.subject_key_id.clone().unwrap_or_else(|| key_identifier(&self.facts.spki))
    }

    /// Whether subject and issuer are the same name.
    pub fn is_self_issued(&self) -> bool {
        self.facts.subject == self.facts.issuer
    }

    /// Whether `issuer`'s name stands in it and `issuer`'s key signed it.
    pub fn is_signed_by(&self, issuer: &Certificate) -> bool {
        if self.facts.issuer != issuer.facts.subject {
            return false;
        }
        let Ok((_, parsed)) = X509Certificate::from_der(&self.der) else { return false };
        let algorithm = parsed.signature_algorithm.algorithm.as_bytes();
        issuer.verifies(algorithm, parsed.tbs_certificate.as_ref(), parsed.signature_value.data.as_ref())
    }

    /// Whether its key made this signature, by an algorithm of the allow-list (contents octets of its OID).
    pub(crate) fn verifies(&self, algorithm: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let Ok((_, key)) = SubjectPublicKeyInfo::from_der(&self.facts.spki) else { return false };
        let (Ok(kind), Some(algorithm)) = (KeyKind::of(&key), SignatureAlgorithm::of_oid(algorithm)) else {
            return false;
        };
        verify_with_key(kind, key.subject_public_key.data.as_ref(), algorithm, message, signature)
    }
}

fn facts_of(parsed: &X509Certificate<'_>) -> Facts {
    let mut facts = Facts {
        subject: parsed.subject().as_raw().to_vec(),
        issuer: parsed.issuer().as_raw().to_vec(),
        serial: Serial::from_bytes(parsed.raw_serial()),
        validity: Validity {
            not_before: from_unix(parsed.validity.not_before.timestamp()),
            not_after: from_unix(parsed.validity.not_after.timestamp()),
        },
        spki: parsed.public_key().raw.to_vec(),
        ca: false,
        path_length: None,
        cert_sign: None,
        digital_signature: None,
        subject_key_id: None,
        authority_key_id: None,
        uris: Vec::new(),
        dns: Vec::new(),
        ip: Vec::new(),
    };
    for extension in parsed.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) => {
                facts.ca = constraints.ca;
                facts.path_length = constraints.path_len_constraint;
            }
            ParsedExtension::KeyUsage(usage) => {
                facts.cert_sign = Some(usage.key_cert_sign());
                facts.digital_signature = Some(usage.digital_signature());
            }
            ParsedExtension::SubjectKeyIdentifier(id) => facts.subject_key_id = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                facts.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => facts.uris.push((*uri).to_owned()),
                        GeneralName::DNSName(host) => facts.dns.push((*host).to_owned()),
                        GeneralName::IPAddress(bytes) => facts.ip.extend(name::ip_address(bytes)),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    facts
}

/// Why a chain is not good.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChainError {
    /// No root to judge by that is itself valid now.
    #[error("there is no root that is valid now")]
    NoRoot,
    /// The leaf is not valid now.
    #[error("the certificate {0}")]
    Validity(#[from] ValidityError),
    /// No path to a root: wrong signer, order, usage, constraint or date on the way.
    #[error("the certificate does not chain to a root: {0}")]
    Path(String),
    /// Not an X.509-SVID.
    #[error("this is not an X.509-SVID: {0}")]
    NotSvid(&'static str),
    /// Its URI is no SPIFFE ID.
    #[error("this is not an X.509-SVID")]
    SpiffeId(#[from] SpiffeIdError),
}

/// What a leaf is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// TLS server.
    Server,
    /// TLS client.
    Client,
}

/// Whether `leaf` chains through `intermediates` to one of `roots`, all valid at `now`, for `usage`.
/// Unlike webpki alone it also demands that the root has not ended.
pub fn verify(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    now: SystemTime,
    usage: Usage,
) -> Result<(), ChainError> {
    leaf.facts.validity.at(now)?;
    let anchors: Vec<_> = roots
        .iter()
        .filter(|root| root.facts.validity.at(now).is_ok())
        .filter_map(|root| anchor_from_trusted_cert(&root.der).ok())
        .collect();
    if anchors.is_empty() {
        return Err(ChainError::NoRoot);
    }
    let path = |error: webpki::Error| ChainError::Path(error.to_string());
    let end_entity = EndEntityCert::try_from(&leaf.der).map_err(path)?;
    let intermediates: Vec<_> = intermediates.iter().map(|member| member.der.clone()).collect();
    let seconds = u64::try_from(to_unix(now)).unwrap_or(0);
    let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let usage = match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    end_entity
        .verify_for_usage(algorithms, &anchors, &intermediates, time, usage, None, None)
        .map(|_| ())
        .map_err(path)
}

/// [`verify`] for both usages, and the rules for leaf X.509-SVIDs (X.509-SVID, sections 2 to 4): one URI
/// name, which is a SPIFFE ID with a path; no CA; digitalSignature and not certSign. Returns the ID.
pub fn verify_svid(
    leaf: &Certificate,
    intermediates: &[Certificate],
    roots: &[Certificate],
    now: SystemTime,
) -> Result<SpiffeId, ChainError> {
    let facts = &leaf.facts;
    let [uri] = facts.uris.as_slice() else {
        return Err(ChainError::NotSvid("expected exactly one URI name"));
    };
    let id = SpiffeId::parse(uri)?;
    if id.path().is_empty() {
        return Err(ChainError::NotSvid("its SPIFFE ID has no path"));
    }
    if facts.ca || facts.cert_sign == Some(true) {
        return Err(ChainError::NotSvid("it is a CA"));
    }
    if facts.digital_signature != Some(true) {
        return Err(ChainError::NotSvid("its key usage lacks digitalSignature"));
    }
    verify(leaf, intermediates, roots, now, Usage::Server)?;
    verify(leaf, intermediates, roots, now, Usage::Client)?;
    Ok(id)
}
