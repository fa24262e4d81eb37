//! A client that costs little, so that a load on the same cores leaves them to the server: a request is bytes that are
//! made once, with the stream's number put in; of an answer the frames are read and not the headers. Why requests are
//! refused is told by the server's metrics.
//!
//! HTTP/2 as in RFC 9113, and of HPACK (RFC 7541) only what needs no state.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Failure;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// The largest window, in bytes: answers are never held back for its sake.
const WINDOW: u32 = (1 << 31) - 1;
/// What every window is at first, in bytes.
const FIRST_WINDOW: u32 = 65_535;

/// Requests that are due go out together: a system call for each would be the most of their cost, on both sides.
const TICK: Duration = Duration::from_millis(5);

/// Types of frames.
mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
}
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A call as bytes: one frame of headers and one of data.
#[derive(Debug, Clone)]
pub struct Encoded {
    headers: Vec<u8>,
    data: Vec<u8>,
}

impl Encoded {
    /// A call for a certificate with this message and `authorization`.
    pub fn new(message: &impl prost::Message, authorization: &str) -> Self {
        // Indexed: `:method: POST`, `:scheme: https`. The others are literals, by the number of their name.
        let mut headers = vec![0x83, 0x87];
        let mut literal = |name: &[u8], value: &str| {
            headers.extend_from_slice(name);
            text(&mut headers, value);
        };
        literal(&[0x04], PATH);
        literal(&[0x01], "localhost");
        literal(&[0x0f, 31 - 15], "application/grpc");
        literal(b"\x00\x02te", "trailers");
        // Never to be indexed: a secret.
        literal(&[0x1f, 23 - 15], authorization);
        let message = message.encode_to_vec();
        let mut data = Vec::with_capacity(5 + message.len());
        data.put_u8(0);
        data.put_u32(message.len() as u32);
        data.extend_from_slice(&message);
        Self { headers, data }
    }

    fn put(&self, stream: u32, out: &mut BytesMut) {
        put_frame(out, frame::HEADERS, END_HEADERS, stream, &self.headers);
        put_frame(out, frame::DATA, END_STREAM, stream, &self.data);
    }
}

/// A string literal without Huffman's code.
fn text(out: &mut Vec<u8>, value: &str) {
    let mut length = value.len();
    if length < 127 {
        out.push(length as u8);
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push((length % 128 + 128) as u8);
            length /= 128;
        }
        out.push(length as u8);
    }
    out.extend_from_slice(value.as_bytes());
}

fn put_frame(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.put_uint(payload.len() as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.extend_from_slice(payload);
}

/// When requests are sent.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// So many a second, whatever becomes of them.
    PerSecond(f64),
    /// The next when one is answered, with so many in flight.
    InFlight(usize),
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// Sent.
    pub sent: AtomicUsize,
    /// Answered with a certificate.
    pub answered: AtomicUsize,
    /// Not sent: the connection had as many in flight as the server takes.
    pub skipped: AtomicUsize,
}

/// A connection to the CA.
pub struct Connection {
    reader: ReadHalf<TlsStream<TcpStream>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    incoming: BytesMut,
    outgoing: BytesMut,
    unflushed: bool,
    next: u32,
    window: i64,
    most: usize,
    open: usize,
    /// Streams whose answer has begun: one that is refused begins and ends with one frame.
    answering: HashSet<u32>,
}

