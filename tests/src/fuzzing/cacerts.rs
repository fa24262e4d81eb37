//! A folder of CA files: files one behind the other (`=== ca-cert.pem`), or (behind a `c`) the signed part of
//! a signing certificate under a good root, or (behind an `l`) of a CRL.

use std::slice::from_ref;
use std::time::Duration;

use signet_certs::cacerts::{
    CA_CERT, CA_CRL, CA_KEY, CERT_CHAIN, Cacerts, Finding, Folder, Judged, NAMES, ROOT_CERT,
};
use signet_certs::chain::{Certificate, verify_svid};
use signet_certs::change::{self, Verdict};
use signet_certs::check::Bounds;
use signet_certs::key::PrivateKey;
use signet_certs::pem;
use signet_certs::profile::Profile;
use signet_certs::template::Names;
use signet_certs::validity;

use super::{assert_printable, parts, pki};

const HOUR: Duration = Duration::from_secs(3600);

/// A folder has faults or loads, and what loads signs leaves that verify under its own root.
pub fn cacerts(data: &[u8]) {
    let folder = match data.first() {
        Some(b'c') => signer(&data[1..]),
        Some(b'l') => crl(&data[1..]),
        _ => files(data),
    };
    let judged = Judged::of(&folder, pki::now());
    assert_ne!(judged.cacerts.is_some(), !judged.faults.is_empty(), "faults, or a CA");
    judged
        .faults
        .iter()
        .chain(&judged.notes)
        .chain(&judged.ends_soon(HOUR, pki::now()))
        .for_each(is_said_well);
    if let Some(cacerts) = &judged.cacerts {
        loaded(cacerts);
    }
}

fn files(data: &[u8]) -> Folder {
    let mut folder = Folder::new();
    for (name, content) in parts(data) {
        if let Some(known) = NAMES.into_iter().find(|known| known.as_bytes() == name) {
            folder.insert(known, Ok(content.to_vec().into()));
        }
    }
    folder
}

fn signer(tbs: &[u8]) -> Folder {
    let root = &pki::pki().root;
    let certificate = pem::encode("CERTIFICATE", &pki::signed(tbs, &root.key));
    good(&certificate, &pki::key(pki::INTERMEDIATE))
}

fn crl(tbs: &[u8]) -> Folder {
    let (root, intermediate) = (&pki::pki().root, &pki::pki().intermediate);
    let mut folder = good(&intermediate.certificate.to_pem(), &intermediate.key);
    let both = [&root.key, &intermediate.key].map(|key| pem::encode("X509 CRL", &pki::signed(tbs, key)));
    folder.insert(CA_CRL, Ok(both.concat().into_bytes().into()));
    folder
}

fn good(certificate: &str, key: &PrivateKey) -> Folder {
    Folder::from([
        (CA_CERT, certificate.as_bytes().to_vec()),
        (CA_KEY, key.to_pkcs8_pem().as_bytes().to_vec()),
        (CERT_CHAIN, certificate.as_bytes().to_vec()),
        (ROOT_CERT, pki::pki().root.certificate.to_pem().into_bytes()),
    ])
}

fn is_said_well(finding: &Finding) {
    for text in [&finding.what, &finding.todo] {
        assert_printable(text);
        assert!(!text.is_empty());
    }
    assert!(NAMES.contains(&finding.file) && !finding.code.is_empty() && !finding.why.is_empty());
    if let Some(named) = &finding.certificate {
        assert_printable(&named.subject);
    }
}

fn loaded(cacerts: &Cacerts) {
    assert_eq!(change::compare(cacerts, cacerts).verdict, Verdict::Same);
    assert!(cacerts.roots.contains(&cacerts.anchor));
    let Ok(validity) = validity::leaf(pki::now(), HOUR, cacerts.validities()) else {
        // It ends this very second.
        return;
    };
    let key = pki::key(pki::WORKLOAD);
    let names = Names::SpiffeId(pki::workload());
    let template = cacerts.ca.template(Profile::Workload, names, key.spki().to_vec(), validity).unwrap();
    let leaf = cacerts.ca.sign(&template, Bounds { now: pki::now(), maximum: HOUR }).unwrap();
    let leaf = Certificate::from_der(leaf.to_vec()).unwrap();
    if let Err(error) = verify_svid(&leaf, &cacerts.intermediates, from_ref(&cacerts.anchor), pki::now()) {
        panic!("a CA that loads signs what does not verify: {error}");
    }
}
