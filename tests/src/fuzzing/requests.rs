//! Messages that the CA receives: CreateCertificate, or (behind a `w`) the trust watch's.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use prost::Message;
use signet_ca_server::attestation::Caller;
use signet_ca_server::authority::Issuer;
use signet_ca_server::config::Lifetimes;
use signet_ca_server::issuance_log::EvidenceEntry;
use signet_ca_server::policy::decide;
use signet_ca_server::store::MemoryStore;
use signet_ca_server::trust::consumers::Consumers;
use signet_ca_server::trust::{Trust, same_for_all};
use signet_certs::ca::Ca;
use signet_certs::cacerts::Cacerts;
use signet_certs::chain::{Certificate, verify_svid};
use signet_certs::check::Bounds;
use signet_certs::csr::VerifiedCsr;
use signet_proto::istio::v1::auth::IstioCertificateRequest;
use signet_proto::signet::trust::v1::WatchRequest;

use super::{assert_printable, pki};

const LIFETIMES: Lifetimes =
    Lifetimes { default: Duration::from_secs(86_400), maximum: Duration::from_secs(90 * 86_400) };

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let (intermediate, root) = (&pki::pki().intermediate.certificate, &pki::pki().root.certificate);
    let ca = Ca { certificate: intermediate.clone(), key: pki::key(pki::INTERMEDIATE) };
    let cacerts = Cacerts::of(ca, vec![intermediate.clone()], root.clone(), vec![root.clone()]);
    let bundles = same_for_all(&[pki::trust_domain()].into(), &cacerts.roots);
    let trust = Trust { epoch: 1, sequence: 1, digest: bundles.digest(), bundles, crls: Default::default() };
    Issuer::new(Arc::new(cacerts), None, Arc::new(trust))
});

/// Whatever is asked, the caller gets its own identity or nothing.
pub fn requests(data: &[u8]) {
    if let Some(b'w') = data.first() {
        return acknowledged(&data[1..]);
    }
    let Ok(message) = IstioCertificateRequest::decode(data) else { return };
    let request = signet_ca_server::fuzzing::request(message);
    let caller = caller();
    let grant = match decide(&caller, &request.asked, LIFETIMES) {
        Ok(grant) => grant,
        Err(denied) => return assert_printable(&denied.to_string()),
    };
    assert_eq!(grant.identity, caller.identity);
    assert!(grant.lifetime <= LIFETIMES.maximum && grant.lifetime >= Duration::from_secs(1));
    let Ok(csr) = VerifiedCsr::from_pem(&request.csr) else { return };
    let bounds = Bounds { now: pki::now(), maximum: LIFETIMES.maximum };
    let signed = ISSUER.sign_workload(&csr, &grant, bounds).unwrap();
    let answer = ISSUER.answer(&signed, &pki::trust_domain());
    assert_eq!(answer.len(), 3);
    let parts: Vec<_> = answer.iter().map(|part| Certificate::from_pem(part.as_bytes()).unwrap()).collect();
    let identity = verify_svid(&parts[0], &parts[1..2], &parts[2..], pki::now()).unwrap();
    assert_eq!(identity, caller.identity);
    assert_eq!(parts[0].facts().spki, csr.spki());
    assert_eq!(parts[0].facts().validity.not_after, pki::now() + grant.lifetime);
}

/// A statement leaves one bounded fact under the caller's name, or none.
fn acknowledged(data: &[u8]) {
    let Ok(WatchRequest { acknowledgement: Some(acknowledgement) }) = WatchRequest::decode(data) else {
        return;
    };
    let consumers = Consumers::new(Arc::new(MemoryStore::default()));
    match consumers.record(&caller(), &acknowledgement, pki::now()) {
        Ok(()) => {
            let facts = consumers.list(10).unwrap();
            let [fact] = facts.as_slice() else { panic!("{} facts", facts.len()) };
            assert_eq!((fact.identity.as_str(), fact.instance.as_str()), (caller().identity.as_str(), "pod"));
            assert_eq!(fact.roots.len(), acknowledgement.roots.len());
            assert!(fact.roots.len() <= 256 && fact.errors.len() <= 8);
            assert!(fact.roots.iter().all(|root| ["held", "not held", "unknown"].contains(&&*root.holding)));
            assert!(serde_json::to_vec(fact).unwrap().len() < 1 << 20);
        }
        Err(error) => assert_printable(&error.to_string()),
    }
}

fn caller() -> Caller {
    Caller {
        issuer_key_ids: Vec::new(),
        identity: pki::workload(),
        namespace: "default".to_owned(),
        service_account: "reviews".to_owned(),
        instance: Some("pod".to_owned()),
        evidence: EvidenceEntry::default(),
        expires: SystemTime::UNIX_EPOCH,
        cluster: None,
    }
}
