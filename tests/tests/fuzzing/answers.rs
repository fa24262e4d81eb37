//! Messages: of the CA to the agent, of agents and Istio's clients to the CA, of Envoys to the agent.

use prost::Message;
use prost_types::value::Kind;
use signet_certs::csr;
use signet_proto::envoy::config::core::v3::Node;
use signet_proto::envoy::service::discovery::v3::DiscoveryRequest;
use signet_proto::google::rpc;
use signet_proto::istio::v1::auth::IstioCertificateRequest;
use signet_proto::signet::trust::v1::{
    Acknowledgement, HeldRoot, Subscribers, Trust, TrustBundle, WatchRequest, WatchResponse,
};
use signet_tests::fuzzing::pki;

use super::{Bench, seed};

pub(super) fn answers() {
    let (root, intermediate) = (&pki::pki().root.certificate, &pki::pki().intermediate.certificate);
    let part = pki::leaf_template().encode().unwrap();
    seed("answer", "to-sign-good", [b"l", &part[..]].concat());
    let mut other = pki::leaf_template();
    other.spki = pki::key(9).spki().to_vec();
    seed("answer", "to-sign-for-another-key", [b"l", &other.encode().unwrap()[..]].concat());
    let leaf = pki::signed(&part, &pki::key(pki::INTERMEDIATE));
    let leaf = signet_certs::pem::encode("CERTIFICATE", &leaf);
    let (between, top) = (intermediate.to_pem(), root.to_pem());
    let elements = |all: &[&str]| all.iter().map(|one| format!("=== \n{one}")).collect::<String>();
    seed("answer", "good", elements(&[&leaf, &between, &top]));
    seed("answer", "in-one-element", elements(&[&format!("{leaf}{between}"), &top]));
    seed("answer", "root-repeated", elements(&[&leaf, &between, &top, &top]));
    seed("answer", "no-intermediate", elements(&[&leaf, &top]));
    seed("answer", "no-root", elements(&[&leaf, &between]));
    seed("answer", "a-ca-for-a-leaf", elements(&[&between, &top]));
    seed("answer", "empty-element", elements(&[&leaf, "", &top]));
    let root = || root.der().to_vec();
    let trust = |trust_domain: &str, roots| Trust {
        epoch: 1,
        sequence: 2,
        digest: vec![7; 32],
        bundles: vec![TrustBundle { trust_domain: trust_domain.to_owned(), roots }],
        ..Trust::default()
    };
    for (name, trust) in [
        ("trust", Some(trust("cluster.local", vec![root(), intermediate.der().to_vec()]))),
        ("trust-of-others", Some(trust("other", vec![root()]))),
        ("trust-damaged", Some(trust("cluster.local", vec![root()[..40].to_vec()]))),
        ("trust-empty", None),
    ] {
        seed("answer", name, [b"w", &WatchResponse { trust }.encode_to_vec()[..]].concat());
    }
}

