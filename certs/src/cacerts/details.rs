//! What judging a CA's certificate asks beyond [`Facts`](crate::chain::Facts): read anew from its bytes, so
//! that every certificate in memory does not carry it.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::chain::Certificate;
use crate::key::SignatureAlgorithm;

/// Extensions that webpki takes where they are critical, by the last arc under 2.5.29.
const TAKEN: [&str; 6] = ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.37"];
/// Those that peers read in a CA, critical or not: key usage, basic and name constraints, extended key usage.
const READ: [&str; 4] = ["2.5.29.15", "2.5.29.19", "2.5.29.30", "2.5.29.37"];
/// Those about policies, which OpenSSL takes too; webpki does not look at them in a root.
const POLICIES: [&str; 4] = ["2.5.29.32", "2.5.29.33", "2.5.29.36", "2.5.29.54"];

/// How a certificate is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Signature {
    /// By an algorithm of the allow-list.
    Good,
    /// SHA-1 or MD5.
    Weak(&'static str),
    /// Anything else, by its name or OID.
    Other(String),
}

/// The names that a certificate constrains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Constrained {
    Uri,
    Directory,
    /// DNS names, addresses and the rest.
    Other,
}

#[derive(Debug)]
pub(super) struct Details {
    pub(super) version_1: bool,
    /// Contents octets of the integer.
    pub(super) serial: Vec<u8>,
    pub(super) basic_constraints: bool,
    pub(super) key_usage: bool,
    pub(super) crl_sign: Option<bool>,
    /// Whether leaves may serve and call; nothing without the extension.
    pub(super) serves_and_calls: Option<bool>,
    pub(super) constrained: Vec<Constrained>,
    /// Extensions for which peers refuse the certificate, each with why.
    pub(super) refused: Vec<String>,
    pub(super) signature: Signature,
    /// The serial number of the issuer's certificate, where the authority key identifier states it.
    pub(super) authority_serial: Option<Vec<u8>>,
}

impl Details {
    /// Nothing for bytes that are no certificate, which a [`Certificate`] never is.
    pub(super) fn of(certificate: &Certificate, root: bool) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate.der()).ok()?;
        let mut details = Self {
            version_1: parsed.version().0 == 0,
            serial: parsed.raw_serial().to_vec(),
            basic_constraints: false,
            key_usage: false,
            crl_sign: None,
            serves_and_calls: None,
            constrained: Vec::new(),
            refused: Vec::new(),
            signature: signature(&parsed),
            authority_serial: None,
        };
        for extension in parsed.extensions() {
            let oid = extension.oid.to_id_string();
            let known = TAKEN.contains(&oid.as_str()) || (root && POLICIES.contains(&oid.as_str()));
            let parsed = extension.parsed_extension();
            let is_read = extension.critical || READ.contains(&oid.as_str());
            if extension.critical && !known {
                details.refused.push(format!("the critical extension {oid}, which peers do not know"));
            } else if is_read && matches!(parsed, ParsedExtension::ParseError { .. }) {
                details.refused.push(format!("the extension {oid}, which peers read and cannot"));
            }
            details.take(parsed);
        }
        details.constrained.sort();
        details.constrained.dedup();
        Some(details)
    }

    fn take(&mut self, extension: &ParsedExtension<'_>) {
        match extension {
            ParsedExtension::BasicConstraints(_) => self.basic_constraints = true,
            ParsedExtension::KeyUsage(usage) => {
                self.key_usage = true;
                self.crl_sign = Some(usage.crl_sign());
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.serves_and_calls = Some(usage.server_auth && usage.client_auth);
            }
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                self.authority_serial = id.authority_cert_serial.map(<[u8]>::to_vec);
            }
            ParsedExtension::NameConstraints(constraints) => {
                let permitted = constraints.permitted_subtrees.iter().flatten();
                let all = permitted.chain(constraints.excluded_subtrees.iter().flatten());
                self.constrained.extend(all.map(|tree| match tree.base {
                    GeneralName::URI(_) => Constrained::Uri,
                    GeneralName::DirectoryName(_) => Constrained::Directory,
                    _ => Constrained::Other,
                }));
            }
            _ => {}
        }
    }

    /// What is odd about the serial number.
    pub(super) fn odd_serial(&self) -> Option<&'static str> {
        match self.serial.as_slice() {
            [first, ..] if first & 0x80 != 0 => Some("a negative serial number"),
            octets if octets.iter().all(|octet| *octet == 0) => Some("the serial number zero"),
            octets if octets.len() > 20 => Some("a serial number of more than 20 octets"),
            _ => None,
        }
    }
}

fn signature(parsed: &X509Certificate<'_>) -> Signature {
    let algorithm = &parsed.signature_algorithm.algorithm;
    if parsed.tbs_certificate.signature != parsed.signature_algorithm {
        return Signature::Other("another algorithm than it says within (RFC 5280, 4.1.1.2)".into());
    }
    if SignatureAlgorithm::of_oid(algorithm.as_bytes()).is_some() {
        return Signature::Good;
    }
    match algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => Signature::Weak("RSA with SHA-1"),
        "1.2.840.10045.4.1" => Signature::Weak("ECDSA with SHA-1"),
        "1.2.840.113549.1.1.4" => Signature::Weak("RSA with MD5"),
        "1.2.840.113549.1.1.10" => Signature::Other("RSASSA-PSS".into()),
        "1.2.840.10045.4.3.4" => Signature::Other("ECDSA with SHA-512".into()),
        "1.2.840.113549.1.1.14" => Signature::Other("RSA with SHA-224".into()),
        "1.3.101.113" => Signature::Other("Ed448".into()),
        oid => Signature::Other(format!("the algorithm with OID {oid}")),
    }
}
