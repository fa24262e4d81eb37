//! The log's bytes on disk: segment files, their headers, and the frames of records in them.
//!
//! A segment `log/<first index, 20 digits>.seg` is a header and then frames, each `length (u32 LE), CRC-32 of
//! the body (u32 LE), body`. The header names the log and the segment before with its length, so that a
//! removed or shortened segment shows without reading any other. `cursor` reads segments in order, `writer`
//! writes them, and `tail` says what a damaged end means.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use prost::Message;

use signet_certs::digest::hex;

use super::record::Place;

/// No record is longer; a length beyond it is damage.
pub(super) const MAX_BODY: usize = 64 << 10;

/// Bytes before a body: its length and checksum.
pub(super) const FRAME_HEADER: usize = 8;

/// Bytes before the first frame.
pub(super) const HEADER: usize = 76;

const MAGIC: [u8; 8] = *b"signetlg";

/// The version of headers and frames; records have a version of their own. Every layout keeps a header of
/// this length with the magic, its number and the checksum where they are, so that a program knows a later
/// one from damage.
const LAYOUT: u32 = 1;

/// What is wrong with the log's files.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The disk refused.
    #[error("cannot {attempted} {}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the disk said.
        #[source]
        source: io::Error,
    },
    /// The bytes are not those that were written.
    #[error("{} is damaged at byte {offset}, record {index}: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Which record begins there, or would.
        index: u64,
        /// What should stand there.
        expected: String,
        /// What does.
        found: String,
    },
    /// A segment file is not there.
    #[error("{} is missing: no file holds record {index}", path.display())]
    Missing {
        /// The file that should hold the record, as far as can be told.
        path: PathBuf,
        /// The first record that is missing.
        index: u64,
    },
    /// A later program wrote it.
    #[error(
        "{} has {what} of layout {found}; this program knows {known}: run the program that wrote it or a later one",
        path.display()
    )]
    Layout {
        /// The file.
        path: PathBuf,
        /// What has that layout.
        what: String,
        /// Its layout.
        found: u32,
        /// The newest layout that can be read here.
        known: u32,
    },
}

/// What the first bytes of a segment are instead of a header.
enum NoHeader {
    /// Of a later layout, and whole.
    Layout(u32),
    /// What was expected, and what was found.
    Damaged(String, String),
}

/// The first bytes of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) log_id: [u8; 32],
    /// Index of the segment's first record.
    pub(super) first: u64,
    /// The same of the segment before, and that segment's final length in bytes; zeros in the first.
    pub(super) previous: (u64, u64),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
        bytes[12..44].copy_from_slice(&self.log_id);
        bytes[44..52].copy_from_slice(&self.first.to_le_bytes());
        bytes[52..60].copy_from_slice(&self.previous.0.to_le_bytes());
        bytes[60..68].copy_from_slice(&self.previous.1.to_le_bytes());
        // Four bytes stay zero, for a later layout.
        let checksum = crc32fast::hash(&bytes[..72]);
        bytes[72..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER]) -> Result<Header, NoHeader> {
        let checksum = crc32fast::hash(&bytes[..72]).to_le_bytes();
        if bytes[..8] != MAGIC || bytes[72..] != checksum {
            return Err(NoHeader::Damaged("a segment header".to_owned(), hex(&bytes[..12])));
        }
        let layout = u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        if layout != LAYOUT {
            return Err(NoHeader::Layout(layout));
        }
        let mut log_id = [0; 32];
        log_id.copy_from_slice(&bytes[12..44]);
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        Ok(Header { log_id, first: number(44), previous: (number(52), number(60)) })
    }
}

/// Appends the frame of a record to `frames`.
pub(super) fn push_frame(frames: &mut Vec<u8>, record: &impl Message) {
    let start = frames.len();
    frames.extend_from_slice(&[0; FRAME_HEADER]);
    record.encode(frames).expect("a vector grows as needed");
    let body = &frames[start + FRAME_HEADER..];
    let length = u32::try_from(body.len()).expect("the writer refuses records beyond MAX_BODY");
    let checksum = crc32fast::hash(body);
    frames[start..start + 4].copy_from_slice(&length.to_le_bytes());
    frames[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// The bodies of frames that [`push_frame`] made, in order.
pub(super) fn bodies(mut frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (header, rest) = frames.split_first_chunk::<FRAME_HEADER>()?;
        let (body, rest) = rest.split_at_checked(FrameHeader::decode(*header).length)?;
        frames = rest;
        Some(body)
    })
}

/// What stands before a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameHeader {
    pub(super) length: usize,
    pub(super) checksum: u32,
}

