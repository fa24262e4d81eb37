//! Keys at rest: sealed with a key-encryption key that lives elsewhere, or plain where none is configured.
//!
//! A sealed file is one PEM block `SIGNET SEALED KEY` around these bytes:
//!
//! ```text
//! version      1 byte, now 1
//! key id       8 bytes, the first of SHA-256 over the key-encryption key
//! nonce       12 bytes, random
//! ciphertext   AES-256-GCM of the plain file, byte for byte, and its tag of 16 bytes
//! ```
//!
//! The associated data are the version byte and the file's name within the data folder, so that no sealed key
//! can be put in another one's place. The key id tells a wrong key-encryption key from damage; it says nothing
//! about the key. The key-encryption key is a file of 32 bytes, as 64 hex digits, in base64 or raw, which
//! nobody but its owner may read. [`DataFolder`](crate::data_folder::DataFolder) applies all this to its keys.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, str};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use signet_certs::digest::{hex, sha256};
use signet_certs::pem;
use signet_service::files;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::exposure;

/// The format that is written, and the newest that is read.
const VERSION: u8 = 1;
const LABEL: &str = "SIGNET SEALED KEY";
const BEGIN: &[u8] = b"-----BEGIN SIGNET SEALED KEY-----";
const KEY_ID: usize = 8;
/// Bytes before the ciphertext.
const HEADER: usize = 1 + KEY_ID + NONCE_LEN;
/// Bytes of a key-encryption key.
const KEY: usize = 32;
/// No key file is larger, whichever it is; what is was put there by mistake.
const MAX_FILE: u64 = 1024 * 1024;

/// Why there is no key-encryption key.
#[derive(Debug, Error)]
pub enum KekError {
    /// It cannot be read.
    #[error("cannot read the key-encryption key {}", path.display())]
    Read {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others may read or change it.
    #[error(
        "the key-encryption key {} has mode {mode:04o}: others than its owner may open it (chmod 600, or 400)",
        path.display()
    )]
    Exposed {
        /// Its file.
        path: PathBuf,
        /// The permission bits.
        mode: u32,
    },
    /// It is something else.
    #[error(
        "the key-encryption key {} is not 32 bytes as 64 hex digits, in base64 or raw (openssl rand -hex 32 makes one)",
        path.display()
    )]
    Form {
        /// Its file.
        path: PathBuf,
    },
}

/// Why a key cannot be sealed or opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// Sealed, and nobody said with what.
    #[error(
        "it is sealed with the key-encryption key {found}, and none is configured: name its file (key_encryption_key_file)"
    )]
    NoKey {
        /// Id of the key that it was sealed with, hex.
        found: String,
    },
    /// Sealed with another key.
    #[error(
        "it is sealed with the key-encryption key {found}, and {configured} is configured: configure the one that it was sealed with"
    )]
    OtherKey {
        /// Id of the key that it was sealed with, hex.
        found: String,
        /// Id of the key that is configured, hex.
        configured: String,
    },
    /// The right key does not open it.
    #[error("it was damaged, or sealed as another file: put it back from a backup")]
    Damaged,
    /// A later program sealed it.
    #[error(
        "it is sealed in format {0}; this program knows {VERSION}: run the program that sealed it or a later one"
    )]
    Version(u8),
    /// The system has no random numbers.
    #[error("there are no random numbers to seal it with")]
    Random,
}

/// Why a key file cannot be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("cannot read the key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write the key {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be sealed or opened.
    #[error("cannot use the key {}", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: SealError,
    },
}

/// Seals and opens keys, with a key-encryption key or without.
#[derive(Default)]
pub struct Sealer {
    key: Option<KeyEncryptionKey>,
}

struct KeyEncryptionKey {
    key: LessSafeKey,
    id: [u8; KEY_ID],
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "Sealer(key-encryption key {}, (private key))", hex(&key.id)),
            None => f.write_str("Sealer(plain)"),
        }
    }
}

impl Sealer {
    /// Leaves keys as they are.
    pub fn plain() -> Sealer {
        Sealer::default()
    }

