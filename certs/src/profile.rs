//! Profiles: which usages and constraints each kind of certificate has. No caller chooses one.

use crate::key::KeyKind;

/// A kind of certificate that Signet signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// An X.509-SVID for a workload.
    Workload,
    /// The CA's own certificate for its TLS port.
    Serving,
    /// A CA under the root, which may have this many CAs beneath it.
    Intermediate {
        /// 0: it signs leaves only.
        path_length: u8,
    },
    /// A self-signed root.
    Root,
}

/// Key usage bits, counted from the highest of 16 as DER's named bits are (RFC 5280, 4.2.1.3).
pub(crate) mod key_usage {
    pub(crate) const DIGITAL_SIGNATURE: u16 = 0x8000;
    pub(crate) const KEY_ENCIPHERMENT: u16 = 0x2000;
    pub(crate) const KEY_CERT_SIGN: u16 = 0x0400;
    pub(crate) const CRL_SIGN: u16 = 0x0200;
}

impl Profile {
    /// As the issuance log names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Serving => "serving",
            Self::Intermediate { .. } => "intermediate",
            Self::Root => "root",
        }
    }

    /// Whether it may sign certificates.
    pub fn is_ca(self) -> bool {
        matches!(self, Self::Intermediate { .. } | Self::Root)
    }

    /// The path length constraint of a CA that has one.
    pub fn path_length(self) -> Option<u8> {
        match self {
            Self::Intermediate { path_length } => Some(path_length),
            _ => None,
        }
    }

    pub(crate) fn key_usage(self, kind: KeyKind) -> u16 {
        use key_usage::{CRL_SIGN, DIGITAL_SIGNATURE, KEY_CERT_SIGN, KEY_ENCIPHERMENT};
        match (self.is_ca(), kind) {
            (true, _) => KEY_CERT_SIGN | CRL_SIGN,
            (false, KeyKind::Rsa(_)) => DIGITAL_SIGNATURE | KEY_ENCIPHERMENT,
            (false, _) => DIGITAL_SIGNATURE,
        }
    }

    /// Whether the extended key usage holds (serverAuth, clientAuth).
    pub(crate) fn extended_key_usage(self) -> (bool, bool) {
        match self {
            Self::Workload => (true, true),
            Self::Serving => (true, false),
            Self::Intermediate { .. } | Self::Root => (false, false),
        }
    }
}
