//! PEM (RFC 7468) as CA files hold it: blocks with text around them, each with the line it begins on.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// No label is longer, in bytes.
const MAX_LABEL: usize = 64;

use crate::name::escaped;

/// One block.
pub struct Block {
    /// Between `-----BEGIN ` and `-----`.
    pub label: String,
    /// The decoded content. It may be a private key, so the type has no Debug.
    pub der: Vec<u8>,
    /// Line of the BEGIN marker, counted from 1.
    pub line: usize,
    /// Whether headers before the content say that it is encrypted (RFC 1421, as old OpenSSL writes keys);
    /// the content then decodes to bytes without meaning.
    pub encrypted: bool,
}

/// Why a text is not PEM; lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PemError {
    /// Not UTF-8 text.
    #[error("this is not text; PEM was expected")]
    NotText,
    /// A BEGIN without its END.
    #[error("line {0}: the block {1} has no matching END")]
    Unfinished(usize, String),
    /// Content that is not base64.
    #[error("line {0}: the block {1} is not base64")]
    Base64(usize, String),
    /// Nothing with the wanted label.
    #[error("expected a block {0}, found {1}")]
    Missing(&'static str, String),
    /// Headers before the content, where none are expected.
    #[error("line {0}: expected a block without headers")]
    Headers(usize),
    /// Something beside the one block that was expected.
    #[error("expected one block and nothing else, found more text at line {0}")]
    Trailing(usize),
}

/// All blocks in order; other text around them is passed over, in whatever encoding.
pub fn blocks(text: &[u8]) -> Result<Vec<Block>, PemError> {
    let lossy = String::from_utf8_lossy(text);
    let mut found = Vec::new();
    let mut open: Option<Open<'_>> = None;
    for (number, line) in lossy.lines().enumerate().map(|(at, line)| (at + 1, trimmed(line))) {
        match &mut open {
            None => {
                if let Some(label) = marker(line, "-----BEGIN ") {
                    // As long as the block, so that no half-read key is left where it grew from; and no longer,
                    // since all of it is wiped.
                    let body = Zeroizing::new(String::with_capacity(room(&lossy, line)));
                    open = Some(Open { line: number, label, body, encrypted: false });
                }
            }
            Some(block) => match marker(line, "-----END ") {
                Some(end) if end == block.label => {
                    found.push(block.decoded()?);
                    open = None;
                }
                Some(_) => return Err(block.unfinished()),
                None if line.starts_with("-----") => return Err(block.unfinished()),
                None if line.contains(':') => {
                    block.encrypted |= line.starts_with("Proc-Type:") && line.contains("ENCRYPTED");
                }
                None => block.body.push_str(line),
            },
        }
    }
    match open {
        Some(block) => Err(block.unfinished()),
        None if found.is_empty() && str::from_utf8(text).is_err() => Err(PemError::NotText),
        None => Ok(found),
    }
}

/// How much of the text stands between the line, which is a part of it, and the next dashes.
fn room(text: &str, line: &str) -> usize {
    let behind = line.as_ptr() as usize + line.len() - text.as_ptr() as usize;
    let rest = &text[behind..];
    rest.find("-----").unwrap_or(rest.len())
}

/// A block whose end is yet to come.
struct Open<'a> {
    line: usize,
    label: &'a str,
    body: Zeroizing<String>,
    encrypted: bool,
}

impl Open<'_> {
    fn decoded(&self) -> Result<Block, PemError> {
        let der = STANDARD
            .decode(self.body.as_str())
            .map_err(|_| PemError::Base64(self.line, escaped(self.label)))?;
        let (label, line, encrypted) = (self.label.to_owned(), self.line, self.encrypted);
        Ok(Block { label, der, line, encrypted })
    }

    fn unfinished(&self) -> PemError {
        PemError::Unfinished(self.line, escaped(self.label))
    }
}

/// Without white space, and without the mark that some editors put before a file's first line.
fn trimmed(line: &str) -> &str {
    line.trim_start_matches('\u{feff}').trim()
}

/// The one block of a text that has nothing else but white space: for requests from outside.
pub fn only(text: &str) -> Result<Block, PemError> {
    let mut found = blocks(text.as_bytes())?;
    if let Some(second) = found.get(1) {
        return Err(PemError::Trailing(second.line));
    }
    let block = found.pop().ok_or(PemError::Missing("of PEM", "none".to_owned()))?;
    let end = format!("-----END {}-----", block.label);
    let mut inside = false;
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
        if number == block.line {
            inside = true;
        } else if !inside && !line.is_empty() {
            return Err(PemError::Trailing(number));
        } else if inside && line.contains(':') {
            return Err(PemError::Headers(number));
        } else if line == end {
            inside = false;
        }
    }
    Ok(block)
}

/// The DER of every CERTIFICATE block with its line; at least one.
pub fn certificates(text: &[u8]) -> Result<Vec<(usize, Vec<u8>)>, PemError> {
    let all = blocks(text)?;
    let labels = describe(&all);
    let found: Vec<_> = all
        .into_iter()
        .filter_map(|mut block| match block.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" => Some((block.line, block.der)),
            _ => {
                // Some keep the key in the same file.
                block.der.zeroize();
                None
            }
        })
        .collect();
    if found.is_empty() { Err(PemError::Missing("CERTIFICATE", labels)) } else { Ok(found) }
}

