//! Debug output shows no private key. Whoever adds a type that holds one adds it here.
#![allow(clippy::unwrap_used)]

use zeroize::Zeroizing;

use signet_certs::ca::Ca;
use signet_certs::cacerts::{CA_KEY, Cacerts, Folder};
use signet_certs::clock::from_unix;
use signet_certs::key::{NewKey, PrivateKey};
use signet_certs::name::ca_name;
use signet_certs::validity::Validity;

/// Every form in which Debug might show these bytes: as numbers, in hex, as text.
fn forms(secret: &[u8]) -> Vec<String> {
    let listed =
        |one: fn(&u8) -> String, between: &str| secret.iter().map(one).collect::<Vec<_>>().join(between);
    let decimal = |byte: &u8| byte.to_string();
    vec![
        listed(decimal, ", "),
        listed(decimal, ","),
        listed(|byte| format!("{byte:02x}"), ""),
        listed(|byte| format!("{byte:02X}"), ":"),
        secret.escape_ascii().to_string(),
    ]
}

#[test]
fn debug_shows_no_private_key() {
    for kind in [NewKey::P256, NewKey::P384, NewKey::Ed25519, NewKey::Rsa2048] {
        let key = PrivateKey::generate(kind).unwrap();
        // The tail of an EC key is its public part: what is private stands in the middle.
        let der = key.to_pkcs8_der().to_vec();
        let begin = der
            .windows(2)
            .position(|two| two == [4, 32] || two == [4, 48])
            .map_or(der.len() - 64, |at| at + 2);
        let mut secrets = forms(&der[begin..begin + 24]);
        let pem = key.to_pkcs8_pem();
        secrets.push(pem.lines().nth(1).unwrap().to_owned());
        let life = Validity { not_before: from_unix(1_800_000_000), not_after: from_unix(1_900_000_000) };
        let mut folder = Folder::new();
        folder.insert(CA_KEY, Ok(Zeroizing::new(pem.as_bytes().to_vec())));
        let mut shown = vec![format!("{key:?}"), format!("{folder:?}")];
        let ca = Ca::root(ca_name("Signet", None, "Root CA"), life, key).unwrap();
        shown.push(format!("{ca:?} {ca:#?}"));
        let root = ca.certificate.clone();
        let cacerts = Cacerts::of(ca, Vec::new(), root.clone(), vec![root]);
        shown.push(format!("{cacerts:?} {cacerts:#?}"));
        for shown in shown {
            assert!(!shown.is_empty());
            assert!(secrets.iter().all(|secret| !shown.contains(secret)), "{kind}: {shown}");
        }
    }
}
