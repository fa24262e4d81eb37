//! What we prove ourselves with: the service-account token that the kubelet keeps fresh in a file.
//!
//! It is read at each attempt and dropped after it. It reaches no log, error or Debug output.

use crate::reason::Reason;
use secrecy::{ExposeSecret, SecretString};
use std::io;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

/// Largest token that is read; the CA reads no more of all headers together.
const MAX_TOKEN: u64 = 32 * 1024;

/// Why there is no evidence at the moment.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The file cannot be read.
    #[error("cannot read the token {path}", path = path.display())]
    Unreadable {
        /// The token's file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// A folder, a pipe or the like has the name; reading some of these would never end.
    #[error("the token {path} is not a file", path = path.display())]
    NotAFile {
        /// The token's file.
        path: PathBuf,
    },
    /// More than any token has.
    #[error("the token {path} is longer than {MAX_TOKEN} bytes", path = path.display())]
    TooLong {
        /// The token's file.
        path: PathBuf,
    },
    /// The file has nothing but white space.
    #[error("the token {path} is empty", path = path.display())]
    Empty {
        /// The token's file.
        path: PathBuf,
    },
    /// The content cannot stand in a header.
    #[error("the token {path} has characters that no token has", path = path.display())]
    Malformed {
        /// The token's file.
        path: PathBuf,
    },
    /// It can stand in a header and is no JWT (RFC 7519): half of a write, for example.
    #[error("the token {path} is not whole: expected three parts with dots between them, found {parts}", path = path.display())]
    NotWhole {
        /// The token's file.
        path: PathBuf,
        /// Parts that are there.
        parts: usize,
    },
}

impl EvidenceError {
    /// A stable word for logs and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unreadable { .. } => Reason::TokenUnreadable,
            Self::NotAFile { .. } => Reason::TokenNotAFile,
            Self::TooLong { .. } => Reason::TokenTooLong,
            Self::Empty { .. } => Reason::TokenEmpty,
            Self::Malformed { .. } | Self::NotWhole { .. } => Reason::TokenMalformed,
        }
    }
}

/// A token as it was read.
#[derive(Debug)]
pub struct Token(SecretString);

impl Token {
    /// Reads and trims the file.
    pub async fn read(path: &Path) -> Result<Self, EvidenceError> {
        let own = || path.to_owned();
        let text =
            read_file(path).await.map_err(|source| EvidenceError::Unreadable { path: own(), source })?;
        let text = text.ok_or_else(|| EvidenceError::NotAFile { path: own() })?;
        if text.len() as u64 > MAX_TOKEN {
            return Err(EvidenceError::TooLong { path: own() });
        }
        let Ok(token) = std::str::from_utf8(text.trim_ascii()) else {
            return Err(EvidenceError::Malformed { path: own() });
        };
        if token.is_empty() {
            return Err(EvidenceError::Empty { path: own() });
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(EvidenceError::Malformed { path: own() });
        }
        // What is in the parts is for the CA to judge.
        let parts = token.split('.').filter(|part| !part.is_empty()).count();
        if parts != 3 || token.split('.').count() != 3 {
            return Err(EvidenceError::NotWhole { path: own(), parts });
        }
        Ok(Self(token.into()))
    }

    /// The value of the `authorization` header, marked as sensitive.
    pub fn header(&self) -> MetadataValue<Ascii> {
        let text = Zeroizing::new(format!("Bearer {}", self.0.expose_secret()));
        let mut value = MetadataValue::try_from(text.as_str()).expect("read() lets only visible ASCII pass");
        value.set_sensitive(true);
        value
    }
}

/// One byte more than a token may have at the most; `None` if it is no file.
async fn read_file(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Asked before it is opened: opening a pipe without a writer would never return.
    if !tokio::fs::metadata(path).await?.is_file() {
        return Ok(None);
    }
    let mut content = Zeroizing::new(Vec::new());
    tokio::fs::File::open(path).await?.take(MAX_TOKEN + 1).read_to_end(&mut content).await?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_token_is_trimmed_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "\n abc.def.ghi \n").unwrap();
        let token = Token::read(&path).await.unwrap();
        assert_eq!(token.header().to_str().unwrap(), "Bearer abc.def.ghi");
        assert!(!format!("{token:?} {:?}", token.header()).contains("abc"));
    }

    #[tokio::test]
    async fn every_state_that_a_token_s_file_can_be_in_has_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let reason = async || {
            let error = Token::read(&path).await.unwrap_err();
            assert!(!format!("{error} {error:?}").contains("abc"), "nothing of a token is shown");
            error.reason()
        };
        assert_eq!(reason().await, "token_unreadable");
        let long = "a".repeat(MAX_TOKEN as usize + 1);
        for (content, expected) in [
            (" \n", "token_empty"),
            ("", "token_empty"),
            ("abc\ndef", "token_malformed"),
            ("abc.d\u{e9}f.ghi", "token_malformed"),
            // Cut off at several places, and not a token at all.
            ("abc", "token_malformed"),
            ("abc.", "token_malformed"),
            ("abc.def", "token_malformed"),
            ("abc.def.", "token_malformed"),
            ("abc.def.ghi.jkl", "token_malformed"),
            (&long, "token_too_long"),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(reason().await, expected, "{content:.20}");
        }
        std::fs::write(&path, b"abc.\xff.ghi").unwrap();
        assert_eq!(reason().await, "token_malformed");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(reason().await, "token_not_a_file");
        std::fs::remove_dir(&path).unwrap();
        // A pipe that nobody writes to: reading it would keep a thread for ever, at each attempt.
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(reason().await, "token_not_a_file");
    }

    #[tokio::test]
    async fn the_kubelet_s_swap_of_links_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (version, token) in [("..1", "abc.def.ghi"), ("..2", "jkl.mno.pqr")] {
            std::fs::create_dir(path(version)).unwrap();
            std::fs::write(path(version).join("token"), token).unwrap();
            std::os::unix::fs::symlink(version, path("..data_tmp")).unwrap();
            std::fs::rename(path("..data_tmp"), path("..data")).unwrap();
            if version == "..1" {
                std::os::unix::fs::symlink("..data/token", path("token")).unwrap();
            }
            let read = Token::read(&path("token")).await.unwrap();
            assert_eq!(read.header().to_str().unwrap(), format!("Bearer {token}"));
        }
    }
}
