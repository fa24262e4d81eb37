//! Templates: everything that a certificate will say, and its encoding as a TBSCertificate
//! (RFC 5280, 4.1.2). The issuer's name goes in byte for byte, however an enterprise wrote it.

use std::net::IpAddr;

use crate::key::{KeyError, KeyKind, key_identifier};
use crate::profile::Profile;
use crate::serial::Serial;
use crate::spiffe_id::SpiffeId;
use crate::validity::Validity;
use crate::{der, name};

// id-ce-* are 2.5.29.n, so one octet tells them apart.
const SUBJECT_KEY_IDENTIFIER: u8 = 14;
const KEY_USAGE: u8 = 15;
const SUBJECT_ALT_NAME: u8 = 17;
const BASIC_CONSTRAINTS: u8 = 19;
const AUTHORITY_KEY_IDENTIFIER: u8 = 35;
const EXTENDED_KEY_USAGE: u8 = 37;
const OID_SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const OID_CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Exactly one URI: an X.509-SVID.
    SpiffeId(SpiffeId),
    /// A server's host names and addresses.
    Hosts {
        /// DNS names, ASCII.
        dns: Vec<String>,
        /// Addresses.
        ip: Vec<IpAddr>,
    },
    /// A CA, which its subject names.
    Subject(Vec<u8>),
    /// A CA with host names beside its subject, as Istio's tools make intermediates.
    SubjectAndHosts {
        /// Raw DER, not empty.
        subject: Vec<u8>,
        /// DNS names, ASCII; at least one.
        dns: Vec<String>,
    },
}

/// Everything a certificate will say, but for its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Usages and constraints.
    pub profile: Profile,
    /// Never used before.
    pub serial: Serial,
    /// From and to, whole seconds.
    pub validity: Validity,
    /// Who it is for.
    pub names: Names,
    /// DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The issuer's subject, raw DER.
    pub issuer: Vec<u8>,
    /// The issuer's subject key identifier; the same as its own for a root.
    pub issuer_key_id: Vec<u8>,
    /// DER AlgorithmIdentifier of the signature to come.
    pub signature_algorithm: Vec<u8>,
}

impl Template {
    /// The subject, raw DER: empty for leaves.
    pub fn subject(&self) -> &[u8] {
        match &self.names {
            Names::Subject(subject) | Names::SubjectAndHosts { subject, .. } => subject,
            Names::SpiffeId(_) | Names::Hosts { .. } => name::EMPTY,
        }
    }

    /// Whether it states its own key identifier: every CA does. Leaves need none, but under an issuer without
    /// a name they have the issuer's name for their own, and OpenSSL and Envoy take them for self-signed
    /// unless their key identifiers differ.
    pub(crate) fn states_key_id(&self) -> bool {
        self.profile.is_ca() || self.issuer == name::EMPTY
    }

    /// DER of the TBSCertificate. An error means that the public key is none that we certify.
    pub fn encode(&self) -> Result<Vec<u8>, KeyError> {
        let kind = KeyKind::of_spki(&self.spki)?;
        let validity =
            der::sequence(&[&der::time(self.validity.not_before), &der::time(self.validity.not_after)]);
        Ok(der::sequence(&[
            &der::context_constructed(0, &[&der::unsigned(&[2])]),
            &der::unsigned(self.serial.as_bytes()),
            &self.signature_algorithm,
            &self.issuer,
            &validity,
            self.subject(),
            &self.spki,
            &der::context_constructed(3, &[&der::sequence(&[&self.extensions(kind)])]),
        ]))
    }

    fn extensions(&self, kind: KeyKind) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let key_id = der::sequence(&[&der::context_primitive(0, &self.issuer_key_id)]);
        out.extend(extension(AUTHORITY_KEY_IDENTIFIER, false, &key_id));
        if self.states_key_id() {
            let own = der::octet_string(&key_identifier(&self.spki));
            out.extend(extension(SUBJECT_KEY_IDENTIFIER, false, &own));
        }
        out.extend(extension(KEY_USAGE, true, &der::named_bits(self.profile.key_usage(kind))));
        let (server, client) = self.profile.extended_key_usage();
        if server || client {
            let server = if server { der::oid(OID_SERVER_AUTH) } else { Vec::new() };
            let client = if client { der::oid(OID_CLIENT_AUTH) } else { Vec::new() };
            out.extend(extension(EXTENDED_KEY_USAGE, false, &der::sequence(&[&server, &client])));
        }
        out.extend(extension(BASIC_CONSTRAINTS, true, &self.basic_constraints()));
        match &self.names {
            Names::SpiffeId(id) => out.extend(uri_name(id)),
            Names::Hosts { dns, ip } => out.extend(host_names(true, dns, ip)),
            Names::Subject(_) => {}
            // Critical where it is the only name, and only there (RFC 5280, 4.2.1.6).
            Names::SubjectAndHosts { dns, .. } => out.extend(host_names(false, dns, &[])),
        }
        out
    }

    /// DER leaves out a default, so a leaf's constraints are an empty sequence.
    fn basic_constraints(&self) -> Vec<u8> {
        let ca = if self.profile.is_ca() { der::boolean_true() } else { Vec::new() };
        let length = self.profile.path_length().map(|length| der::unsigned(&[length])).unwrap_or_default();
        der::sequence(&[&ca, &length])
    }
}

fn extension(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { der::boolean_true() } else { Vec::new() };
    der::sequence(&[&der::oid(&[0x55, 0x1d, id]), &critical, &der::octet_string(value)])
}

/// The subject alternative name of a SPIFFE ID; critical because the subject is empty (RFC 5280, 4.2.1.6).
pub(crate) fn uri_name(id: &SpiffeId) -> Vec<u8> {
    let names = der::sequence(&[&der::context_primitive(6, id.as_str().as_bytes())]);
    extension(SUBJECT_ALT_NAME, true, &names)
}

fn host_names(critical: bool, dns: &[String], ip: &[IpAddr]) -> Vec<u8> {
    let mut names = Vec::new();
    for host in dns {
        names.extend(der::context_primitive(2, host.as_bytes()));
    }
    for address in ip {
        names.extend(match address {
            IpAddr::V4(v4) => der::context_primitive(7, &v4.octets()),
            IpAddr::V6(v6) => der::context_primitive(7, &v6.octets()),
        });
    }
    extension(SUBJECT_ALT_NAME, critical, &der::sequence(&[&names]))
}
