//! Roots, intermediates and leaves of the library, over keys of every kind that OpenSSL makes.

use std::net::{IpAddr, Ipv4Addr};

use signet_certs::ca::Ca;
use signet_certs::chain::Certificate;
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::name::ca_name;
use signet_certs::profile::Profile;
use signet_certs::template::Names;

use super::openssl::{Bench, Chain, ED25519, P256, P384, RSA_2048, RSA_4096, leaf, svid, two_days};

/// A root over `root.key` and an intermediate over `ca.key`, both of one kind.
fn authority(bench: &Bench, kind: &[&str]) -> (Ca, Ca) {
    for name in ["root.key", "ca.key"] {
        bench.key(name, kind);
    }
    let root =
        Ca::root(ca_name("Signet", None, "Root CA"), two_days(), bench.private_key("root.key")).unwrap();
    let subject = ca_name("Signet", Some("cluster1"), "Intermediate CA");
    let ca = root.intermediate(subject, 0, two_days(), bench.private_key("ca.key")).unwrap();
    (root, ca)
}

fn chain(leaf: Certificate, ca: &Ca, root: &Ca) -> Chain {
    Chain { leaf, intermediates: vec![ca.certificate.clone()], root: root.certificate.clone() }
}

#[test]
fn every_kind_of_issuer_certifies_every_kind_of_leaf_key() {
    let bench = Bench::new();
    let leaf_keys: Vec<_> = [RSA_2048, RSA_4096, P256, P384, ED25519]
        .into_iter()
        .map(|kind| (kind, bench.key("leaf.key", kind)))
        .collect();
    for issuer_kind in [P256, P384, ED25519, RSA_2048] {
        let (root, ca) = authority(&bench, issuer_kind);
        for (leaf_kind, spki) in &leaf_keys {
            println!("{leaf_kind:?} under {issuer_kind:?}");
            bench.assert_accepted(&chain(svid(&ca, spki), &ca, &root));
        }
        let direct = svid(&root, &leaf_keys[0].1);
        bench.assert_accepted(&Chain { leaf: direct, intermediates: vec![], root: root.certificate.clone() });
    }
}

#[test]
fn the_judges_refuse_a_chain_that_is_not_whole() {
    let bench = Bench::new();
    let (root, ca) = authority(&bench, P256);
    let spki = bench.key("leaf.key", P256);
    let without = Chain { intermediates: vec![], ..chain(svid(&ca, &spki), &ca, &root) };
    assert!(bench.verify("sslserver", &without).unwrap_err().contains("unable to get local issuer"));
    assert_eq!(without.webpki(), Err(webpki::Error::UnknownIssuer));
    let (stranger, _) = authority(&bench, P256);
    let wrong = chain(svid(&ca, &spki), &ca, &stranger);
    assert!(bench.verify("sslclient", &wrong).is_err());
    assert!(wrong.webpki().is_err());
}

#[test]
fn a_serving_certificate_is_for_its_names_and_for_servers_only() {
    let bench = Bench::new();
    let (root, ca) = authority(&bench, P256);
    let names = Names::Hosts {
        dns: vec!["localhost".into(), "istiod.istio-system.svc".into()],
        ip: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
    };
    let serving = leaf(&ca, Profile::Serving, names, &bench.key("leaf.key", P256));
    let chain = chain(serving, &ca, &root);
    assert_eq!(bench.verify("sslserver", &chain), Ok(()));
    assert!(bench.verify("sslclient", &chain).is_err());
    let text = bench.text(&chain.leaf);
    assert!(text.contains("DNS:localhost, DNS:istiod.istio-system.svc, IP Address:127.0.0.1"), "{text}");
}

#[test]
fn an_intermediate_signs_no_intermediate() {
    let bench = Bench::new();
    let (root, ca) = authority(&bench, P256);
    bench.key("below.key", P256);
    let subject = ca_name("Signet", None, "One too many");
    let below = ca.intermediate(subject, 0, two_days(), bench.private_key("below.key")).unwrap();
    let leaf = svid(&below, &bench.key("leaf.key", P256));
    let intermediates = vec![below.certificate, ca.certificate];
    let chain = Chain { leaf, intermediates, root: root.certificate };
    assert!(bench.verify("sslserver", &chain).unwrap_err().contains("path length constraint exceeded"));
    assert!(chain.webpki().is_err());
}

#[test]
fn keys_load_in_every_form_that_openssl_writes() {
    let bench = Bench::new();
    let loads = |name: &str, spki: &[u8]| {
        let key = PrivateKey::from_pem(&bench.read(name)).unwrap();
        assert_eq!(key.spki(), spki, "{name}");
    };
    let rsa = bench.key("rsa.pem", RSA_2048);
    bench.openssl(&["rsa", "-in", "rsa.pem", "-traditional", "-out", "pkcs1.pem"]);
    loads("rsa.pem", &rsa);
    loads("pkcs1.pem", &rsa);
    for curve in ["prime256v1", "secp384r1"] {
        bench.openssl(&["ecparam", "-name", curve, "-genkey", "-out", "parameters.pem"]);
        let spki = bench.openssl(&["pkey", "-in", "parameters.pem", "-pubout", "-outform", "DER"]);
        bench.openssl(&["ec", "-in", "parameters.pem", "-out", "sec1.pem"]);
        bench.openssl(&["pkey", "-in", "parameters.pem", "-out", "pkcs8.pem"]);
        for name in ["parameters.pem", "sec1.pem", "pkcs8.pem"] {
            loads(name, &spki);
        }
    }
    loads("ed.pem", &bench.key("ed.pem", ED25519));
}

#[test]
fn keys_that_cannot_sign_are_refused_by_name() {
    let bench = Bench::new();
    let refusal = |name: &str| PrivateKey::from_pem(&bench.read(name)).unwrap_err();
    bench.key("p256.pem", P256);
    bench.openssl(&["pkey", "-in", "p256.pem", "-aes256", "-passout", "pass:x", "-out", "encrypted.pem"]);
    assert_eq!(refusal("encrypted.pem"), KeyError::Encrypted);
    bench.openssl(&["ec", "-in", "p256.pem", "-no_public", "-out", "half.pem"]);
    assert_eq!(refusal("half.pem"), KeyError::NoPublicPart);
    bench.key("p521.pem", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    assert!(matches!(refusal("p521.pem"), KeyError::Kind(_)));
    bench.key("1024.pem", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    assert_eq!(refusal("1024.pem"), KeyError::RsaSize(1024));
    bench.key("pss.pem", &["-algorithm", "RSA-PSS"]);
    assert_eq!(refusal("pss.pem"), KeyError::Pss);
}
