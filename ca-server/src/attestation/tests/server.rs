//! An HTTP server for key sets that says what it is told to and counts who asks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use url::Url;

/// Serves until it is dropped.
pub(in crate::attestation) struct KeyServer {
    pub(in crate::attestation) url: Url,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl KeyServer {
    /// On a free port, over TLS if there is a configuration for it. Answers nothing before it is told to.
    pub(in crate::attestation) async fn start(tls: Option<ServerConfig>) -> KeyServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://localhost:{port}/openid/v1/jwks")).unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let task = tokio::spawn({
            let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
            async move {
                // One after the other: a client that is refused here breaks off by itself.
                while let Ok((stream, _)) = listener.accept().await {
                    asked.fetch_add(1, Ordering::SeqCst);
                    match &acceptor {
                        None => respond(stream, &answer).await,
                        Some(acceptor) => match acceptor.accept(stream).await {
                            Ok(stream) => respond(stream, &answer).await,
                            Err(_) => continue,
                        },
                    }
                }
            }
        });
        KeyServer { url, answer, asked, task }
    }

    /// From now on answers with these keys.
    pub(in crate::attestation) fn serve_keys(&self, keys: &[Value]) {
        self.serve("200 OK", json!({ "keys": keys }).to_string().as_bytes());
    }

    /// From now on answers this.
    pub(in crate::attestation) fn serve(&self, status: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        *self.answer.lock().unwrap() = [head.as_bytes(), body].concat();
    }

    /// How many have connected.
    pub(in crate::attestation) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &Mutex<Vec<u8>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    assert!(request.starts_with(b"GET /openid/v1/jwks HTTP/1.1\r\n"), "{}", request.escape_ascii());
    let answer = answer.lock().unwrap().clone();
    if answer.is_empty() {
        // Silent until the client goes away.
        let _ = stream.read_buf(&mut request).await;
        return;
    }
    // The client may have enough before the end.
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}
