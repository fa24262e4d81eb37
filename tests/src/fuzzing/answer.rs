//! What a CA says to the agent: elements of an answer (`===` before each), or (behind an `l`) the signed part
//! of a leaf in an otherwise good answer, or (behind a `w`) a message of the trust watch.

use std::slice::from_ref;

use prost::Message;
use signet_certs::chain::{Certificate, verify_svid};
use signet_certs::pem;
use signet_csr_client::fuzzing::{judge, trust};
use signet_proto::signet::trust::v1::WatchResponse;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{assert_printable, parts, pki};

/// An answer that is taken is for our key and identity, and chains to a root that came with it.
pub fn answer(data: &[u8]) {
    let elements = match data.first() {
        Some(b'w') => return statement(&data[1..]),
        Some(b'l') => {
            let (intermediate, root) = (&pki::pki().intermediate, &pki::pki().root);
            let leaf = pki::signed(&data[1..], &intermediate.key);
            let leaf = pem::encode("CERTIFICATE", &leaf);
            vec![leaf, intermediate.certificate.to_pem(), root.certificate.to_pem()]
        }
        _ => parts(data).into_iter().map(|(_, part)| String::from_utf8_lossy(part).into_owned()).collect(),
    };
    let (key, identity) = (pki::key(pki::WORKLOAD), pki::workload());
    let (leaf, intermediates, roots) = match judge(&elements, &key, &identity, pki::now()) {
        Ok(judged) => judged,
        Err(error) => return assert_printable(&error.to_string()),
    };
    let (_, parsed) = X509Certificate::from_der(leaf.der()).unwrap();
    assert_eq!(parsed.public_key().raw, key.spki());
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    let uris = names.value.general_names.iter().filter(|name| matches!(name, GeneralName::URI(_)));
    assert_eq!(uris.collect::<Vec<_>>(), [&GeneralName::URI(identity.as_str())]);
    assert!(!parsed.is_ca());
    assert!(roots.roots().iter().all(Certificate::is_self_issued));
    assert!(!intermediates.iter().any(|member| roots.roots().contains(member)));
    let last = elements.last().unwrap();
    let given = Certificate::all_from_pem(last.as_bytes()).unwrap();
    let anchors = |root: &Certificate| verify_svid(&leaf, &intermediates, from_ref(root), pki::now()).is_ok();
    assert!(given.iter().any(anchors), "no single root of the answer is its anchor");
}

/// Trust that is taken has roots of ours, and every root is one, and a certificate that it was given.
fn statement(data: &[u8]) {
    let Ok(message) = WatchResponse::decode(data) else { return };
    let own = pki::trust_domain();
    let given: Vec<_> = message.trust.iter().flat_map(|trust| &trust.bundles).cloned().collect();
    match trust(message, &own) {
        Ok(trust) => {
            assert!(!trust.bundles.get(&own).unwrap().roots().is_empty());
            for (domain, bundle) in trust.bundles.iter() {
                for root in bundle.roots() {
                    assert!(root.is_self_issued());
                    let has = given.iter().filter(|given| given.trust_domain == domain.as_str());
                    assert!(has.flat_map(|given| &given.roots).any(|der| der[..] == root.der()[..]));
                }
            }
        }
        Err(error) => assert_printable(&error.to_string()),
    }
}
