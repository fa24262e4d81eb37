//! Debug output shows no key and no token. Whoever adds a type that holds one adds it here.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::SecretString;
use signet_certs::key::PrivateKey;
use zeroize::Zeroizing;

use crate::attestation::Evidence;
use crate::authority::Issuer;
use crate::authority::issuer::tests::issuer;
use crate::authority::issuing::{mint, tests::rsa_cacerts};
use crate::authority::kept::Kept;
use crate::authority::serving::ServingCertificate;
use crate::authority::tests::now;
use crate::config::Serving;
use crate::data_folder::DataFolder;
use crate::issuance_log::{IssuanceLog, Options};
use crate::sealing::Sealer;
use crate::store::MemoryStore;

/// Lists of numbers that are long enough to be a key's, whatever their base; certificates and public keys are
/// printed by their facts. Debug of bytes looks like that wherever they stand.
fn has_bytes(shown: &str, key: &PrivateKey) -> bool {
    let der = key.to_pkcs8_der();
    let forms = |bytes: &[u8]| {
        let decimal: Vec<_> = bytes.iter().map(u8::to_string).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        [decimal.join(", "), hex, bytes.escape_ascii().to_string()]
    };
    // Behind the header, which every key has, and before the public part.
    let private = der.windows(2).position(|two| two == [4, 32]).map_or(der.len() - 64, |at| at + 2);
    let pem = key.to_pkcs8_pem();
    forms(&der[private..private + 16]).iter().any(|form| shown.contains(form))
        || pem.lines().skip(1).take(2).any(|line| shown.contains(line))
}

#[tokio::test]
async fn debug_shows_no_key_and_no_token() {
    let place = tempfile::tempdir().unwrap();
    let now = now();
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzbGVlcCJ9.c2lnbmF0dXJl";
    let evidence = Evidence {
        token: Some(SecretString::from(token)),
        instance: None,
        cluster: None,
        certificates: None,
    };
    assert!(!format!("{evidence:?}").contains("eyJ"));

    // A key-encryption key, and what it seals.
    let kek = place.path().join("kek");
    std::fs::write(&kek, "5ec7e7a1".repeat(8)).unwrap();
    std::fs::set_permissions(&kek, std::fs::Permissions::from_mode(0o600)).unwrap();
    let sealer = Sealer::from_file(Some(&kek)).unwrap();
    let folder = DataFolder::open(&place.path().join("data")).unwrap().sealed_by(sealer);
    let kept = Kept::new(folder.path(), folder.sealer());
    let shown = format!("{folder:?} {kept:?} {:?}", folder.sealer());
    assert!(shown.contains("(private key)"));
    assert!(!shown.contains("5ec7e7a1") && !shown.contains("94, 199, 231, 161"), "{shown}");

    // The issuer with its issuing intermediate, and our own certificate with the key that TLS holds.
    let rsa = rsa_cacerts(1);
    let issuing = Arc::new(mint(&rsa, "cluster.local", Duration::from_secs(3600), now).unwrap());
    let trust = issuer(rsa_cacerts(1)).trust().clone();
    let issuer = Arc::new(Issuer::new(Arc::new(rsa), Some(issuing.clone()), trust));
    let log = IssuanceLog::open(&folder, Arc::<MemoryStore>::default(), &Options::default()).unwrap();
    let settings = Serving { dns: vec!["ca".into()], ip: Vec::new(), lifetime: Duration::from_secs(600) };
    let serving = ServingCertificate::new(settings, Arc::new(ArcSwap::from(issuer.clone())));
    serving.renew(&log, now).await.unwrap();
    let shown = format!("{issuer:?} {issuing:?} {issuer:#?}");
    for key in [&issuer.cacerts().ca.key, &issuing.ca.key] {
        assert!(!has_bytes(&shown, key), "{shown}");
    }
    // Nobody else has that key: Debug must say in its own words that there is one.
    let shown = format!("{serving:?}");
    assert!(shown.contains("CertifiedKey"), "{shown}");
    assert!(!shown.contains("secret") && !shown.contains("pkcs8"), "{shown}");
    let log_key = folder.read_key("log-key.pem").unwrap();
    let log_key = PrivateKey::from_pem(&Zeroizing::new(log_key.to_vec())).unwrap();
    assert!(!has_bytes(&format!("{:?} {:?}", log.verifier(), log.latest_checkpoint()), &log_key));
}
