//! What several commands are told, and how its values are read.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustls_pki_types::DnsName;
use signet_certs::key::NewKey;
use thiserror::Error;

/// The upper bound of an organization and of a common name in RFC 5280.
const LONGEST_NAME: usize = 64;
const DAY: Duration = Duration::from_secs(86_400);

/// Where files go.
#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Folder to write into; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Name of a file in it that may be overwritten, such as ca-key.pem; again for each
    ///
    /// Nothing else that is there is touched. A file that is overwritten is gone, so a key should have a
    /// copy elsewhere or be of no use any more.
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub(crate) overwrite: Vec<String>,
}

/// What is said of every CA.
#[derive(Debug, Args)]
pub(crate) struct CaOptions {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Organization (O) of the subject
    #[arg(long, value_name = "NAME", default_value = "Signet", value_parser = attribute)]
    pub(crate) organization: String,
    /// Lifetime in d, h, m or s; an intermediate ends with its root at the latest
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = ca_lifetime)]
    pub(crate) lifetime: Duration,
    /// Kind of key: p256, p384, ed25519, rsa2048, rsa3072 or rsa4096
    ///
    /// P-256 unless something in the mesh cannot do without another. RSA costs at every signature: with
    /// 4096 bits some seventy times as much as P-256, so that an intermediate issues a fraction of the
    /// certificates; as a root it costs little. P-384 signs some twenty times slower than P-256. Envoy
    /// verifies what an Ed25519 CA signed, but refuses a workload that has an Ed25519 key itself.
    #[arg(long, value_name = "KIND", default_value_t = NewKey::P256)]
    pub(crate) key: NewKey,
}

/// A value that a name can carry.
pub(crate) fn attribute(text: &str) -> Result<String, AttributeError> {
    if text.is_empty() || text.chars().count() > LONGEST_NAME || text.chars().any(char::is_control) {
        return Err(AttributeError(text.chars().count()));
    }
    Ok(text.to_owned())
}

/// Why a text cannot stand in a name.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("expected 1 to {LONGEST_NAME} characters without control characters, found {0}")]
pub(crate) struct AttributeError(usize);

/// A host name that certificates can carry.
pub(crate) fn dns_name(text: &str) -> Result<String, String> {
    match DnsName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("expected a DNS name such as istiod.istio-system.svc".to_owned()),
    }
}

/// A CA's lifetime: at most a hundred years, far from the end of what certificates express.
fn ca_lifetime(text: &str) -> Result<Duration, String> {
    lifetime(text, 36_500)
}

/// A leaf's lifetime: as long as ours are at the most, since nothing takes a leaf back.
pub(crate) fn leaf_lifetime(text: &str) -> Result<Duration, String> {
    lifetime(text, 90)
}

/// Whole seconds, at most this many days.
fn lifetime(text: &str, days: u32) -> Result<Duration, String> {
    match signet_certs::duration::parse(text)? {
        lifetime if lifetime.subsec_nanos() != 0 => Err("must be whole seconds".to_owned()),
        lifetime if lifetime > DAY * days => Err(format!("must be at most {days}d")),
        lifetime => Ok(lifetime),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_whole_and_bounded() {
        assert_eq!(ca_lifetime("36500d"), Ok(DAY * 36_500));
        assert_eq!(leaf_lifetime("90d"), Ok(DAY * 90));
        for bad in ["36501d", "0s", "1500ms", "ten years", ""] {
            assert!(ca_lifetime(bad).is_err(), "{bad}");
        }
        assert_eq!(leaf_lifetime("91d"), Err("must be at most 90d".to_owned()));
    }

    #[test]
    fn names_have_the_bounds_of_rfc_5280() {
        assert!(attribute(&"ä".repeat(LONGEST_NAME)).is_ok());
        assert_eq!(attribute(&"a".repeat(LONGEST_NAME + 1)), Err(AttributeError(LONGEST_NAME + 1)));
        assert!(attribute("").is_err() && attribute("a\nb").is_err());
    }

    #[test]
    fn host_names_are_ascii_without_wildcards() {
        assert_eq!(dns_name("istiod.istio-system.svc"), Ok("istiod.istio-system.svc".to_owned()));
        for bad in ["", "*.svc", "a b", "ä", "a..b", "spiffe://td/x"] {
            assert!(dns_name(bad).is_err(), "{bad}");
        }
    }
}