impl Connection {
    /// Connects to a CA under this root (PEM), from this address.
    pub async fn new(root: &[u8], address: &str, from: IpAddr) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root)?)?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = socket.connect(address.parse()?).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = split(connector.connect(ServerName::try_from("localhost")?, stream).await?);

        let mut outgoing = BytesMut::from(PREFACE);
        // No table for headers (1), no push (2), the window of each stream (4).
        let mut settings = Vec::new();
        for (setting, value) in [(1, 0), (2, 0), (4, WINDOW)] {
            settings.put_u16(setting);
            settings.put_u32(value);
        }
        put_frame(&mut outgoing, frame::SETTINGS, 0, 0, &settings);
        put_frame(&mut outgoing, frame::WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes());
        Ok(Self {
            reader,
            writer,
            incoming: BytesMut::with_capacity(64 * 1024),
            outgoing,
            unflushed: true,
            next: 1,
            window: FIRST_WINDOW.into(),
            most: usize::MAX,
            open: 0,
            answering: HashSet::new(),
        })
    }

    /// Sends requests in turn at this pace until the end, and counts what becomes of them. Those that are in flight
    /// then are given up.
    ///
    /// # Errors
    /// The server ended the connection.
    pub async fn drive(
        &mut self,
        requests: &[Encoded],
        pace: Pace,
        until: Instant,
        tally: &Tally,
    ) -> Result<(), Failure> {
        let (began, mut due, mut sent) = (Instant::now(), 0, 0);
        let mut ticks = tokio::time::interval(TICK);
        let end = tokio::time::sleep_until(until);
        tokio::pin!(end);
        loop {
            while sent < due {
                let request = &requests[sent % requests.len()];
                if self.open >= self.most {
                    tally.skipped.fetch_add(1, Ordering::Relaxed);
                } else if self.send(request) {
                    tally.sent.fetch_add(1, Ordering::Relaxed);
                } else {
                    break;
                }
                sent += 1;
            }
            tokio::select! {
                read = self.reader.read_buf(&mut self.incoming) => {
                    if read? == 0 {
                        return Err("the server closed the connection".into());
                    }
                    let over = self.read(tally)?;
                    if let Pace::InFlight(_) = pace {
                        due += over;
                    }
                }
                written = write(&mut self.writer, &mut self.outgoing, &mut self.unflushed),
                    if self.unflushed || !self.outgoing.is_empty() => written?,
                _ = ticks.tick() => due = match pace {
                    Pace::PerSecond(rate) => (began.elapsed().as_secs_f64() * rate) as usize,
                    Pace::InFlight(count) => due.max(count),
                },
                () = &mut end => return Ok(()),
            }
        }
    }

    /// Whether there was room for it in the connection's window.
    fn send(&mut self, request: &Encoded) -> bool {
        let length = request.data.len() as i64;
        if self.window < length {
            return false;
        }
        self.window -= length;
        request.put(self.next, &mut self.outgoing);
        self.next += 2;
        self.open += 1;
        true
    }

    /// Reads what frames there are; how many requests are over.
    fn read(&mut self, tally: &Tally) -> Result<usize, Failure> {
        let mut over = 0;
        while self.incoming.len() >= 9 {
            let length = self.incoming.get(..3).unwrap_or_default().get_uint(3) as usize;
            if self.incoming.len() < 9 + length {
                break;
            }
            let mut header = self.incoming.split_to(9);
            header.advance(3);
            let (kind, flags, stream) = (header.get_u8(), header.get_u8(), header.get_u32() % (1 << 31));
            let payload = self.incoming.split_to(length);
            let ends = flags & END_STREAM != 0;
            match kind {
                frame::HEADERS | frame::DATA if ends => {
                    over += 1;
                    if self.answering.remove(&stream) {
                        tally.answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
                frame::HEADERS => {
                    self.answering.insert(stream);
                }
                frame::RST_STREAM => {
                    over += 1;
                    self.answering.remove(&stream);
                }
                frame::SETTINGS if flags & ACK == 0 => self.settings(payload),
                frame::PING if flags & ACK == 0 => {
                    put_frame(&mut self.outgoing, frame::PING, ACK, 0, &payload);
                }
                frame::WINDOW_UPDATE if stream == 0 => {
                    self.window += i64::from(payload.clone().try_get_u32()?);
                }
                frame::GOAWAY => return Err("the server says goodbye".into()),
                _ => {}
            }
        }
        self.open -= over;
        Ok(over)
    }

    fn settings(&mut self, mut settings: BytesMut) {
        while let (Ok(setting), Ok(value)) = (settings.try_get_u16(), settings.try_get_u32()) {
            // The most streams at once.
            if setting == 3 {
                self.most = value as usize;
            }
        }
        put_frame(&mut self.outgoing, frame::SETTINGS, ACK, 0, &[]);
    }
}

/// Writes what it takes; may be dropped at any time and called again.
async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    outgoing: &mut BytesMut,
    unflushed: &mut bool,
) -> io::Result<()> {
    if !outgoing.is_empty() {
        *unflushed = true;
        writer.write_buf(outgoing).await?;
    }
    writer.flush().await?;
    *unflushed = false;
    Ok(())
}
