//! Certificate signing requests: PEM, DER, or (behind an `i`) the part that is signed.

use signet_certs::chain::{Certificate, verify_svid};
use signet_certs::check::{Bounds, check};
use signet_certs::csr::VerifiedCsr;
use signet_certs::pem;
use signet_certs::sign::sign;
use signet_certs::template::Template;
use std::slice::from_ref;
use std::time::Duration;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;

use super::{assert_printable, pki};

/// What is accepted is one DER value whose own key signed it, by another parser's word too, and gets a good
/// certificate for that key.
pub fn csr(data: &[u8]) {
    let (der, read) = match data.first() {
        Some(b'i') => {
            let der = pki::signed(&data[1..], &pki::key(pki::WORKLOAD));
            let read = VerifiedCsr::from_der(&der);
            (der, read)
        }
        Some(0x30) => (data.to_vec(), VerifiedCsr::from_der(data)),
        _ => {
            let Ok(text) = str::from_utf8(data) else { return };
            let der = pem::only(text).map(|block| block.der).unwrap_or_default();
            (der, VerifiedCsr::from_pem(text))
        }
    };
    match read {
        Ok(csr) => accepted(&csr, &der),
        Err(error) => assert_printable(&error.to_string()),
    }
}

fn accepted(csr: &VerifiedCsr, der: &[u8]) {
    let (rest, request) = X509CertificationRequest::from_der(der).unwrap();
    assert!(rest.is_empty());
    assert_eq!(request.certification_request_info.subject_pki.raw, csr.spki());
    match request.verify_signature() {
        // P-256 with SHA-384 and the like.
        Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => {}
        Err(error) => panic!("another parser refuses the signature: {error}"),
    }
    assert_eq!(VerifiedCsr::from_pem(&pem::encode("CERTIFICATE REQUEST", der)).as_ref(), Ok(csr));
    let asked = csr.asked();
    assert!(asked.names.len() <= 8);
    asked.names.iter().chain(&asked.subject).for_each(|text| assert_printable(text));
    let template = Template { spki: csr.spki().to_vec(), ..pki::leaf_template() };
    let bounds = Bounds { now: pki::now(), maximum: Duration::from_secs(86_400) };
    let checked = check(&template, bounds).unwrap();
    let leaf = sign(&checked, &pki::pki().intermediate.key).unwrap();
    let leaf = Certificate::from_der(leaf.to_vec()).unwrap();
    assert_eq!(leaf.facts().spki, csr.spki());
    let (between, root) = (&pki::pki().intermediate.certificate, &pki::pki().root.certificate);
    let identity = verify_svid(&leaf, from_ref(between), from_ref(root), pki::now()).unwrap();
    assert_eq!(identity, pki::workload(), "whatever the request asks for");
}
