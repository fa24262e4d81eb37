//! A token before its signature: whom it is for, and claims that may be changed into anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

/// The lifetime that Istio asks of its projected tokens.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Who a token is for, in Kubernetes' words.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The namespace of the service account and of the pod.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// The pod that the token is bound to.
    pub pod: Option<Object>,
    /// The node that the pod runs on.
    pub node: Option<Object>,
}

impl Subject {
    /// A service account, bound to no pod.
    pub fn new(namespace: &str, service_account: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: None,
            node: None,
        }
    }

    /// The same account, its token bound to a pod on a node, as the kubelet projects it.
    #[must_use]
    pub fn on(mut self, pod: Object, node: Object) -> Self {
        self.pod = Some(pod);
        self.node = Some(node);
        self
    }
}

/// A Kubernetes object that a token names.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its uid, a UUID.
    pub uid: String,
}

impl Object {
    /// The object of this name; the uid follows from the name, so that the same name is the same object.
    pub fn named(name: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, name.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_ref()[..16]);
        Self { name: name.to_owned(), uid: uuid(bytes) }
    }

    fn claim(&self) -> Value {
        json!({ "name": self.name, "uid": self.uid })
    }
}

/// A token before its signature. Header and claims are free to be changed into anything.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The JOSE header: `alg` and `kid`.
    pub header: Value,
    /// The claims.
    pub claims: Value,
}

impl Draft {
    pub(super) fn new(
        header: Value,
        issuer: &str,
        audience: &str,
        subject: &Subject,
        now: SystemTime,
    ) -> Self {
        let Subject { namespace, service_account, pod, node } = subject;
        let account = Object::named(&format!("{namespace}/{service_account}")).uid;
        let mut kubernetes = json!({
            "namespace": namespace,
            "serviceaccount": { "name": service_account, "uid": account },
        });
        for (name, object) in [("pod", pod), ("node", node)] {
            if let Some(object) = object {
                kubernetes[name] = object.claim();
            }
        }
        let claims = json!({
            "aud": [audience],
            "exp": unix(now + DEFAULT_LIFETIME),
            "iat": unix(now),
            "nbf": unix(now),
            "iss": issuer,
            "jti": random_uuid(),
            "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
            "kubernetes.io": kubernetes,
        });
        Self { header, claims }
    }

    /// The draft with another end, whether in the future or the past.
    #[must_use]
    pub fn expiring(mut self, at: SystemTime) -> Self {
        self.claims["exp"] = json!(unix(at));
        self
    }

    /// The draft with `alg: none` and an empty signature: never acceptable.
    pub fn unsigned(&self) -> String {
        format!("{}.", self.with_algorithm("none").signing_input())
    }

    pub(super) fn with_algorithm(&self, name: &str) -> Self {
        let mut draft = self.clone();
        draft.header["alg"] = json!(name);
        draft
    }

    /// What the signature is over.
    pub(super) fn signing_input(&self) -> String {
        format!("{}.{}", base64url(self.header.to_string()), base64url(self.claims.to_string()))
    }
}

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).expect("tokens are of times after 1970").as_secs()
}

fn random_uuid() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel has random numbers by the time that programs run");
    uuid(bytes)
}

// RFC 9562: version 4, the version of Kubernetes' uids, also where the bytes are a hash of a name.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
