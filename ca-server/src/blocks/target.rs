//! Whom a block is for: what may be named, and whether somebody, or a recorded certificate, is meant.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use signet_certs::digest::hex;
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::SpiffeId;

use crate::attestation::Caller;
use crate::issuance_log::CertificateEntry;

/// Longest name of a node (a DNS-1123 subdomain) or uid, in bytes.
const LONGEST_NAME: usize = 253;

/// Who is blocked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "kebab-case")]
pub enum Target {
    /// A SPIFFE ID.
    Identity(String),
    /// The uid of a pod, as tokens name it.
    Pod(String),
    /// The name or the uid of a node, as tokens name it.
    Node(String),
    /// A chain of renewals by certificate, by the serial of its first certificate; hex as [`Serial`] prints it.
    Serial(String),
    /// A CA's subject key identifier, in lower-case hex.
    IssuerKey(String),
}

impl Target {
    /// What an operator named; the error says what was expected.
    pub fn parse(kind: &str, value: &str) -> Result<Self, String> {
        let name = |what: &str| match value.len() {
            1..=LONGEST_NAME if value.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(value.to_owned()),
            _ => Err(format!("{value:?} is not {what}")),
        };
        match kind {
            "identity" => match SpiffeId::parse(value) {
                Ok(identity) => Ok(Self::Identity(identity.as_str().to_owned())),
                Err(error) => Err(format!("{value:?} is not a SPIFFE ID: {error}")),
            },
            "pod" => name("the uid of a pod").map(Self::Pod),
            "node" => name("the name or uid of a node").map(Self::Node),
            "serial" => match Serial::parse(value) {
                Some(serial) => Ok(Self::Serial(serial.to_string())),
                None => Err(format!("{value:?} is not a serial number in hex")),
            },
            "issuer-key" => {
                let digits = value.len().is_multiple_of(2) && !value.is_empty();
                match digits && value.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    true => Ok(Self::IssuerKey(value.to_ascii_lowercase())),
                    false => Err(format!("{value:?} is not a key id in hex")),
                }
            }
            other => Err(format!(
                "expected identity, pod, node, serial or issuer-key to be blocked, found {other:?}"
            )),
        }
    }

    /// As [`Target::parse`] takes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Identity(_) => "identity",
            Self::Pod(_) => "pod",
            Self::Node(_) => "node",
            Self::Serial(_) => "serial",
            Self::IssuerKey(_) => "issuer-key",
        }
    }

    /// Without its kind.
    pub fn value(&self) -> &str {
        match self {
            Self::Identity(value)
            | Self::Pod(value)
            | Self::Node(value)
            | Self::Serial(value)
            | Self::IssuerKey(value) => value,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.value())
    }
}

/// Targets by what they name, each with the id of its block: one hash lookup for each kind. A changed copy
/// shares what did not change.
#[derive(Debug, Clone, Default)]
pub(super) struct Targets {
    identities: Names,
    pods: Names,
    nodes: Names,
    serials: Names,
    issuer_keys: Names,
}

type Names = Arc<HashMap<Box<str>, u64>>;

impl Targets {
    pub(super) fn insert(&mut self, target: &Target, id: u64) {
        Arc::make_mut(self.names_mut(target)).insert(target.value().into(), id);
    }

    pub(super) fn remove(&mut self, target: &Target) {
        Arc::make_mut(self.names_mut(target)).remove(target.value());
    }

    pub(super) fn find(&self, target: &Target) -> Option<u64> {
        let names = match target {
            Target::Identity(_) => &self.identities,
            Target::Pod(_) => &self.pods,
            Target::Node(_) => &self.nodes,
            Target::Serial(_) => &self.serials,
            Target::IssuerKey(_) => &self.issuer_keys,
        };
        names.get(target.value()).copied()
    }

    fn names_mut(&mut self, target: &Target) -> &mut Names {
        match target {
            Target::Identity(_) => &mut self.identities,
            Target::Pod(_) => &mut self.pods,
            Target::Node(_) => &mut self.nodes,
            Target::Serial(_) => &mut self.serials,
            Target::IssuerKey(_) => &mut self.issuer_keys,
        }
    }

    pub(super) fn len(&self) -> usize {
        [&self.identities, &self.pods, &self.nodes, &self.serials, &self.issuer_keys]
            .map(|all| all.len())
            .iter()
            .sum()
    }

