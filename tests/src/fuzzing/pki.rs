//! A root and an intermediate that are the same in every run, so that what was signed once verifies for ever,
//! and signatures for whatever a target is given.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use signet_certs::ca::Ca;
use signet_certs::chain::Certificate;
use signet_certs::check::{Bounds, check};
use signet_certs::clock::from_unix;
use signet_certs::key::{PrivateKey, key_identifier};
use signet_certs::name::ca_name;
use signet_certs::profile::Profile;
use signet_certs::serial::Serial;
use signet_certs::sign::sign;
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};
use signet_certs::template::{Names, Template};
use signet_certs::validity::{BACKDATE, Validity};
use zeroize::Zeroizing;

/// Seeds of the keys.
pub const ROOT: u8 = 1;
/// Of the intermediate.
pub const INTERMEDIATE: u8 = 2;
/// Of the workload that asks.
pub const WORKLOAD: u8 = 3;

const DAY: Duration = Duration::from_secs(86_400);

/// The moment of everything here.
pub fn now() -> SystemTime {
    from_unix(1_800_000_000)
}

/// The trust domain of everything here.
pub fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

/// The identity of the workload that asks.
pub fn workload() -> SpiffeId {
    SpiffeId::workload(&trust_domain(), "default", "reviews").unwrap()
}

/// The Ed25519 key with this seed: its signatures are the same in every run too.
pub fn key(seed: u8) -> PrivateKey {
    let before = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    PrivateKey::from_pkcs8(Zeroizing::new([&before[..], &[seed; 32]].concat())).unwrap()
}

/// A root and an intermediate under it.
pub struct Pki {
    /// Self-signed.
    pub root: Ca,
    /// Signs leaves.
    pub intermediate: Ca,
}

/// The one that there is.
pub fn pki() -> &'static Pki {
    static PKI: LazyLock<Pki> = LazyLock::new(|| {
        let subject = ca_name("Signet", None, "Root CA");
        let template = ca_template(Profile::Root, ROOT, Names::Subject(subject.clone()), &key(ROOT), subject);
        let root = Ca { certificate: signed_template(&template, &key(ROOT)), key: key(ROOT) };
        let names = Names::Subject(ca_name("Signet", Some("cluster1"), "Intermediate CA"));
        let issuer = root.certificate.facts().subject.clone();
        let profile = Profile::Intermediate { path_length: 0 };
        let template = Template {
            issuer_key_id: root.certificate.key_id(),
            ..ca_template(profile, INTERMEDIATE, names, &key(INTERMEDIATE), issuer)
        };
        let certificate = signed_template(&template, &root.key);
        Pki { root, intermediate: Ca { certificate, key: key(INTERMEDIATE) } }
    });
    &PKI
}

/// A good leaf for the workload, as bytes to be signed.
pub fn leaf_template() -> Template {
    let ca = &pki().intermediate.certificate;
    let names = Names::SpiffeId(workload());
    Template {
        validity: Validity { not_before: now() - BACKDATE, not_after: now() + DAY },
        issuer_key_id: ca.key_id(),
        ..ca_template(Profile::Workload, WORKLOAD, names, &key(WORKLOAD), ca.facts().subject.clone())
    }
}

fn ca_template(profile: Profile, serial: u8, names: Names, key: &PrivateKey, issuer: Vec<u8>) -> Template {
    Template {
        profile,
        serial: Serial::from_bytes(&[0x40 | serial; 16]),
        validity: Validity { not_before: now() - BACKDATE, not_after: now() + DAY * 3650 },
        names,
        spki: key.spki().to_vec(),
        issuer,
        issuer_key_id: key_identifier(key.spki()),
        signature_algorithm: key.algorithm_identifier().to_vec(),
    }
}

fn signed_template(template: &Template, key: &PrivateKey) -> Certificate {
    let now = template.validity.not_before + BACKDATE;
    let maximum = template.validity.not_after.duration_since(now).unwrap();
    let checked = check(template, Bounds { now, maximum }).unwrap();
    Certificate::from_der(sign(&checked, key).unwrap().to_vec()).unwrap()
}

/// Whatever bytes as the signed part of a certificate, a CRL or a request.
pub fn signed(part: &[u8], key: &PrivateKey) -> Vec<u8> {
    let signature = [&[0], &key.sign(part).unwrap()[..]].concat();
    sequence(&[part, key.algorithm_identifier(), &tlv(3, &signature)])
}

/// A DER sequence of these parts.
pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    match content.len() {
        short @ 0..0x80 => [&[tag, short as u8], content].concat(),
        _ => [&[tag, 0x80 | length.len() as u8], length, content].concat(),
    }
}