impl FrameHeader {
    pub(super) fn decode(bytes: [u8; FRAME_HEADER]) -> FrameHeader {
        let [l0, l1, l2, l3, c0, c1, c2, c3] = bytes;
        FrameHeader {
            length: u32::from_le_bytes([l0, l1, l2, l3]) as usize,
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }
}

/// The file that a segment beginning with record `first` has.
pub(super) fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

/// The first index of each segment in `dir`, ascending; without an [`unfinished`] one.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn list(dir: &Path) -> Result<Vec<u64>, SegmentError> {
    let mut firsts = list_all(dir)?;
    if unfinished(dir, &firsts)?.is_some() {
        firsts.pop();
    }
    Ok(firsts)
}

/// The last segment, if its header was never finished: a crash or a full disk left it, and it holds no record.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn find_unfinished(dir: &Path) -> Result<Option<PathBuf>, SegmentError> {
    unfinished(dir, &list_all(dir)?)
}

fn unfinished(dir: &Path, firsts: &[u64]) -> Result<Option<PathBuf>, SegmentError> {
    let Some(path) = firsts.last().map(|last| segment_path(dir, *last)) else { return Ok(None) };
    Ok((!is_begun(&path)?).then_some(path))
}

fn list_all(dir: &Path) -> Result<Vec<u64>, SegmentError> {
    let failed = |source| SegmentError::Io { attempted: "list", path: dir.to_owned(), source };
    let mut firsts = Vec::new();
    for file in std::fs::read_dir(dir).map_err(failed)? {
        let name = file.map_err(failed)?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        if let Some(first) = digits.filter(|digits| digits.len() == 20).and_then(|first| first.parse().ok()) {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    Ok(firsts)
}

/// Whether a segment has a good header, of whatever layout, or anything behind one.
fn is_begun(path: &Path) -> Result<bool, SegmentError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEADER as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|source| SegmentError::Io { attempted: "read", path: path.to_owned(), source })?;
    Ok(match <[u8; HEADER]>::try_from(&bytes[..]) {
        Ok(header) => !matches!(Header::decode(&header), Err(NoHeader::Damaged(..))),
        Err(_) => bytes.len() > HEADER,
    })
}

/// Opens the segment at `first` and checks that its header is that of `log_id`.
///
/// # Errors
/// It is not there, cannot be read, or is not that segment.
pub(super) fn open_segment(
    dir: &Path,
    log_id: &[u8; 32],
    first: u64,
) -> Result<(File, Header), SegmentError> {
    let path = segment_path(dir, first);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SegmentError::Missing { path, index: first });
        }
        opened => {
            opened.map_err(|source| SegmentError::Io { attempted: "open", path: path.clone(), source })?
        }
    };
    let damaged = |expected, found| SegmentError::Damaged {
        path: path.clone(),
        offset: 0,
        index: first,
        expected,
        found,
    };
    let mut bytes = [0; HEADER];
    match file.read_exact(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(damaged(format!("{HEADER} bytes of header"), "the end of the file".to_owned()));
        }
        read => read.map_err(|source| SegmentError::Io { attempted: "read", path: path.clone(), source })?,
    }
    let header = Header::decode(&bytes).map_err(|other| match other {
        NoHeader::Damaged(expected, found) => damaged(expected, found),
        NoHeader::Layout(found) => {
            let what = "a segment".to_owned();
            SegmentError::Layout { path: path.clone(), what, found, known: LAYOUT }
        }
    })?;
    if header.log_id != *log_id {
        return Err(damaged(format!("log {}", hex(log_id)), format!("log {}", hex(&header.log_id))));
    }
    if header.first != first {
        let (expected, found) = (format!("first record {first}"), format!("first record {}", header.first));
        return Err(damaged(expected, found));
    }
    Ok((file, header))
}

/// The whole records of `log_id` that stand anywhere in `bytes`, wherever their frames begin.
pub(super) fn places_in<'a>(bytes: &'a [u8], log_id: &'a [u8; 32]) -> impl Iterator<Item = Place> + 'a {
    /// Before the log id in a body: the layout and the id's own tag and length, two bytes each.
    const BEFORE_ID: usize = FRAME_HEADER + 4;
    let id_at = move |at: usize| bytes[at..].starts_with(log_id);
    let ids = (BEFORE_ID..bytes.len().saturating_sub(log_id.len() - 1)).filter(move |at| id_at(*at));
    ids.filter_map(|at| {
        let (header, rest) = bytes[at - BEFORE_ID..].split_first_chunk::<FRAME_HEADER>()?;
        let header = FrameHeader::decode(*header);
        let body = rest.get(..header.length).filter(|body| crc32fast::hash(body) == header.checksum)?;
        Place::decode(body).ok()
    })
}
