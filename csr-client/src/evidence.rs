//! What we prove ourselves with: the service-account token that the kubelet keeps fresh in a file.
//!
//! It is read at each attempt and dropped after it. It reaches no log, error or Debug output.

use secrecy::{ExposeSecret, SecretString};
use std::path::{Path, PathBuf};
use tonic::metadata::{Ascii, MetadataValue};
use zeroize::Zeroizing;

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
        source: std::io::Error,
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
}

/// A token as it was read.
#[derive(Debug)]
pub struct Token(SecretString);

impl Token {
    /// Reads and trims the file.
    pub async fn read(path: &Path) -> Result<Self, EvidenceError> {
        let text = tokio::fs::read_to_string(path)
            .await
            .map_err(|source| EvidenceError::Unreadable { path: path.to_owned(), source })?;
        let text = Zeroizing::new(text);
        let token = text.trim();
        if token.is_empty() {
            return Err(EvidenceError::Empty { path: path.to_owned() });
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(EvidenceError::Malformed { path: path.to_owned() });
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
    async fn unreadable_empty_and_malformed_tokens_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(matches!(Token::read(&path).await, Err(EvidenceError::Unreadable { .. })));
        std::fs::write(&path, " \n").unwrap();
        assert!(matches!(Token::read(&path).await, Err(EvidenceError::Empty { .. })));
        std::fs::write(&path, "abc\ndef").unwrap();
        let error = Token::read(&path).await.unwrap_err();
        assert!(matches!(error, EvidenceError::Malformed { .. }));
        assert!(!format!("{error} {error:?}").contains("abc"));
    }
}