    /// The block of a caller, and of which kind it is.
    pub(super) fn of_caller(&self, caller: &Caller) -> Option<(u64, &'static str)> {
        let evidence = &caller.evidence;
        let found = |names: &Names, name: &str, kind| Some((*names.get(name)?, kind));
        found(&self.identities, caller.identity.as_str(), "identity")
            .or_else(|| found(&self.pods, &evidence.pod_uid, "pod"))
            .or_else(|| found(&self.nodes, &evidence.node_name, "node"))
            .or_else(|| found(&self.nodes, &evidence.node_uid, "node"))
            .or_else(|| {
                let renewal = evidence.renewal.as_ref()?;
                found(&self.serials, &Serial::from_bytes(&renewal.first).to_string(), "serial")
            })
            .or_else(|| {
                let mut ids = caller.issuer_key_ids.iter();
                ids.find_map(|id| found(&self.issuer_keys, &hex(id), "issuer-key"))
            })
    }

    /// The blocks that a recorded workload certificate comes under; one may be there twice. The key that
    /// signed it is [`Targets::of_key`]'s.
    pub(super) fn of_record(&self, certificate: &CertificateEntry) -> impl Iterator<Item = u64> {
        let evidence = &certificate.evidence;
        let serial = |bytes: &[u8]| Serial::from_bytes(bytes).to_string();
        let first = evidence.renewal.as_ref().map_or(&certificate.serial, |renewal| &renewal.first);
        let serials = (!self.serials.is_empty()).then(|| self.serials.get(serial(first).as_str())).flatten();
        [
            self.identities.get(certificate.identity.as_str()),
            self.pods.get(evidence.pod_uid.as_str()),
            self.nodes.get(evidence.node_name.as_str()),
            self.nodes.get(evidence.node_uid.as_str()),
            serials,
        ]
        .into_iter()
        .flatten()
        .copied()
    }

    /// The block of a CA key.
    pub(super) fn of_key(&self, key_id: &[u8]) -> Option<u64> {
        if self.issuer_keys.is_empty() {
            return None;
        }
        self.issuer_keys.get(hex(key_id).as_str()).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::issuance_log::RenewalEntry;
    use crate::policy::tests::caller;
    use std::time::SystemTime;

    #[test]
    fn what_is_named_becomes_one_spelling_or_is_refused() {
        let parsed = |kind, value| Target::parse(kind, value).map(|target| target.to_string());
        for (kind, value, spelled) in [
            ("identity", "spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b"),
            ("pod", "0a1b-2c", "0a1b-2c"),
            ("node", "node-1.example", "node-1.example"),
            ("serial", "0x40:AB", "000000000000000000000000000040ab"),
            ("issuer-key", "00FF", "00ff"),
        ] {
            let target = Target::parse(kind, value).unwrap();
            assert_eq!((target.kind(), target.value()), (kind, spelled));
            assert_eq!(Target::parse(kind, spelled).unwrap(), target);
        }
        for (kind, value, what) in [
            ("identity", "reviews", "not a SPIFFE ID"),
            ("identity", "", "not a SPIFFE ID"),
            ("pod", "", "not the uid of a pod"),
            ("pod", "a b", "not the uid of a pod"),
            ("node", "\n", "not the name or uid of a node"),
            ("serial", "xyz", "not a serial number in hex"),
            ("serial", "", "not a serial number in hex"),
            ("issuer-key", "abc", "not a key id in hex"),
            ("issuer-key", "", "not a key id in hex"),
            ("issuer-key", "é1", "not a key id in hex"),
            ("person", "x", "expected identity, pod"),
        ] {
            let error = parsed(kind, value).unwrap_err();
            assert!(error.contains(what), "{kind} {value:?}: {error}");
        }
    }

    #[test]
    fn each_kind_finds_its_callers_and_nobody_else() {
        let mut meant = caller();
        meant.evidence.pod_uid = "pod-uid".into();
        meant.evidence.node_name = "node-1".into();
        meant.evidence.node_uid = "node-uid".into();
        let renewal =
            RenewalEntry { predecessor: vec![2], first: vec![1], token_time: SystemTime::UNIX_EPOCH };
        meant.evidence.renewal = Some(renewal);
        meant.issuer_key_ids = vec![vec![0xaa], vec![0xbb]];
        for (kind, value) in [
            ("identity", meant.identity.as_str()),
            ("pod", "pod-uid"),
            ("node", "node-1"),
            ("node", "node-uid"),
            ("serial", "01"),
            ("issuer-key", "aa"),
            ("issuer-key", "bb"),
        ] {
            let mut targets = Targets::default();
            assert_eq!(targets.of_caller(&meant), None);
            let target = Target::parse(kind, value).unwrap();
            targets.insert(&target, 7);
            assert_eq!(
                (targets.of_caller(&meant), targets.find(&target)),
                (Some((7, kind)), Some(7)),
                "{target}"
            );
            let mut other = caller();
            other.identity = SpiffeId::parse("spiffe://cluster.local/ns/default/sa/other").unwrap();
            assert_eq!(targets.of_caller(&other), None, "{target}");
            targets.remove(&target);
            assert_eq!((targets.of_caller(&meant), targets.len()), (None, 0));
        }
    }
}
