//! What the headers of a call mean, for every service on the issuing port.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use secrecy::SecretString;
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

/// Where a call comes from; every connection of the issuing port has an address.
pub fn address<T>(request: &tonic::Request<T>) -> IpAddr {
    let peer = request.extensions().get::<PeerAddress>();
    peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip())
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
    fn request_ids_differ() {
        let ids = RequestIds::new(0xabc);
        assert_eq!((ids.next(), ids.next()), ("00000abc-1".to_owned(), "00000abc-2".to_owned()));
    }
}
