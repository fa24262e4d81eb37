//! The log's key, and what it signs: checkpoints.
//!
//! A checkpoint is a C2SP signed note over the tlog checkpoint text: origin, size, root, and one extension
//! line with the time of signing. Whoever keeps one can tell later whether the log was shortened or
//! rewritten. The note and checkpoint formats come from `signed_note` and `tlog_tiles`; the signature is
//! ring's Ed25519, like all signatures of the CA.

use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fmt, fs, io};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use signed_note::{Note, Signature, Verifier, VerifierList, key_id};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tlog_tiles::{Checkpoint as CheckpointText, Hash};
use zeroize::Zeroizing;

use signet_certs::digest::hex;

use super::record::format_time;
use super::tree::TreeHead;
use crate::data_folder::{DataFolder, LOG_KEY};
use crate::sealing::KeyFileError;

/// How a signed note says that a key is Ed25519.
const ALGORITHM_ED25519: u8 = 1;

/// Before the time in a checkpoint's extension line.
const TIME_LINE: &str = "time ";

/// Why the log's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogKeyError {
    /// It was there once: a log says so.
    #[error(
        "the log's key {} is missing, and {} holds a log that only it can continue: put the key back",
        path.display(),
        log_dir.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// The log's folder.
        log_dir: PathBuf,
    },
    /// Its file cannot be read, opened or written.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// It is not an Ed25519 key in PKCS#8 PEM.
    #[error("the log's key {} is damaged: it is no Ed25519 key in PKCS#8 PEM; put the right one back", path.display())]
    Damaged {
        /// The key's file.
        path: PathBuf,
    },
    /// It is a good key, but not the one that this log was made with.
    #[error("the log's key {} is not the key of the log in {}: put the right one back", path.display(), log_dir.display())]
    OtherLog {
        /// The key's file.
        path: PathBuf,
        /// The log's folder.
        log_dir: PathBuf,
    },
    /// A new key could not be made.
    #[error("there are no random numbers to make the log's key of")]
    Random,
}

/// The key that signs checkpoints.
pub(super) struct LogKey {
    pair: Ed25519KeyPair,
    verifier: LogVerifier,
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogKey({}, (private key))", self.verifier.origin)
    }
}

impl LogKey {
    /// Makes a key and stores it in its place in `folder`.
    ///
    /// # Errors
    /// There is no randomness, or the file cannot be written.
    pub(super) fn create(folder: &DataFolder) -> Result<LogKey, LogKeyError> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| LogKeyError::Random)?;
        let base64 = Zeroizing::new(BASE64.encode(pkcs8.as_ref()));
        let mut pem = Zeroizing::new(String::from("-----BEGIN PRIVATE KEY-----\n"));
        for line in base64.as_bytes().chunks(64) {
            pem.extend(line.iter().copied().map(char::from));
            pem.push('\n');
        }
        pem.push_str("-----END PRIVATE KEY-----\n");
        folder.write_key(LOG_KEY, pem.as_bytes())?;
        LogKey::load(folder)
    }

    /// Reads the key of `folder`.
    ///
    /// # Errors
    /// It is not there (the file's error says so), cannot be read or opened, or is damaged.
    pub(super) fn load(folder: &DataFolder) -> Result<LogKey, LogKeyError> {
        let pem = folder.read_key(LOG_KEY)?;
        let damaged = || LogKeyError::Damaged { path: folder.log_key_path() };
        let der = Zeroizing::new(PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| damaged())?);
        let pair = Ed25519KeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| damaged())?;
        let public_key = pair.public_key().as_ref().try_into().map_err(|_| damaged())?;
        Ok(LogKey { pair, verifier: LogVerifier::of_log(public_key) })
    }

    /// The public side.
    pub(super) fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    /// Signs a tree head.
    pub(super) fn sign(&self, head: TreeHead, now: SystemTime) -> SignedCheckpoint {
        let origin = &self.verifier.origin;
        let extension = format!("{TIME_LINE}{}\n", format_time(now));
        let text = CheckpointText::new(origin, head.size, head.root, &extension)
            .expect("the origin and the extension are not empty");
        let text = text.to_bytes();
        let signature = self.pair.sign(&text).as_ref().to_vec();
        let signature = Signature::new(origin.clone(), self.verifier.key_id, signature)
            .expect("the origin has neither a space nor a plus");
        let note = Note::new(&text, &[signature]).expect("a checkpoint is well-formed text");
        let note = String::from_utf8(note.to_bytes()).expect("a note is UTF-8");
        SignedCheckpoint { size: head.size, root: head.root.0, time: now, note }
    }
}

/// A log's public key under the log's name: what is needed to believe a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogVerifier {
    origin: String,
    key_id: u32,
    public_key: [u8; 32],
}

