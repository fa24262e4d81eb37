//! Secret discovery: what several streams of subscribers do one after the other. A step is what happens and on
//! which stream (1 byte), a length (1 byte) and so many bytes of a DiscoveryRequest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use prost::Message;
use signet_certs::bundle::{Bundles, TrustBundle};
use signet_certs::ca::Ca;
use signet_certs::chain::Certificate;
use signet_certs::key::PrivateKey;
use signet_certs::name::ca_name;
use signet_certs::validity::{BACKDATE, Validity};
use signet_csr_client::fuzzing::Sds;
use signet_csr_client::trust::{Trust, Version};
use signet_proto::envoy::config::core::v3::data_source::Specifier;
use signet_proto::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use signet_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
};
use signet_proto::signet::trust::v1::Holding;

use super::{assert_printable, pki};

/// So many steps are taken.
const STEPS: usize = 64;

/// Roots and leaves that are valid now, by the machine's clock, since that is what is served.
static MADE: LazyLock<Vec<Ca>> = LazyLock::new(|| {
    let now = SystemTime::now();
    let validity = Validity { not_before: now - BACKDATE, not_after: now + Duration::from_secs(864_000) };
    let root = |name| Ca::root(ca_name("Signet", None, name), validity, PrivateKey::generate_p256().unwrap());
    vec![root("A").unwrap(), root("B").unwrap()]
});

/// One stream, as a subscriber sees it.
#[derive(Default)]
struct Seen {
    node: String,
    observer: bool,
    watched: BTreeSet<String>,
    /// Of the last response, unless it unsubscribed since.
    last: Option<String>,
    /// Nonces that were sent, each with the roots that came along.
    sent: Vec<(String, BTreeSet<Vec<u8>>)>,
    /// Roots of every response that was accepted.
    accepted: BTreeSet<Vec<u8>>,
}

impl Seen {
    fn asks(&mut self, request: &DiscoveryRequest) {
        if request.error_detail.is_some() {
            return;
        }
        let (names, nonce) = (&request.resource_names, &request.response_nonce);
        let begins = nonce.is_empty() || self.watched.is_empty() || names.is_empty();
        if begins || self.last.as_ref() == Some(nonce) {
            self.watched = names.iter().cloned().collect();
        }
        if names.is_empty() {
            self.last = None;
        }
        for (of, roots) in &self.sent {
            if of == nonce {
                self.accepted.extend(roots.iter().cloned());
            }
        }
    }
}

/// A stream gets what it watches and nothing else, a rejection is no question, and no root is stated as held
/// that some subscriber has not accepted.
pub fn sds(data: &[u8]) {
    let mut sds = Sds::new(pki::trust_domain());
    let mut seen: BTreeMap<usize, Seen> = BTreeMap::new();
    let mut rest = data;
    for _ in 0..STEPS {
        let [what, length, more @ ..] = rest else { break };
        let (body, behind) = more.split_at(more.len().min(usize::from(*length)));
        rest = behind;
        let stream = seen.keys().nth(usize::from(what >> 4)).copied();
        step(&mut sds, &mut seen, what & 0x0f, stream, body);
        check_statement(&sds, &seen);
    }
}

