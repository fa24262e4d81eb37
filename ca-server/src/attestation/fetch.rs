//! One GET for a key set: TLS with roots of its own, a bounded answer in a bounded time, and nothing clever.
//!
//! Keys decide who is believed, so plain http goes to this machine only, and redirects are not followed: the
//! address is the one that an administrator wrote.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper::rt::{Read, Write};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use super::keys::MAX_BYTES;

/// How long connecting, asking and reading may take together.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why a URL gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Anybody on the way could put keys of their own there.
    #[error("expected an https URL with a host and without credentials, or http to this machine")]
    Url,
    /// The roots for the server's certificate.
    #[error("reading roots from {}", .path.display())]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: PemError,
    },
    /// No root that can be used, so no server could be believed.
    #[error(
        "no usable root certificate in {}",
        .0.as_deref().unwrap_or(Path::new("the system's store")).display()
    )]
    NoRoots(
        /// The CA file; `None` is the system's.
        Option<PathBuf>,
    ),
    /// The TLS settings were not accepted.
    #[error("setting up TLS")]
    Tls(#[source] rustls::Error),
    /// No connection, or no TLS on it.
    #[error("connecting")]
    Connect(#[source] io::Error),
    /// The exchange broke off.
    #[error("asking")]
    Http(#[source] hyper::Error),
    /// The answer broke off or is longer than 1 MiB.
    #[error("reading the answer")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another answer than 200.
    #[error("expected status 200, found {0}")]
    Status(u16),
    /// It takes too long.
    #[error("no whole answer within {} s", DEADLINE.as_secs())]
    Late,
}

/// A URL that may be asked.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    url: Url,
    ca_file: Option<PathBuf>,
}

impl Endpoint {
    /// Checks the URL, and reads its CA file to see whether it would do.
    pub(super) fn new(url: Url, ca_file: Option<PathBuf>) -> Result<Endpoint, FetchError> {
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err(FetchError::Url),
        };
        let private = !url.username().is_empty() || url.password().is_some();
        if private || !(url.scheme() == "https" || url.scheme() == "http" && here) {
            return Err(FetchError::Url);
        }
        let endpoint = Endpoint { url, ca_file };
        if endpoint.ca_file.is_some() {
            tls(endpoint.ca_file.as_deref())?;
        }
        Ok(endpoint)
    }

    /// The body of a good answer.
    pub(super) async fn get(&self) -> Result<Vec<u8>, FetchError> {
        timeout(DEADLINE, self.exchange()).await.unwrap_or(Err(FetchError::Late))
    }

    async fn exchange(&self) -> Result<Vec<u8>, FetchError> {
        // Without the brackets that URLs put around IPv6 addresses.
        let host = self.url.host_str().ok_or(FetchError::Url)?.trim_matches(['[', ']']);
        let port = self.url.port_or_known_default().ok_or(FetchError::Url)?;
        let stream = TcpStream::connect((host, port)).await.map_err(FetchError::Connect)?;
        if self.url.scheme() != "https" {
            return self.ask(TokioIo::new(stream)).await;
        }
        // Each time anew, so that renewed roots count; off the runtime, because it reads files.
        let ca_file = self.ca_file.clone();
        let config = spawn_blocking(move || tls(ca_file.as_deref()))
            .await
            .map_err(|stopped| FetchError::Connect(io::Error::other(stopped)))??;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Url)?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(FetchError::Connect)?;
        self.ask(TokioIo::new(stream)).await
    }

    async fn ask(&self, stream: impl Read + Write + Send + Unpin + 'static) -> Result<Vec<u8>, FetchError> {
        let (mut sender, connection) = http1::handshake(stream).await.map_err(FetchError::Http)?;
        // Dropped with this call, whatever becomes of it; what goes wrong, the sender is told.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::get(&self.url[Position::BeforePath..Position::AfterQuery])
            .header(HOST, &self.url[Position::BeforeHost..Position::AfterPort])
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|_| FetchError::Url)?;
        let answer = sender.send_request(request).await.map_err(FetchError::Http)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.map_err(FetchError::Body)?;
        Ok(body.to_bytes().into())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(formatter)
    }
}