/// Why there is no verifier key.
#[derive(Debug, thiserror::Error)]
pub enum VerifierKeyError {
    /// The file that should hold it cannot be read.
    #[error("cannot read the log's verifier key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Text is not `<name>+<8 hex digits>+<base64>`, as C2SP signed notes have it, or not of a log.
    #[error("not a log's verifier key: {0}")]
    Malformed(&'static str),
}

/// Where the log in `dir` keeps its verifier key.
pub(super) fn vkey_path(dir: &Path) -> PathBuf {
    dir.join("log.vkey")
}

/// Where the log in `dir` keeps its latest checkpoint.
pub(super) fn checkpoint_path(dir: &Path) -> PathBuf {
    dir.join("checkpoint")
}

impl LogVerifier {
    fn of_log(public_key: [u8; 32]) -> LogVerifier {
        let origin = format!("signet/{}", &hex(&sha256(&public_key))[..16]);
        LogVerifier { key_id: key_id(&origin, &note_key(&public_key)), origin, public_key }
    }

    /// Reads a verifier key, such as the file `log.vkey` holds.
    ///
    /// # Errors
    /// It is malformed, of another algorithm, or of a log that is not named after its key.
    pub fn parse(vkey: &str) -> Result<LogVerifier, VerifierKeyError> {
        let mut parts = vkey.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(VerifierKeyError::Malformed("it has fewer than three parts"));
        };
        let key = BASE64.decode(key).map_err(|_| VerifierKeyError::Malformed("its key is not base64"))?;
        let [ALGORITHM_ED25519, key @ ..] = &key[..] else {
            return Err(VerifierKeyError::Malformed("its key is not of Ed25519"));
        };
        let public_key =
            key.try_into().map_err(|_| VerifierKeyError::Malformed("its key is not of Ed25519"))?;
        let verifier = LogVerifier::of_log(public_key);
        if verifier.origin != name || format!("{:08x}", verifier.key_id) != id {
            return Err(VerifierKeyError::Malformed("its name and id are not those of its key"));
        }
        Ok(verifier)
    }

    /// Reads the verifier key that the log in `dir` carries. It says what that log claims to be; to trust it,
    /// compare it with one that was kept elsewhere.
    ///
    /// # Errors
    /// It cannot be read or is malformed.
    pub fn of_folder(dir: &Path) -> Result<LogVerifier, VerifierKeyError> {
        let path = vkey_path(dir);
        let vkey = fs::read_to_string(&path).map_err(|source| VerifierKeyError::Read { path, source })?;
        LogVerifier::parse(&vkey)
    }

    /// The log's name, `signet/<first 16 hex digits of the log id>`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// SHA-256 of the public key.
    pub fn log_id(&self) -> [u8; 32] {
        sha256(&self.public_key)
    }

    /// The key in the form that [`parse`](LogVerifier::parse) reads.
    pub fn vkey(&self) -> String {
        format!("{}+{:08x}+{}", self.origin, self.key_id, BASE64.encode(note_key(&self.public_key)))
    }
}

fn note_key(public_key: &[u8; 32]) -> Vec<u8> {
    [&[ALGORITHM_ED25519], &public_key[..]].concat()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

impl Verifier for LogVerifier {
    fn name(&self) -> &str {
        &self.origin
    }

    fn key_id(&self) -> u32 {
        self.key_id
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public_key).verify(message, signature).is_ok()
    }
}

/// A checkpoint whose signature was made or verified here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// How many records the tree has.
    pub size: u64,
    /// The tree's root hash.
    pub root: [u8; 32],
    /// When it was signed.
    pub time: SystemTime,
    /// The signed note: text to keep, export and compare.
    pub note: String,
}

/// Why text is not a checkpoint of a log.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It is no signed note, or not signed by this log's key.
    #[error("checkpoint is not signed by the log {origin}")]
    Signature {
        /// The log whose key was used.
        origin: String,
        /// What the note's reader said.
        #[source]
        source: signed_note::NoteError,
    },
    /// The key signed it, but it is no checkpoint that this program knows.
    #[error("checkpoint has no valid {0}")]
    Field(&'static str),
}

