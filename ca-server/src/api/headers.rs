//! What the headers of a call mean, for every service on the issuing port.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use secrecy::SecretString;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::MetadataMap;

use super::listener::PeerAddress;
use crate::attestation::Evidence;

/// The agent's own id, for those whose token names no pod.
const INSTANCE: &str = "x-signet-instance";
const BEARER: &str = "Bearer ";

/// The evidence of a call: its headers', and what its connection presented.
pub fn evidence_of<T>(call: &tonic::Request<T>) -> Evidence {
    let certificates = call.extensions().get::<PeerAddress>().and_then(|peer| peer.1.clone());
    Evidence { certificates, ..evidence(call.metadata()) }
}

/// The evidence in a call's headers: of all `authorization` values the first with the scheme `Bearer` counts;
/// `clusterid` counts only if it is given once.
pub fn evidence(headers: &MetadataMap) -> Evidence {
    let values = headers.get_all("authorization");
    let token = values
        .iter()
        .filter_map(|value| value.to_str().ok()?.strip_prefix(BEARER))
        .next()
        .map(|token| SecretString::from(token.trim()));
    let single = |name: &str| {
        let mut values = headers.get_all(name).iter();
        let first = values.next()?.to_str().ok()?;
        values.next().is_none().then(|| first.to_owned())
    };
    Evidence { token, instance: single(INSTANCE), cluster: single("clusterid"), certificates: None }
}

/// Whether a caller understands when to come again: our agent does, and names itself.
pub fn reads_hints(headers: &HeaderMap) -> bool {
    headers.contains_key(INSTANCE)
}

/// How long the caller waits for its answer (gRPC over HTTP/2, `grpc-timeout`: up to eight digits and a unit),
/// if it says so in a way that can be read.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Names a request in logs and records: this process, then a count.
pub struct RequestIds {
    process: String,
    next: AtomicU64,
}

impl RequestIds {
    /// Ids that begin with these eight hex digits.
    pub fn new(process: u32) -> Self {
        Self { process: format!("{process:08x}"), next: AtomicU64::new(1) }
    }

    /// Another id.
    pub fn next(&self) -> String {
        format!("{}-{}", self.process, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use secrecy::ExposeSecret;

    fn headers(pairs: &[(&'static str, &'static str)]) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn token(pairs: &[(&'static str, &'static str)]) -> Option<String> {
        evidence(&headers(pairs)).token.map(|token| token.expose_secret().to_owned())
    }

    #[test]
    fn the_first_bearer_of_all_authorizations_counts() {
        assert_eq!(token(&[]), None);
        assert_eq!(token(&[("authorization", "Basic x")]), None);
        assert_eq!(
            token(&[("authorization", "bearer x")]),
            None,
            "the scheme is case-sensitive, as istiod's"
        );
        let several =
            [("authorization", "Basic x"), ("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert_eq!(token(&several).as_deref(), Some("a"));
    }

    #[test]
    fn the_cluster_counts_only_if_it_is_given_once() {
        assert_eq!(evidence(&headers(&[("clusterid", "a")])).cluster.as_deref(), Some("a"));
        assert_eq!(evidence(&headers(&[("clusterid", "a"), ("clusterid", "b")])).cluster, None);
    }

    #[test]
    fn a_caller_s_own_time_limit_is_read_and_nonsense_is_none() {
        let of = |text: &str| {
            timeout(&HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), text.parse().unwrap())]))
        };
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("2S"), Some(Duration::from_secs(2)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for nonsense in ["", "m", "5", "5x", "-5S", "123456789S", "5 S", "+5S"] {
            assert_eq!(of(nonsense), None, "{nonsense:?}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn request_ids_differ() {
        let ids = RequestIds::new(0xabc);
        assert_eq!((ids.next(), ids.next()), ("00000abc-1".to_owned(), "00000abc-2".to_owned()));
    }
}