fn step(sds: &mut Sds, seen: &mut BTreeMap<usize, Seen>, what: u8, stream: Option<usize>, body: &[u8]) {
    let request = || DiscoveryRequest::decode(body).ok();
    match (what, stream) {
        (0, _) => {
            let Some(first) = request() else { return };
            let node = first.node.clone().unwrap_or_default();
            let fields = node.metadata.unwrap_or_default().fields;
            let observer = fields.get("signet_observer").and_then(|value| value.kind.clone());
            let observer = observer == Some(prost_types::value::Kind::BoolValue(true));
            let mut new = Seen { node: node.id, observer, ..Seen::default() };
            new.asks(&first);
            if let Ok(stream) = sds.open(first) {
                seen.insert(stream, new);
            }
        }
        (1, _) => sds.serve_trust(trust(body.first().copied().unwrap_or_default())),
        (2, _) => sds.serve_leaf(
            &MADE[usize::from(body.first().is_some_and(|byte| byte & 1 == 1))].certificate,
            &pki::key(pki::WORKLOAD),
        ),
        (3, _) => drop(DeltaDiscoveryRequest::decode(body)),
        (4, Some(stream)) => {
            sds.close(stream);
            seen.remove(&stream);
        }
        (5..=7, Some(stream)) => answers(sds, seen, stream),
        (8.., Some(stream)) => {
            let Some(mut request) = request() else { return };
            let one = seen.get_mut(&stream).unwrap();
            // Nonces are random: the last, the one before, and so on.
            if let Some(back) = usize::from(what).checked_sub(10)
                && let Some((nonce, _)) = one.sent.iter().nth_back(back)
            {
                request.response_nonce.clone_from(nonce);
            }
            let rejects = request.error_detail.is_some();
            if rejects {
                answers(sds, seen, stream);
            }
            let one = seen.get_mut(&stream).unwrap();
            if !rejects {
                one.asks(&request);
            }
            if let Err(status) = sds.take(stream, request) {
                assert_printable(status.message());
                seen.remove(&stream);
                return;
            }
            assert!(!rejects || sds.answer(stream).is_none(), "a rejection is answered");
        }
        _ => {}
    }
}

/// Takes what is due; after one response nothing is due until something changes.
fn answers(sds: &mut Sds, seen: &mut BTreeMap<usize, Seen>, stream: usize) {
    let Some(response) = sds.answer(stream) else { return };
    assert!(sds.answer(stream).is_none(), "the same is due again and again");
    let one = seen.get_mut(&stream).unwrap();
    let (names, roots) = read(&response);
    assert!(!names.is_empty() && !response.nonce.is_empty());
    assert!(one.sent.iter().all(|(nonce, _)| *nonce != response.nonce));
    assert!(names.iter().all(|name| one.watched.contains(name)), "{names:?} and {:?}", one.watched);
    one.last = Some(response.nonce.clone());
    one.sent.push((response.nonce, roots));
}

fn read(response: &DiscoveryResponse) -> (Vec<String>, BTreeSet<Vec<u8>>) {
    let secrets = response.resources.iter().map(|any| Secret::decode(&any.value[..]).unwrap());
    let (mut names, mut roots) = (Vec::new(), BTreeSet::new());
    for secret in secrets {
        if let Some(secret::Type::ValidationContext(context)) = secret.r#type
            && let Some(Specifier::InlineBytes(pem)) = context.trusted_ca.and_then(|source| source.specifier)
        {
            let all = Certificate::all_from_pem(&pem).unwrap();
            roots.extend(all.iter().map(|root| root.digest().to_vec()));
        }
        names.push(secret.name);
    }
    (names, roots)
}

/// The first root, both, or the second.
fn trust(which: u8) -> Trust {
    let roots = match which % 3 {
        0 => &MADE[..1],
        1 => &MADE[..],
        _ => &MADE[1..],
    };
    let roots = roots.iter().map(|root| root.certificate.clone()).collect();
    Trust {
        version: Some(Version { epoch: 1, sequence: u64::from(which) }),
        bundles: Bundles::of(pki::trust_domain(), TrustBundle::new(roots)),
        crls: Default::default(),
        first_contact: "fuzzing".to_owned(),
    }
}

fn check_statement(sds: &Sds, seen: &BTreeMap<usize, Seen>) {
    let Some(stated) = sds.state() else { return };
    let open = || seen.values().filter(|one| !one.observer);
    let nodes: BTreeSet<_> = open().map(|one| one.node.as_str()).collect();
    let subscribers = stated.subscribers.unwrap();
    assert_eq!(subscribers.connected as usize, nodes.len());
    assert!(subscribers.acknowledged + subscribers.rejected <= subscribers.connected);
    assert!(stated.errors.len() <= 8 && stated.errors.iter().all(|text| text.len() <= 256));
    for root in stated.roots.iter().filter(|root| root.holding() == Holding::Held) {
        for node in &nodes {
            let mut streams = open().filter(|one| one.node == *node);
            assert!(streams.any(|one| one.accepted.contains(&root.digest)), "{node} has not accepted it");
        }
        let mut taking = open().filter(|one| one.watched.contains("ROOTCA"));
        assert!(taking.all(|one| one.accepted.contains(&root.digest)), "a stream has not accepted it");
    }
}
