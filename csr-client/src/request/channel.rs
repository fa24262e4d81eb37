//! The TLS connection to the CA, and whom it believes.
//!
//! The last good bundle counts. The configured file counts at the first contact, and again when it is not
//! the file that the bundle began with: then somebody has put a new one there on purpose.

use crate::config::{Ca, CaRoot};
use crate::identity::Svid;
use crate::trust::Trust;
use signet_certs::bundle::TrustBundle;
use signet_certs::chain::{Certificate, CertificateError};
use signet_certs::digest::{hex, sha256};
use signet_certs::pem;
use signet_certs::spiffe_id::TrustDomain;
use std::path::PathBuf;
use std::time::Duration;
use tonic::transport::{Certificate as TlsCertificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Time between signs of life on a connection.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The configured roots cannot be read.
    #[error("reading the CA's roots {path}", path = path.display())]
    Unreadable {
        /// The configured file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
    /// The configured roots are not certificates.
    #[error("reading the CA's roots {path}", path = path.display())]
    NotRoots {
        /// The configured file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: CertificateError,
    },
    /// The operating system has no roots.
    #[error("the operating system has no trusted roots")]
    NoSystemRoots,
    /// TCP or TLS failed.
    #[error("connecting to {url} as {name}")]
    Transport {
        /// Where to.
        url: String,
        /// The name that is verified.
        name: String,
        /// What TCP or TLS said.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Whom a connection believes.
pub(super) struct Anchors {
    /// PEM.
    roots: String,
    /// Names the configured roots: `SYSTEM` or the SHA-256 of the file.
    pub(super) first_contact: String,
}

impl Anchors {
    /// These and nobody else.
    pub(super) fn only(roots: &TrustBundle) -> Self {
        Self { roots: roots.to_pem(), first_contact: String::new() }
    }

    /// From what is held and what is configured.
    pub(super) async fn find(
        configured: &CaRoot,
        held: Option<&Trust>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, ConnectError> {
        let own = held.and_then(|held| Some((held, held.bundles.get(trust_domain)?)));
        let Some((held, bundle)) = own else { return Self::configured(configured).await };
        let bundle = bundle.to_pem();
        match Self::configured(configured).await {
            Ok(first) if first.first_contact != held.first_contact => {
                Ok(Self { roots: bundle + "\n" + &first.roots, first_contact: first.first_contact })
            }
            // A file that was lost after the first contact is not missed.
            _ => Ok(Self { roots: bundle, first_contact: held.first_contact.clone() }),
        }
    }

    async fn configured(root: &CaRoot) -> Result<Self, ConnectError> {
        match root {
            CaRoot::System => {
                let found = rustls_native_certs::load_native_certs().certs;
                if found.is_empty() {
                    return Err(ConnectError::NoSystemRoots);
                }
                let roots = found.iter().map(|der| pem::encode("CERTIFICATE", der)).collect();
                Ok(Self { roots, first_contact: "SYSTEM".into() })
            }
            CaRoot::File(path) => {
                let content = tokio::fs::read(path)
                    .await
                    .map_err(|source| ConnectError::Unreadable { path: path.clone(), source })?;
                let roots = Certificate::all_from_pem(&content)
                    .map_err(|source| ConnectError::NotRoots { path: path.clone(), source })?;
                let roots = roots.iter().map(Certificate::to_pem).collect();
                Ok(Self { roots, first_contact: hex(&sha256(&content)) })
            }
        }
    }
}

/// Connects once, as the holder of `shown` if there is one; the channel reconnects by itself with the same.
pub(super) async fn connect(
    ca: &Ca,
    anchors: &Anchors,
    shown: Option<&Svid>,
) -> Result<Channel, ConnectError> {
    let failed = |source| ConnectError::Transport { url: ca.url.clone(), name: ca.name.clone(), source };
    let tls = ClientTlsConfig::new()
        .domain_name(&ca.name)
        .ca_certificate(TlsCertificate::from_pem(&anchors.roots))
        .timeout(ca.timeout);
    let tls = match shown {
        Some(svid) => tls.identity(Identity::from_pem(svid.chain_pem(), svid.key_pem().as_bytes())),
        None => tls,
    };
    let endpoint = Endpoint::from_shared(ca.url.clone()).and_then(|endpoint| endpoint.tls_config(tls));
    // A CA that vanished without a word must not keep the trust watch waiting for ever.
    let endpoint = endpoint
        .map_err(failed)?
        .connect_timeout(ca.timeout)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(ca.timeout);
    endpoint.connect().await.map_err(failed)
}
