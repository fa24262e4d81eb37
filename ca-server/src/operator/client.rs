//! HTTP over the admin socket: one request a connection, JSON both ways.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;
use tokio::net::UnixStream;

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Why there is no answer, or that it is no.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens, or we may not ask.
    #[error("connecting to {} (is the server running, and is this its --admin-socket?)", .0.display())]
    Connect(PathBuf, #[source] io::Error),
    /// The exchange broke off.
    #[error("asking the server")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is no JSON.
    #[error("the server's answer was not understood")]
    Answer(#[from] serde_json::Error),
    /// The server says no.
    #[error("{error}")]
    Refused {
        /// HTTP status.
        code: StatusCode,
        /// What the server says.
        error: String,
    },
}

/// A client of one socket.
pub(super) struct Client<'a> {
    socket: &'a Path,
}

impl<'a> Client<'a> {
    pub(super) fn new(socket: &'a Path) -> Self {
        Self { socket }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, path, None).await
    }

    pub(super) async fn get_with(&self, path: &str, query: &impl Serialize) -> Result<Value, ClientError> {
        let query = serde_json::to_value(query)?;
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        for (key, value) in query.as_object().into_iter().flatten() {
            match value {
                Value::String(text) => pairs.append_pair(key, text),
                other => pairs.append_pair(key, &other.to_string()),
            };
        }
        self.ask(Method::GET, &format!("{path}?{}", pairs.finish()), None).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// The body of a good answer, to be read while it comes, however long it is.
    pub(super) async fn post_for_stream(&self, path: &str) -> Result<Incoming, ClientError> {
        let response = self.send(Method::POST, path, None).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let body = whole(response.into_body()).await?;
        Err(refused(code, serde_json::from_slice(&body).ok()))
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let response = self.send(method, path, body).await?;
        let code = response.status();
        let answer = serde_json::from_slice::<Value>(&whole(response.into_body()).await?);
        if code.is_success() { Ok(answer?) } else { Err(refused(code, answer.ok())) }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(self.socket)
            .await
            .map_err(|error| ClientError::Connect(self.socket.to_owned(), error))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| ClientError::Exchange(error.into()))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ClientError::Exchange(error.into()))?;
        // The connection only moves bytes for the exchange, and ends with it; its error is the exchange's too.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|error| ClientError::Exchange(error.into()))
    }
}

async fn whole(body: Incoming) -> Result<Bytes, ClientError> {
    let collected = Limited::new(body, MAX_ANSWER).collect().await;
    Ok(collected.map_err(ClientError::Exchange)?.to_bytes())
}

fn refused(code: StatusCode, answer: Option<Value>) -> ClientError {
    let said = answer.and_then(|answer| Some(answer["error"].as_str()?.to_owned()));
    ClientError::Refused { code, error: said.unwrap_or_else(|| code.to_string()) }
}

/// A part of a path with everything escaped that could end it.
pub(super) fn escaped(part: &str) -> String {
    // A form writes a blank as `+`, which in a path is a plus; a plus itself it escapes.
    url::form_urlencoded::byte_serialize(part.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::extract::Path as UrlPath;
    use axum::routing::get;
    use axum::{Json, Router};
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn a_blank_in_a_path_does_not_ask_for_another_id() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let echo = get(async |UrlPath(id): UrlPath<String>| Json(id));
        tokio::spawn(axum::serve(listener, Router::new().route("/ids/{id}", echo)).into_future());
        let client = Client::new(&socket);
        for id in ["plain", "a b", "a+b", " ", "a/b", "a?b#c", "a%20b", "..", "é\n"] {
            let answer = client.get(&format!("/ids/{}", escaped(id))).await.unwrap();
            assert_eq!(answer, Value::from(id));
        }
    }
}
