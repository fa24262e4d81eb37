//! What a client receives for a request, element by element, and what each kind of client makes of it.

use serde::Serialize;
use signet_certs::bundle::TrustBundle;
use signet_certs::cacerts::Cacerts;
use signet_certs::chain::Certificate;
use signet_certs::name;

/// The answer to a certificate request, and what becomes of it.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    /// `cert_chain` of the answer, in order.
    pub(crate) elements: Vec<Element>,
    /// What each kind of client makes of the elements.
    pub(crate) clients: Vec<Client>,
}

/// One string of `cert_chain`.
#[derive(Debug, Serialize)]
pub(crate) struct Element {
    /// `leaf`, `issuing-intermediate`, `intermediate` or `roots`.
    pub(crate) kind: &'static str,
    /// What it holds.
    pub(crate) certificates: Vec<Held>,
    /// Byte for byte; nothing for the leaf, which is made for each request, and for the issuing intermediate,
    /// which the CA makes at each start.
    pub(crate) pem: Option<String>,
}

/// A certificate in an element.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    /// For reading.
    pub(crate) subject: String,
    /// Hex.
    pub(crate) serial: String,
}

/// A kind of client.
#[derive(Debug, Serialize)]
pub(crate) struct Client {
    /// Who it is.
    pub(crate) name: &'static str,
    /// What it does with the elements.
    pub(crate) takes: Vec<String>,
}

impl Answer {
    /// What this CA answers.
    pub(crate) fn of(cacerts: &Cacerts) -> Self {
        let mut elements = vec![Element {
            kind: "leaf",
            certificates: vec![Held {
                subject: "(empty; the SPIFFE ID is its one URI name)".to_owned(),
                serial: "(new for each request)".to_owned(),
            }],
            pem: None,
        }];
        elements.extend(cacerts.is_better_with_issuing_intermediate().then(issuing));
        elements.extend(
            cacerts.intermediates.iter().map(|one| element("intermediate", std::slice::from_ref(one))),
        );
        // As the CA writes a bundle: in the order of its bytes.
        elements.push(element("roots", TrustBundle::new(cacerts.roots.clone()).roots()));
        let clients = clients(elements.len(), cacerts.crl.is_some());
        Self { elements, clients }
    }
}

fn issuing() -> Element {
    let subject =
        "(P-256, made by ca-server; none with --issuing-intermediate off, nor for lifetimes beyond its own)";
    Element {
        kind: "issuing-intermediate",
        certificates: vec![Held { subject: subject.to_owned(), serial: "(new at each start)".to_owned() }],
        pem: None,
    }
}

fn element(kind: &'static str, certificates: &[Certificate]) -> Element {
    let held = |one: &Certificate| Held {
        subject: name::display(&one.facts().subject),
        serial: one.facts().serial.to_string(),
    };
    Element {
        kind,
        certificates: certificates.iter().map(held).collect(),
        pem: Some(certificates.iter().map(Certificate::to_pem).collect()),
    }
}

fn up_to(last: usize) -> String {
    if last == 1 { "element 1".to_owned() } else { format!("elements 1 to {last}") }
}

/// Elements are counted from 1, and the last is `last`.
fn clients(last: usize, crl: bool) -> Vec<Client> {
    let middle = match last {
        2 => "none".to_owned(),
        3 => "element 2".to_owned(),
        _ => format!("elements 2 to {}", last - 1),
    };
    let mut envoy = vec![
        format!("secret default, certificate_chain: elements 1 to {last} joined, the roots with them"),
        format!("secret ROOTCA, trusted_ca: element {last}"),
    ];
    if crl {
        envoy.push("secret ROOTCA, crl: the file ca-crl.pem, where the pod has it mounted".to_owned());
    }
    vec![
        Client { name: "Envoy behind Istio's agent (SDS)", takes: envoy },
        Client {
            name: "Istio's agent (OUTPUT_CERTS)",
            takes: vec![
                format!("cert-chain.pem: elements 1 to {last} joined"),
                format!("root-cert.pem: element {last}"),
                "expiry, and with it the time of renewal: the first certificate of element 1".to_owned(),
            ],
        },
        Client {
            name: "Envoy behind Signet's agent (SDS)",
            takes: vec![
                format!("secret default, certificate_chain: {} joined", up_to(last - 1)),
                format!("secret ROOTCA, trusted_ca: element {last}"),
            ],
        },
        Client {
            name: "ztunnel",
            takes: vec![
                "certificate: element 1".to_owned(),
                format!("intermediates: {middle}, one certificate each"),
                format!("roots: element {last}"),
            ],
        },
    ]
}
