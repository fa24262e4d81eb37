//! How fast this issuer signs on this machine, what would make it faster, and which keys which peers know.

use std::time::{Duration, Instant};

use serde::Serialize;
use signet_certs::cacerts::Cacerts;
use signet_certs::key::KeyKind;

/// How long signing is measured.
pub(crate) const MEASURED: Duration = Duration::from_millis(300);
/// About as long as what is signed of a leaf.
const LEAF: [u8; 450] = [0x5a; 450];

/// A measurement and its reading.
#[derive(Debug, Serialize)]
pub(crate) struct Speed {
    /// The signing key's kind.
    pub(crate) key: String,
    /// On one core of this machine, without anything else that issuing takes.
    pub(crate) signatures_per_second: u64,
    /// What would make it faster; what peers can make of the key.
    pub(crate) advice: Vec<String>,
}

impl Speed {
    /// Signs for `time` on this thread. A key that cannot sign counts nothing.
    pub(crate) fn measured(cacerts: &Cacerts, time: Duration) -> Self {
        let (key, begun) = (&cacerts.ca.key, Instant::now());
        let mut signed = 0_u32;
        while begun.elapsed() < time && key.sign(&LEAF).is_ok() {
            signed += 1;
        }
        let per_second = f64::from(signed) / begun.elapsed().as_secs_f64();
        Self {
            key: key.kind().to_string(),
            signatures_per_second: per_second.round() as u64,
            advice: advice(key.kind(), cacerts),
        }
    }
}

fn advice(kind: KeyKind, cacerts: &Cacerts) -> Vec<String> {
    let mut advice = Vec::new();
    match kind {
        KeyKind::P256 => advice.push("P-256 is the fastest kind that every peer verifies".to_owned()),
        KeyKind::Rsa(_) if cacerts.crl.is_some() => advice.push(
            "a P-256 intermediate signs many times as fast: make one under the root (certs intermediate); \
                one that the CA makes under this RSA key by itself is no way here, since ca-crl.pem would \
                have to cover it"
                .to_owned(),
        ),
        KeyKind::Rsa(_) if !cacerts.has_room_below() => advice.push(
            "the path lengths of this chain let the RSA key sign leaves only; with one more \
                (pathlen:1 in its own) it could have a P-256 intermediate of the CA's own below it, which signs many times as \
                fast; a P-256 intermediate under the root in its place does the same"
                .to_owned(),
        ),
        KeyKind::Rsa(_) => advice.push(
            "its path length leaves room for a P-256 intermediate below it, which signs many times as fast"
                .to_owned(),
        ),
        KeyKind::P384 => advice.push(
            "P-384 is slow to sign and to verify for every peer; P-256 signs some 25 times as fast. Keep \
                P-384 for roots"
                .to_owned(),
        ),
        KeyKind::Ed25519 => advice.push(
            "OpenSSL, Go and rustls (ztunnel) verify Ed25519 issuers; Envoy does not offer Ed25519 in its \
                handshakes, and builds for FIPS may lack it altogether: try it with one proxy first, or \
                use P-256"
                .to_owned(),
        ),
    }
    advice.push(
        "keys of leaves are chosen by their proxies: RSA of 2048 bits or more and P-256 work with every \
            Envoy, P-384 from Envoy 1.33 on, Ed25519 with none"
            .to_owned(),
    );
    advice
}
