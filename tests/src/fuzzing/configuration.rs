//! Configuration files, as the CA and as the agent read them. Files that they name are not looked at.

use clap::Command;
use signet_csr_client::config::{self, Purpose};
use signet_service::settings::Faults;

use super::assert_printable;

/// What is accepted keeps the bounds that the documents give; what is refused is named, a line for each fault.
pub fn configuration(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, data).unwrap();
    let path = path.to_str().unwrap();
    match signet_ca_server::fuzzing::configuration(path) {
        Ok(config) => {
            assert!(config.lifetimes.default <= config.lifetimes.maximum);
            assert!(config.lifetimes.default.subsec_nanos() == 0 && !config.lifetimes.default.is_zero());
            assert!(!config.token_issuers.is_empty());
            for issuer in &config.token_issuers {
                assert!(!issuer.issuer.is_empty() && !issuer.audiences.is_empty());
                let ours = |audience| issuer.audiences.contains(audience);
                assert!(!issuer.api_server_audiences.iter().any(ours));
            }
            let limits = config.limits;
            for count in
                [limits.connections, limits.handshakes, limits.in_flight, limits.queue, limits.watches]
            {
                assert!((1..=10_000_000).contains(&count));
            }
        }
        Err(faults) => named(&faults),
    }
    let agent = |purpose| {
        let flags = Command::new("run").args(config::arguments());
        config::load(&flags.get_matches_from(["run", "--config", path]), |_| None, purpose)
    };
    match agent(Purpose::Run) {
        Ok(config) => {
            assert!(
                (0.0..=1.0).contains(&config.renewal.ratio) && (0.0..=1.0).contains(&config.renewal.jitter)
            );
            assert!(config.sds_socket.is_some() || config.output_certs.is_some());
            assert!(config.ca.url.starts_with("https://") && !config.ca.name.is_empty());
            assert!(config.ca.url.parse::<tonic::transport::Uri>().is_ok(), "{}", config.ca.url);
            agent(Purpose::Fetch).unwrap();
        }
        Err(faults) => named(&faults),
    }
}

/// As many lines as are announced, each with a key, and nothing that steers a terminal.
fn named(faults: &Faults) {
    let text = faults.to_string();
    let mut lines = text.lines();
    let announced = lines.next().unwrap();
    let expected = match announced.strip_prefix("the configuration has ").unwrap() {
        "a fault:" => 1,
        many => many.strip_suffix(" faults:").unwrap().parse().unwrap(),
    };
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), expected, "{text:?}");
    for line in lines {
        assert_printable(line);
        assert!(line.starts_with("  ") && line.contains("): "), "{line:?}");
    }
}