    /// With the key-encryption key in the file `path`; without a path, [`plain`](Sealer::plain).
    ///
    /// # Errors
    /// The file cannot be read, others may read it, or it is no key.
    pub fn from_file(path: Option<&Path>) -> Result<Sealer, KekError> {
        let Some(path) = path else { return Ok(Sealer::plain()) };
        let failed = |source| KekError::Read { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        // Of the file that was opened, not of whatever has its name by now.
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KekError::Exposed { path: path.to_owned(), mode });
        }
        let bytes = read_bounded(file).map_err(failed)?;
        match key_bytes(&bytes) {
            Some(key) => Ok(Sealer::with_key(&key)),
            None => Err(KekError::Form { path: path.to_owned() }),
        }
    }

    fn with_key(bytes: &[u8; KEY]) -> Sealer {
        let mut id = [0; KEY_ID];
        id.copy_from_slice(&sha256(bytes)[..KEY_ID]);
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes keys of 32 bytes");
        Sealer { key: Some(KeyEncryptionKey { key: LessSafeKey::new(key), id }) }
    }

    /// Whether there is a key-encryption key.
    pub fn seals(&self) -> bool {
        self.key.is_some()
    }

    /// What is to be stored for the plain file `plain` that is called `name` within the data folder.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let Some(KeyEncryptionKey { key, id }) = &self.key else {
            return Ok(Zeroizing::new(plain.to_vec()));
        };
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| SealError::Random)?;
        // Encrypted in place; the space for the tag is there, so that no copy of the key stays behind.
        let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
        text.extend_from_slice(plain);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated(name), &mut *text)
            .map_err(|_| SealError::Random)?;
        let sealed = [&[VERSION], &id[..], &nonce, &text].concat();
        Ok(Zeroizing::new(pem::encode(LABEL, &sealed).into_bytes()))
    }

    /// The plain file of what is stored under `name`. What is not sealed is the plain file itself, with a
    /// key-encryption key or without: [`is_sealed`] tells.
    ///
    /// # Errors
    /// It is sealed, and not with this key, not under this name, or not as it is now.
    pub fn open(&self, name: &str, stored: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if !is_sealed(stored) {
            return Ok(Zeroizing::new(stored.to_vec()));
        }
        let text = str::from_utf8(stored).map_err(|_| SealError::Damaged)?;
        let mut sealed = Zeroizing::new(pem::only(text).map_err(|_| SealError::Damaged)?.der);
        match sealed.first() {
            Some(&VERSION) => {}
            Some(&version) => return Err(SealError::Version(version)),
            None => return Err(SealError::Damaged),
        }
        let Some((header, _)) = sealed.split_at_checked(HEADER) else { return Err(SealError::Damaged) };
        let found = &header[1..=KEY_ID];
        let key = match &self.key {
            None => return Err(SealError::NoKey { found: hex(found) }),
            Some(key) if key.id != *found => {
                return Err(SealError::OtherKey { found: hex(found), configured: hex(&key.id) });
            }
            Some(key) => &key.key,
        };
        let nonce =
            Nonce::try_assume_unique_for_key(&header[1 + KEY_ID..]).map_err(|_| SealError::Damaged)?;
        let opened = key
            .open_in_place(nonce, associated(name), &mut sealed[HEADER..])
            .map_err(|_| SealError::Damaged)?;
        Ok(Zeroizing::new(opened.to_vec()))
    }

    /// Reads the key file `name` of the folder `folder`. One of ours that others may open is closed, a plain one is
    /// sealed on the way, if there is a key-encryption key.
    ///
    /// # Errors
    /// It is not there (the file's error says so), cannot be read or opened, or cannot be sealed.
    pub fn read_file(&self, folder: &Path, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let path = folder.join(name);
        let failed = |source| KeyFileError::Read { path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        exposure::close_key(&file, &path).map_err(failed)?;
        let stored = read_bounded(file).map_err(failed)?;
        let plain =
            self.open(name, &stored).map_err(|source| KeyFileError::Seal { path: path.clone(), source })?;
        if self.seals() && !is_sealed(&stored) {
            self.write_file(folder, name, &plain)?;
            tracing::info!(path = %path.display(), "sealed a key that was stored plain");
        }
        Ok(plain)
    }

    /// Stores `plain` as the key file `name` of the folder `folder`, sealed if there is a key-encryption key,
    /// mode 0600, atomically.
    ///
    /// # Errors
    /// It cannot be sealed or written; what was there before still is.
    pub fn write_file(&self, folder: &Path, name: &str, plain: &[u8]) -> Result<(), KeyFileError> {
        let path = folder.join(name);
        let stored =
            self.seal(name, plain).map_err(|source| KeyFileError::Seal { path: path.clone(), source })?;
        files::write(&path, &stored, 0o600).map_err(|source| KeyFileError::Write { path, source })
    }
}