/// TLS that believes the roots in `ca_file`, or else the system's.
fn tls(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, FetchError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let failed = |source| FetchError::CaFile { path: path.to_owned(), source };
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(failed)?;
            roots.add_parsable_certificates(certificates);
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(FetchError::NoRoots(ca_file.map(Path::to_owned)));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(FetchError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::SystemTime;

    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;
    use signet_certs::ca::Ca;
    use signet_certs::check::Bounds;
    use signet_certs::key::PrivateKey;
    use signet_certs::name::ca_name;
    use signet_certs::pem;
    use signet_certs::profile::Profile;
    use signet_certs::template::Names;
    use signet_certs::validity::{Validity, leaf};
    use tempfile::TempDir;

    use super::*;
    use crate::attestation::tests::server::KeyServer;

    const HOUR: Duration = Duration::from_secs(3600);

    fn root() -> Ca {
        let now = SystemTime::now();
        let life = Validity { not_before: now - HOUR, not_after: now + HOUR * 24 };
        Ca::root(ca_name("Test", None, "Root CA"), life, PrivateKey::generate_p256().unwrap()).unwrap()
    }

    /// TLS with a certificate of `ca` for localhost and 127.0.0.1.
    fn serving(ca: &Ca) -> ServerConfig {
        let key = PrivateKey::generate_p256().unwrap();
        let now = SystemTime::now();
        let names = Names::Hosts { dns: vec!["localhost".into()], ip: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)] };
        let validity = leaf(now, HOUR, [ca.certificate.facts().validity]).unwrap();
        let template = ca.template(Profile::Serving, names, key.spki().to_vec(), validity).unwrap();
        let certificate = ca.sign(&template, Bounds { now, maximum: HOUR }).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.to_pkcs8_pem().as_bytes()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap()
    }

    fn ca_file(folder: &TempDir, ca: &Ca) -> PathBuf {
        let path = folder.path().join("ca.pem");
        fs::write(&path, ca.certificate.to_pem()).unwrap();
        path
    }

    #[tokio::test]
    async fn https_believes_the_roots_of_its_file_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let (ca, other) = (root(), root());
        let server = KeyServer::start(Some(serving(&ca))).await;
        server.serve("200 OK", b"keys");
        let file = ca_file(&folder, &ca);
        let by_name = Endpoint::new(server.url.clone(), Some(file.clone())).unwrap();
        assert_eq!(by_name.get().await.unwrap(), b"keys");
        let mut url = server.url.clone();
        url.set_host(Some("127.0.0.1")).unwrap();
        let by_address = Endpoint::new(url.clone(), Some(file)).unwrap();
        assert_eq!(by_address.get().await.unwrap(), b"keys");

        // The file is read each time: with another root in it, the server is a stranger.
        ca_file(&folder, &other);
        assert!(matches!(by_name.get().await, Err(FetchError::Connect(_))));
        ca_file(&folder, &ca);
        assert_eq!(by_name.get().await.unwrap(), b"keys");

        // The right root, another name than the certificate's.
        url.set_host(Some("127.0.0.2")).unwrap();
        let elsewhere = Endpoint { url, ..by_name };
        assert!(matches!(elsewhere.get().await, Err(FetchError::Connect(_))));
    }

    #[tokio::test]
    async fn a_good_answer_has_status_200_and_at_most_a_mebibyte() {
        let server = KeyServer::start(None).await;
        let endpoint = Endpoint::new(server.url.clone(), None).unwrap();
        let whole = vec![b'x'; MAX_BYTES];
        server.serve("200 OK", &whole);
        assert_eq!(endpoint.get().await.unwrap(), whole);
        server.serve("200 OK", &[&whole[..], b"x"].concat());
        assert!(matches!(endpoint.get().await, Err(FetchError::Body(_))));
        for (status, code) in [("404 Not Found", 404), ("307 Moved\r\nlocation: /", 307), ("201 Made", 201)] {
            server.serve(status, b"keys");
            assert!(matches!(endpoint.get().await, Err(FetchError::Status(found)) if found == code));
        }
        server.serve("no status\r\n", b"");
        assert!(matches!(endpoint.get().await, Err(FetchError::Http(_))));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        drop(listener);
        assert!(matches!(Endpoint::new(url, None).unwrap().get().await, Err(FetchError::Connect(_))));
    }

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        let new = |url: &str| Endpoint::new(Url::parse(url).unwrap(), None);
        for good in [
            "https://issuer.example.org/keys",
            "https://[2001:db8::1]:6443/openid/v1/jwks",
            "http://localhost:8080/keys",
            "http://127.0.0.1/keys",
            "http://[::1]/keys",
        ] {
            assert_eq!(new(good).unwrap().to_string(), good);
        }
        for bad in [
            "http://issuer.example.org/keys",
            "http://localhost.example.org/keys",
            "http://192.0.2.1/keys",
            "http://[2001:db8::1]/keys",
            "ftp://localhost/keys",
            "file:///keys",
            "https://user@issuer.example.org/keys",
            "https://:password@issuer.example.org/keys",
        ] {
            assert!(matches!(new(bad), Err(FetchError::Url)), "{bad}");
        }
    }

    #[test]
    fn a_ca_file_that_would_not_do_is_found_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let new = || {
            Endpoint::new(Url::parse("https://localhost/keys").unwrap(), Some(path.clone()))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(new(), format!("reading roots from {}", path.display()));
        for (text, said) in [
            ("", "no usable root certificate in"),
            (&pem::encode("CERTIFICATE", b"no DER"), "no usable root certificate in"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "reading roots from"),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(new(), format!("{said} {}", path.display()));
        }
    }
}