pub(super) fn messages(bench: &Bench) {
    let good = csr::create(&pki::key(pki::WORKLOAD), &pki::workload()).unwrap();
    let openssl = signet_tests::harness::openssl::csr(bench.path(), "p-256", &[]);
    let metadata = |key: &str, kind| prost_types::Struct {
        fields: [(key.to_owned(), prost_types::Value { kind: Some(kind) })].into(),
    };
    let text = |text: &str| Kind::StringValue(text.to_owned());
    let mine = pki::workload().to_string();
    for (name, csr, validity_duration, metadata) in [
        ("good", &good, 3600, None),
        ("default-lifetime", &openssl, 0, Some(metadata("CertSigner", text("x")))),
        ("negative", &good, -1, None),
        ("too-long", &good, i64::MAX, None),
        ("own-identity", &good, 1, Some(metadata("ImpersonatedIdentity", text(&mine)))),
        ("another-identity", &good, 1, Some(metadata("ImpersonatedIdentity", text("spiffe://x/y")))),
        ("a-number", &good, 1, Some(metadata("ImpersonatedIdentity", Kind::NumberValue(1.5)))),
        ("empty", &String::new(), 1, None),
    ] {
        let request = IstioCertificateRequest { csr: csr.clone(), validity_duration, metadata };
        seed("requests", name, request.encode_to_vec());
    }
    let root = |holding| HeldRoot { trust_domain: "cluster.local".into(), digest: vec![7; 32], holding };
    let statement = Acknowledgement {
        epoch: 1,
        sequence: 2,
        digest: vec![7; 32],
        roots: vec![root(1), root(2), root(99)],
        serving_serial: vec![9; 16],
        subscribers: Some(Subscribers { connected: 1, acknowledged: 1, ..Subscribers::default() }),
        errors: vec!["x".repeat(300)],
    };
    let many = Acknowledgement {
        roots: vec![HeldRoot::default(); 257],
        errors: vec![String::new(); 20],
        ..Acknowledgement::default()
    };
    for (name, acknowledgement) in
        [("statement", Some(statement)), ("too-many", Some(many)), ("silent", None)]
    {
        seed("requests", name, [b"w", &WatchRequest { acknowledgement }.encode_to_vec()[..]].concat());
    }
}

/// A step of a subscriber.
fn step(what: u8, stream: u8, body: &[u8]) -> Vec<u8> {
    [&[stream << 4 | what, u8::try_from(body.len()).unwrap()], body].concat()
}

pub(super) fn streams() {
    let request = |node: &str, names: &[&str], nonce: &str, error: Option<&str>| {
        let request = DiscoveryRequest {
            node: Some(Node { id: node.to_owned(), ..Node::default() }).filter(|node| !node.id.is_empty()),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            error_detail: error.map(|text| rpc::Status {
                code: 3,
                message: text.to_owned(),
                details: vec![],
            }),
            ..DiscoveryRequest::default()
        };
        request.encode_to_vec()
    };
    let both = ["default", "ROOTCA"];
    let served = [step(1, 0, &[0]), step(2, 0, &[0])].concat();
    let open = |node: &str, names: &[&str]| step(0, 0, &request(node, names, "", None));
    let accept = step(10, 0, &request("", &both, "", None));
    for (name, steps) in [
        ("accepted", vec![open("a", &both), step(5, 0, &[]), accept.clone()]),
        (
            "rejected",
            vec![open("a", &both), step(5, 0, &[]), step(10, 0, &request("", &both, "", Some("bad")))],
        ),
        (
            "roots-change",
            vec![
                open("a", &["ROOTCA"]),
                step(5, 0, &[]),
                accept.clone(),
                step(1, 0, &[1]),
                step(5, 0, &[]),
                step(11, 0, &request("", &["ROOTCA"], "", None)),
                step(10, 0, &request("", &["ROOTCA"], "", None)),
            ],
        ),
        (
            "unsubscribed",
            vec![
                open("a", &both),
                step(5, 0, &[]),
                step(10, 0, &request("", &[], "", None)),
                step(5, 0, &[]),
                step(10, 0, &request("", &["default"], "", None)),
                step(5, 0, &[]),
            ],
        ),
        (
            "two-nodes",
            vec![
                open("a", &both),
                open("b", &["ROOTCA"]),
                step(5, 0, &[]),
                step(5, 1, &[]),
                accept.clone(),
                step(10, 1, &request("", &["ROOTCA"], "", None)),
                step(4, 0, &[]),
            ],
        ),
        (
            "two-streams-of-a-node",
            vec![open("a", &["default"]), open("a", &["ROOTCA"]), step(5, 0, &[]), step(5, 1, &[]), accept],
        ),
        (
            "unknown-name",
            vec![open("a", &["x"]), open("a", &[]), step(8, 0, &request("", &["y"], "n", None))],
        ),
        ("no-node", vec![open("", &both)]),
    ] {
        seed("sds", name, [&served[..], &steps.concat()].concat());
    }
    seed("sds", "nothing-served", [open("a", &both), step(5, 0, &[]), served, step(5, 0, &[])].concat());
}