/// Whether a stored key is sealed.
pub fn is_sealed(stored: &[u8]) -> bool {
    stored.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == BEGIN)
}

fn associated(name: &str) -> Aad<Vec<u8>> {
    Aad::from([&[VERSION], name.as_bytes()].concat())
}

/// Whether this is a key-encryption key as people write it, in hex or base64, where its file's name should be.
pub(crate) fn is_key(text: &[u8]) -> bool {
    text.len() != KEY && !text.starts_with(b"/") && key_bytes(text).is_some()
}

/// A key in any of its three forms. They cannot be mistaken for each other: their lengths differ.
fn key_bytes(bytes: &[u8]) -> Option<Zeroizing<[u8; KEY]>> {
    if let Ok(raw) = bytes.try_into() {
        return Some(Zeroizing::new(raw));
    }
    let text = bytes.trim_ascii();
    let mut key = Zeroizing::new([0; KEY]);
    if text.len() == 2 * KEY {
        for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |at: usize| char::from(digits[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
        }
        return Some(key);
    }
    // The decoder may need a little more room than it fills.
    let mut decoded = Zeroizing::new([0; KEY + 4]);
    match BASE64.decode_slice(text, &mut *decoded) {
        Ok(KEY) => key.copy_from_slice(&decoded[..KEY]),
        _ => return None,
    }
    Some(key)
}

fn read_bounded(file: File) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for the whole file at once, so that growing leaves no copy behind.
    let room = file.metadata()?.len().min(MAX_FILE) as usize + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NAME: &str = "log-key.pem";
    const PLAIN: &[u8] = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";

    fn sealer(byte: u8) -> Sealer {
        Sealer::with_key(&[byte; KEY])
    }

    fn kek(content: &[u8], mode: u32) -> Result<Sealer, KekError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Sealer::from_file(Some(&path))
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_name_only() {
        let sealed = sealer(1).seal(NAME, PLAIN).unwrap();
        assert!(is_sealed(&sealed) && !is_sealed(PLAIN));
        assert!(!sealed.windows(8).any(|window| window == b"c2VjcmV0"));
        assert_eq!(*sealer(1).open(NAME, &sealed).unwrap(), PLAIN);
        assert_ne!(*sealer(1).seal(NAME, PLAIN).unwrap(), *sealed, "each time with another nonce");

        let (one, two) = (hex(&sealer(1).key.unwrap().id), hex(&sealer(2).key.unwrap().id));
        assert_eq!(Sealer::plain().open(NAME, &sealed), Err(SealError::NoKey { found: one.clone() }));
        let other = sealer(2).open(NAME, &sealed);
        assert_eq!(other, Err(SealError::OtherKey { found: one, configured: two }));
        assert_eq!(sealer(1).open("authorities/ab/ca-key.pem", &sealed), Err(SealError::Damaged));
    }

    #[test]
    fn a_sealed_key_that_was_changed_anywhere_does_not_open() {
        let sealed = pem::only(str::from_utf8(&sealer(1).seal(NAME, PLAIN).unwrap()).unwrap()).unwrap().der;
        let error = |bytes: &[u8]| sealer(1).open(NAME, pem::encode(LABEL, bytes).as_bytes()).unwrap_err();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 0x40;
            match (at, error(&changed)) {
                (0, SealError::Version(0x41)) => {}
                (1..=KEY_ID, SealError::OtherKey { .. }) => {}
                (HEADER.., SealError::Damaged) => {}
                (9..HEADER, SealError::Damaged) => {}
                (at, other) => panic!("byte {at}: {other:?}"),
            }
        }
        for length in [0, 1, HEADER - 1, HEADER, HEADER + 15, sealed.len() - 1] {
            assert_eq!(error(&sealed[..length]), SealError::Damaged, "cut to {length}");
        }
        let text = pem::encode(LABEL, &sealed);
        let cut = text.replace("-----END", "-----");
        assert_eq!(sealer(1).open(NAME, cut.as_bytes()), Err(SealError::Damaged));
    }

    #[test]
    fn without_a_key_everything_stays_as_it_is() {
        assert_eq!(*Sealer::plain().seal(NAME, PLAIN).unwrap(), PLAIN);
        assert_eq!(*Sealer::plain().open(NAME, PLAIN).unwrap(), PLAIN);
        assert!(!Sealer::from_file(None).unwrap().seals());
    }

    #[test]
    fn a_plain_key_is_sealed_when_a_key_encryption_key_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        fs::write(&path, PLAIN).unwrap();
        assert_eq!(*sealer(1).read_file(folder.path(), NAME).unwrap(), PLAIN);
        assert!(is_sealed(&fs::read(&path).unwrap()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let sealed = fs::read(&path).unwrap();
        assert_eq!(*sealer(1).read_file(folder.path(), NAME).unwrap(), PLAIN);
        assert_eq!(fs::read(&path).unwrap(), sealed, "once is enough");
        let error = Sealer::plain().read_file(folder.path(), NAME).unwrap_err();
        assert!(matches!(&error, KeyFileError::Seal { source: SealError::NoKey { .. }, .. }), "{error:?}");
        assert_eq!(fs::read(&path).unwrap(), sealed);
    }

    #[test]
    fn a_key_encryption_key_has_three_forms() {
        let bytes: Vec<u8> = (0xe0..=0xff).collect();
        let id = sealer(0).key.map(|_| Sealer::with_key(&bytes.clone().try_into().unwrap()).key.unwrap().id);
        let (hex, base64) = (hex(&bytes), BASE64.encode(&bytes));
        for form in [
            bytes.clone(),
            hex.clone().into_bytes(),
            format!("{}\n", hex.to_uppercase()).into_bytes(),
            format!(" {base64}\n").into_bytes(),
        ] {
            assert_eq!(kek(&form, 0o600).unwrap().key.map(|key| key.id), id);
        }
        for bad in [
            &bytes[1..],
            &[],
            &hex.as_bytes()[1..],
            &[b'g'; 64],
            &base64.as_bytes()[..43],
            BASE64.encode([1; 33]).as_bytes(),
            BASE64.encode([1; 200]).as_bytes(),
            &vec![b'a'; MAX_FILE as usize],
        ] {
            assert!(matches!(kek(bad, 0o600), Err(KekError::Form { .. })), "{} bytes", bad.len());
        }
        assert!(matches!(kek(&vec![0; MAX_FILE as usize + 1], 0o600), Err(KekError::Read { .. })));
        assert!(matches!(Sealer::from_file(Some(Path::new("/nowhere/kek"))), Err(KekError::Read { .. })));
    }

    #[test]
    fn a_key_encryption_key_that_others_may_open_is_refused() {
        assert!(kek(&[7; KEY], 0o400).is_ok());
        for mode in [0o640, 0o604, 0o620, 0o644] {
            let error = kek(&[7; KEY], mode).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn nothing_secret_prints() {
        let shown = format!("{:?}", sealer(7));
        assert!(
            shown.contains("(private key)") && !shown.contains("07, 07") && !shown.contains(&hex(&[7; 8]))
        );
        assert_eq!(format!("{:?}", Sealer::plain()), "Sealer(plain)");
    }
}
