//! A backup on its way over the admin socket: frames of a kind (1 byte), a length (u32 LE) and so many bytes.
//! A file's name begins it and pieces of it follow, so that no length has to be known before. The last frame
//! says that the backup is whole, or why it cannot be.

use tokio::sync::mpsc::Sender;

use hyper::body::Bytes;

use super::{BackupError, Destination, PIECE};

const FILE: u8 = 1;
const PIECE_OF_FILE: u8 = 2;
const END: u8 = 3;
const FAILED: u8 = 4;
/// Bytes before a frame's content.
const HEADER: usize = 5;

/// A frame, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A file of this name begins.
    File(String),
    /// Its next bytes.
    Piece(Vec<u8>),
    /// That was all; the log in it has so many records.
    End(u64),
    /// There will be no more, for this reason.
    Failed(String),
}

/// The sending side. Sending waits while the other side is slow: it is for a thread that may block.
pub(crate) struct StreamDestination {
    frames: Sender<Bytes>,
}

impl StreamDestination {
    /// Frames go to `frames`.
    pub(crate) fn new(frames: Sender<Bytes>) -> StreamDestination {
        StreamDestination { frames }
    }

    /// Says how it ended: with so many records, or not.
    ///
    /// # Errors
    /// Nobody hears it.
    pub(crate) fn end(&self, sent: Result<u64, String>) -> Result<(), BackupError> {
        match sent {
            Ok(records) => self.send(END, &records.to_le_bytes()),
            Err(what) => self.send(FAILED, what.chars().take(PIECE / 4).collect::<String>().as_bytes()),
        }
    }

    /// At most [`PIECE`] bytes of content.
    fn send(&self, kind: u8, content: &[u8]) -> Result<(), BackupError> {
        let length = u32::try_from(content.len()).map_err(|_| BackupError::Stream("a frame is too long"))?;
        let frame = [&[kind], &length.to_le_bytes()[..], content].concat();
        self.frames.blocking_send(frame.into()).map_err(|_| BackupError::Gone)
    }
}

impl Destination for StreamDestination {
    fn begin(&mut self, name: &str) -> Result<(), BackupError> {
        self.send(FILE, name.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        bytes.chunks(PIECE).try_for_each(|piece| self.send(PIECE_OF_FILE, piece))
    }
}

/// Puts frames together again. It holds one frame and what came with its end.
#[derive(Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Takes what came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame that came whole.
    ///
    /// # Errors
    /// What came is no stream of frames.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, BackupError> {
        let Some((&[kind, l0, l1, l2, l3], rest)) = self.buffer.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > PIECE {
            return Err(BackupError::Stream("a frame is too long"));
        }
        let Some(content) = rest.get(..length) else { return Ok(None) };
        let content = content.to_vec();
        self.buffer.drain(..HEADER + length);
        let text = |content| String::from_utf8(content).map_err(|_| BackupError::Stream("a name is no text"));
        Ok(Some(match kind {
            FILE => Frame::File(text(content)?),
            PIECE_OF_FILE => Frame::Piece(content),
            END => match content.try_into() {
                Ok(records) => Frame::End(u64::from_le_bytes(records)),
                Err(_) => return Err(BackupError::Stream("its end has no number of records")),
            },
            FAILED => Frame::Failed(text(content)?),
            _ => return Err(BackupError::Stream("a frame of an unknown kind")),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let (sender, mut frames) = tokio::sync::mpsc::channel(64);
        let mut stream = StreamDestination::new(sender);
        stream.begin("log/hashes").unwrap();
        stream.write(&vec![7; PIECE + 1]).unwrap();
        stream.end(Ok(1 << 40)).unwrap();
        stream.end(Err("the disk".to_owned())).unwrap();
        let mut bytes = Vec::new();
        while let Ok(frame) = frames.try_recv() {
            bytes.extend_from_slice(&frame);
        }
        let expected = [
            Frame::File("log/hashes".to_owned()),
            Frame::Piece(vec![7; PIECE]),
            Frame::Piece(vec![7]),
            Frame::End(1 << 40),
            Frame::Failed("the disk".to_owned()),
        ];
        for cut in [1, 2, 1000, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for part in bytes.chunks(cut) {
                decoder.push(part);
                while let Some(frame) = decoder.next().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, expected, "parts of {cut} bytes");
        }
    }

    #[test]
    fn nobody_listening_ends_it() {
        let (sender, frames) = tokio::sync::mpsc::channel(1);
        drop(frames);
        assert!(matches!(StreamDestination::new(sender).begin("x"), Err(BackupError::Gone)));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let error = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.next().unwrap_err().to_string()
        };
        assert!(error(&[9, 0, 0, 0, 0]).contains("unknown kind"));
        assert!(error(&[PIECE_OF_FILE, 1, 0, 1, 0]).contains("too long"));
        assert!(error(&[FILE, 1, 0, 0, 0, 0xff]).contains("no text"));
        assert!(error(&[END, 1, 0, 0, 0, 1]).contains("number of records"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next() {}
        }
    }
}