impl SignedCheckpoint {
    /// Verifies and reads a checkpoint.
    ///
    /// # Errors
    /// It is not signed by that log, or is no checkpoint.
    pub fn verify(note: &str, verifier: &LogVerifier) -> Result<SignedCheckpoint, CheckpointError> {
        let unsigned = |source| CheckpointError::Signature { origin: verifier.origin.clone(), source };
        let parsed = Note::from_bytes(note.as_bytes()).map_err(unsigned)?;
        parsed.verify(&VerifierList::new(vec![Box::new(verifier.clone())])).map_err(unsigned)?;
        let text = CheckpointText::from_bytes(parsed.text()).map_err(|_| CheckpointError::Field("text"))?;
        if text.origin() != verifier.origin {
            return Err(CheckpointError::Field("origin"));
        }
        let time = text
            .extension()
            .lines()
            .find_map(|line| line.strip_prefix(TIME_LINE))
            .and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok())
            .ok_or(CheckpointError::Field("time"))?;
        let Hash(root) = *text.hash();
        Ok(SignedCheckpoint { size: text.size(), root, time: time.into(), note: note.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::issuance_log::record::tests::time;
    use std::os::unix::fs::PermissionsExt;

    fn key() -> (tempfile::TempDir, LogKey) {
        let folder = tempfile::tempdir().unwrap();
        let key = LogKey::create(&data(&folder)).unwrap();
        (folder, key)
    }

    fn data(folder: &tempfile::TempDir) -> DataFolder {
        DataFolder::open(folder.path()).unwrap()
    }

    const HEAD: TreeHead = TreeHead { size: 5, root: Hash([7; 32]) };

    #[test]
    fn a_key_is_private_and_comes_back_from_its_file() {
        let (folder, key) = key();
        let path = folder.path().join("log-key.pem");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = LogKey::load(&data(&folder)).unwrap();
        assert_eq!(again.verifier(), key.verifier());
        assert_eq!(format!("{key:?}"), format!("LogKey({}, (private key))", key.verifier().origin()));
    }

    #[test]
    fn a_signed_checkpoint_verifies_with_the_exported_key_only() {
        let (_folder, key) = key();
        let signed = key.sign(HEAD, time());
        let verifier = LogVerifier::parse(&key.verifier().vkey()).unwrap();
        let verified = SignedCheckpoint::verify(&signed.note, &verifier).unwrap();
        assert_eq!(verified, signed);
        assert_eq!(verified.root, [7; 32]);
        assert!(signed.note.starts_with(&format!("signet/{}\n5\n", &hex(&verifier.log_id())[..16])));

        let (_folder, other) = self::key();
        let error = SignedCheckpoint::verify(&signed.note, other.verifier()).unwrap_err();
        assert!(matches!(error, CheckpointError::Signature { .. }));
    }

    #[test]
    fn the_formats_authors_verifier_agrees() {
        let (_folder, key) = key();
        let theirs = signed_note::StandardVerifier::new(&key.verifier().vkey()).unwrap();
        let note = Note::from_bytes(key.sign(HEAD, time()).note.as_bytes()).unwrap();
        note.verify(&VerifierList::new(vec![Box::new(theirs)])).unwrap();
    }

    #[test]
    fn a_changed_checkpoint_is_refused_at_each_byte() {
        let (_folder, key) = key();
        let signed = key.sign(HEAD, time());
        for at in 0..signed.note.len() {
            let mut note = signed.note.clone().into_bytes();
            note[at] ^= 1;
            if let Ok(note) = String::from_utf8(note) {
                SignedCheckpoint::verify(&note, key.verifier()).unwrap_err();
            }
        }
    }

    #[test]
    fn what_the_key_signed_must_still_be_a_checkpoint() {
        let (_folder, key) = key();
        let origin = key.verifier().origin.clone();
        let error = |text: String| {
            let signature = key.pair.sign(text.as_bytes()).as_ref().to_vec();
            let signature = Signature::new(origin.clone(), key.verifier.key_id, signature).unwrap();
            let note = Note::new(text.as_bytes(), &[signature]).unwrap().to_bytes();
            let note = String::from_utf8(note).unwrap();
            SignedCheckpoint::verify(&note, key.verifier()).unwrap_err().to_string()
        };
        let root = BASE64.encode([7; 32]);
        assert_eq!(error("hello\n".to_owned()), "checkpoint has no valid text");
        assert_eq!(error(format!("other\n5\n{root}\n")), "checkpoint has no valid origin");
        assert_eq!(error(format!("{origin}\n5\n{root}\n")), "checkpoint has no valid time");
    }

    #[test]
    fn a_malformed_verifier_key_is_refused() {
        let (_folder, key) = key();
        let vkey = key.verifier().vkey();
        assert!(LogVerifier::parse(&format!("{vkey}\n")).is_ok());
        let (name, rest) = vkey.split_once('+').unwrap();
        let (id, key) = rest.split_once('+').unwrap();
        for bad in [
            name.to_owned(),
            format!("{name}+{id}+%"),
            format!("{name}+{id}+{}", BASE64.encode([2; 33])),
            format!("{name}+{id}+{}", BASE64.encode([1; 5])),
            format!("signet/other+{id}+{key}"),
            format!("{name}+00000000+{key}"),
        ] {
            LogVerifier::parse(&bad).unwrap_err();
        }
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = data(&folder).log_key_path();
        for bytes in [&b""[..], b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            fs::write(&path, bytes).unwrap();
            assert!(matches!(LogKey::load(&data(&folder)), Err(LogKeyError::Damaged { .. })));
        }
    }
}
