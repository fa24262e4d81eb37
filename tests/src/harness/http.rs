//! Plain HTTP by hand, over TCP and over a Unix socket: enough for health, metrics and the admin socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

/// GET from a port: the status code and the body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    exchange(TcpStream::connect(address).unwrap(), path)
}

/// GET from a Unix socket; the answer is JSON.
pub fn get_json(socket: &Path, path: &str) -> Value {
    let (code, body) = exchange(UnixStream::connect(socket).unwrap(), path);
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The value of the first metric whose name and labels begin so.
pub fn metric(address: SocketAddr, name: &str) -> Option<f64> {
    let (_, text) = get(address, "/metrics");
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// One exchange on a connection that ends with it.
fn exchange(mut stream: impl Read + Write, path: &str) -> (u16, String) {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (code, if chunked { unchunked(body) } else { body.to_owned() })
}

/// RFC 9112, 7.1: a length in hex, a line end, so many bytes, a line end.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        body.push_str(&after[..length]);
        rest = after[length..].trim_start_matches("\r\n");
    }
    body
}
