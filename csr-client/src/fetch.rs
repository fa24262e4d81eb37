//! `csr-client fetch`: one certificate, once, for trying things out and for scripts.
//!
//! It keeps no state: it believes the configured roots, names no instance, and retries nothing.

use crate::config::Config;
use crate::request::{Answer, RequestError, Requester};
use crate::sink::files::{self, FilesError};
use serde::Serialize;
use signet_certs::clock::rfc3339;

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No certificate.
    #[error("no certificate")]
    Request(#[from] RequestError),
    /// A certificate, and no files.
    #[error("the certificate came and could not be written")]
    Files(#[from] FilesError),
}

/// What came, as `-o json` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetched {
    spiffe_id: String,
    serial_number: String,
    not_before: String,
    not_after: String,
    /// Leaf and intermediates as PEM.
    certificate_chain: String,
    /// All roots as PEM.
    roots: String,
    /// Where the files are.
    output_certs: Option<String>,
}

/// Asks once; writes the files if a folder is configured.
pub async fn fetch(config: &Config) -> Result<Fetched, FetchError> {
    let Answer { svid, trust } = Requester::new(config, None).obtain(None).await?;
    let bundle = trust.bundles.get(config.spiffe_id.trust_domain()).cloned().unwrap_or_default();
    if let Some(folder) = &config.output_certs {
        files::write(folder, &svid, &bundle, &trust.crls, config.include_roots_in_chain)?;
    }
    let lifetime = svid.lifetime();
    Ok(Fetched {
        spiffe_id: config.spiffe_id.to_string(),
        serial_number: svid.serial().to_string(),
        not_before: rfc3339(lifetime.not_before),
        not_after: rfc3339(lifetime.not_after),
        certificate_chain: svid.chain_pem(),
        roots: bundle.to_pem(),
        output_certs: config.output_certs.as_ref().map(|folder| folder.display().to_string()),
    })
}

impl std::fmt::Display for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |pem: &str| pem.matches("-----BEGIN").count();
        writeln!(f, "SPIFFE ID      {}", self.spiffe_id)?;
        writeln!(f, "SERIAL NUMBER  {}", self.serial_number)?;
        writeln!(f, "NOT BEFORE     {}", self.not_before)?;
        writeln!(f, "NOT AFTER      {}", self.not_after)?;
        write!(
            f,
            "CHAIN          {} certificates, {} roots",
            count(&self.certificate_chain),
            count(&self.roots)
        )?;
        match &self.output_certs {
            Some(folder) => write!(f, "\nWRITTEN TO     {folder}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::FakeCa;
    use tonic::Status;

    #[tokio::test]
    async fn what_came_is_shown_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = FakeCa::start().await;
        let fetched = fetch(&ca.config(folder.path())).await.unwrap();
        assert!(ca.seen.recv().await.unwrap().headers.get("x-signet-instance").is_none());
        let text = fetched.to_string();
        assert!(text.contains("spiffe://cluster.local/ns/default/sa/reviews"), "{text}");
        assert!(text.contains("2 certificates, 1 roots"), "{text}");
        let written = std::fs::read_to_string(folder.path().join("certs").join("cert-chain.pem")).unwrap();
        assert_eq!(written, fetched.certificate_chain);
        assert!(!folder.path().join("state").exists());
        let json = serde_json::to_value(&fetched).unwrap();
        assert_eq!(json["serialNumber"].as_str(), Some(fetched.serial_number.as_str()));
        assert!(!json.to_string().contains("PRIVATE KEY"));
    }

    #[tokio::test]
    async fn failures_to_ask_and_to_write_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let config = ca.config(folder.path());
        std::fs::write(folder.path().join("certs"), "a file").unwrap();
        assert!(matches!(fetch(&config).await, Err(FetchError::Files(_))));
        ca.behave(|_| Err(Status::unauthenticated("request authenticate failure")));
        assert!(matches!(fetch(&config).await, Err(FetchError::Request(_))));
    }
}