/// One block with lines of 64 characters and a trailing newline.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        // Base64 is ASCII, so any index is a character boundary.
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// The labels, for an error message.
pub(crate) fn describe(blocks: &[Block]) -> String {
    if blocks.is_empty() {
        return "no PEM block".to_owned();
    }
    blocks.iter().map(|block| escaped(&block.label)).collect::<Vec<_>>().join(", ")
}

/// The label of a marker line. A whole block on one line, its line ends lost, is none: a key's content would be
/// taken for a label, and be named in errors.
fn marker<'a>(line: &'a str, begins: &str) -> Option<&'a str> {
    let label = line.strip_prefix(begins)?.strip_suffix("-----")?;
    (label.len() <= MAX_LABEL && !label.contains("--")).then_some(label)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_around_blocks_is_passed_over_in_files_and_refused_in_requests() {
        let text = format!("Bag Attributes\n{}# end\n", encode("CERTIFICATE", &[1, 2, 3]));
        let found = certificates(text.as_bytes()).unwrap();
        assert_eq!(found, [(2, vec![1, 2, 3])]);
        assert_eq!(only(&text).err(), Some(PemError::Trailing(1)));
        let one = encode("CERTIFICATE REQUEST", &[7; 100]);
        assert_eq!(only(&format!("\n{one}\n  \n")).unwrap().der, [7; 100]);
        assert_eq!(only(&format!("{one}more")).err(), Some(PemError::Trailing(6)));
        assert_eq!(only(&format!("{one}{one}")).err(), Some(PemError::Trailing(6)));
    }

    #[test]
    fn a_block_takes_the_room_of_a_block() {
        let text = format!("x\n{}{}", encode("A", &[1; 30]), encode("B", &[2; 3]));
        let room = |label: &str| room(&text, text.lines().find(|line| line.contains(label)).unwrap());
        assert_eq!((room("BEGIN A"), room("BEGIN B"), room("END B")), (42, 6, 1));
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let good = encode("CERTIFICATE", &[9; 60]);
        let cut = good.replace("-----END CERTIFICATE-----\n", "");
        assert_eq!(blocks(cut.as_bytes()).err(), Some(PemError::Unfinished(1, "CERTIFICATE".into())));
        let other = good.replace("END CERTIFICATE", "END KEY");
        assert_eq!(blocks(other.as_bytes()).err(), Some(PemError::Unfinished(1, "CERTIFICATE".into())));
        let bad = good.replacen("CQ", "*Q", 1);
        assert_eq!(blocks(bad.as_bytes()).err(), Some(PemError::Base64(1, "CERTIFICATE".into())));
        assert_eq!(blocks(&[0xff, 0xfe]).err(), Some(PemError::NotText));
        assert!(matches!(certificates(b"hello"), Err(PemError::Missing("CERTIFICATE", _))));
    }

    #[test]
    fn a_block_that_lost_its_line_ends_is_not_repeated_as_a_label() {
        let key = encode("PRIVATE KEY", b"a private key that nobody may see");
        let body = key.lines().nth(1).unwrap();
        for text in
            [key.replace('\n', ""), key.replace('\n', "\\n"), format!("-----BEGIN {}-----", body.repeat(2))]
        {
            let errors = [certificates(text.as_bytes()).unwrap_err(), only(&text).err().unwrap()];
            assert!(errors.iter().all(|error| !format!("{error} {error:?}").contains(body)), "{errors:?}");
        }
    }

    #[test]
    fn labels_do_not_reach_a_terminal_as_they_are() {
        let of = |end| format!("-----BEGIN \u{1b}[2J-----\n{end}-----END \u{1b}[2J-----\n");
        for text in [of("*\n"), of("-----\n"), of("AAAA\n")] {
            let error = certificates(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(r"\u{1b}[2J") && !error.contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn headers_are_read_in_files_and_refused_in_requests() {
        let good = encode("RSA PRIVATE KEY", &[9; 60]);
        let header = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n";
        let old = good.replace("-----BEGIN RSA PRIVATE KEY-----\n", header);
        let found = blocks(old.as_bytes()).unwrap();
        assert!(found[0].encrypted && found[0].der == [9; 60]);
        assert!(!blocks(good.as_bytes()).unwrap()[0].encrypted);
        assert_eq!(only(&old).err(), Some(PemError::Headers(2)));
    }

    #[test]
    fn text_in_other_encodings_and_an_editor_s_mark_do_not_hide_blocks() {
        let block = encode("CERTIFICATE", &[1, 2, 3]);
        let text = [b"friendlyName: B\xe4ckerei\r\n", block.replace('\n', "\r\n").as_bytes()].concat();
        assert_eq!(certificates(&text).unwrap(), [(2, vec![1, 2, 3])]);
        assert_eq!(certificates(format!("\u{feff}{block}").as_bytes()).unwrap()[0].0, 1);
    }

    proptest! {
        #[test]
        fn what_is_encoded_reads_back(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(only(&encode("X", &der)).unwrap().der, der);
        }

        #[test]
        fn no_text_panics(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = blocks(&text);
        }
    }
}
