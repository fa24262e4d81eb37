//! A token issuer for machines without Kubernetes: makes a signing key with its key set, and mints
//! tokens shaped like the projected service-account tokens of kube-apiserver.
//!
//! Tests and the load program mint in-process; the program `token-issuer` puts a command line on it.
//! A test takes a good [`Draft`] from [`TokenIssuer::draft`], changes one thing in its header or its
//! claims, and has it signed, well ([`TokenIssuer::sign`]) or badly ([`TokenIssuer::sign_hs256`],
//! [`Draft::unsigned`]). [`Subject`] says who a token is for.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use ring::{digest, hmac};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use signet_certs::key::{KeyError, KeyKind, PrivateKey};
use signet_certs::pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

mod draft;

use draft::base64url;
pub use draft::{DEFAULT_LIFETIME, Draft, Object, Subject};

/// The private key's file in a key folder: PKCS#8 in PEM, mode 0600.
pub const KEY_FILE: &str = "issuer-key.pem";
/// The public key set's file in a key folder, as `--jwks` of the CA takes it.
pub const KEY_SET_FILE: &str = "jwks.json";

/// What can go wrong with an issuer, its files and its signatures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No key could be made.
    #[error("make a signing key")]
    Generate,
    /// The file of the key could not be read.
    #[error("read the signing key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it could not be read.
        source: io::Error,
    },
    /// What stands there is no key.
    #[error("load the signing key")]
    Key(#[source] KeyError),
    /// A key that no token here is signed with.
    #[error("sign tokens with {0}: only RSA and P-256 are known here")]
    Kind(KeyKind),
    /// A file could not be written; keys that are already there are never written over.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why it could not be written.
        source: io::Error,
    },
    /// The signature failed.
    #[error("sign a token")]
    Sign,
}

/// The algorithm that an issuer signs its tokens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA (2048 bits, if the key is made here), PKCS#1 v1.5, SHA-256: kube-apiserver's usual choice.
    Rs256,
    /// P-256 with SHA-256.
    Es256,
}

impl Algorithm {
    /// The name in a token's header and in a key set.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

/// One signing key of one issuer.
pub struct TokenIssuer {
    key: PrivateKey,
    // The same key where it is P-256: tokens have both numbers of the signature side by side, not as DER.
    p256: Option<EcdsaKeyPair>,
}

impl TokenIssuer {
    /// An issuer with a new key.
    ///
    /// # Errors
    /// [`Error::Generate`].
    pub fn generate(algorithm: Algorithm) -> Result<Self, Error> {
        match algorithm {
            Algorithm::Rs256 => {
                // ring cannot make RSA keys.
                let key = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| Error::Generate)?;
                let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| Error::Generate)?;
                Self::from_pem(pem::encode("PRIVATE KEY", der.as_ref()).as_bytes())
            }
            Algorithm::Es256 => Self::new(PrivateKey::generate_p256().map_err(|_| Error::Generate)?),
        }
    }

    /// The issuer whose key stands in a folder written by [`TokenIssuer::save`].
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Key`] and [`Error::Kind`].
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(KEY_FILE);
        let text = fs::read(&path).map_err(|source| Error::Read { path, source })?;
        Self::from_pem(&text)
    }

    fn from_pem(text: &[u8]) -> Result<Self, Error> {
        Self::new(PrivateKey::from_pem(text).map_err(Error::Key)?)
    }

    fn new(key: PrivateKey) -> Result<Self, Error> {
        let p256 = match key.kind() {
            KeyKind::Rsa(_) => None,
            KeyKind::P256 => {
                let der = PrivatePkcs8KeyDer::from_pem_slice(key.to_pkcs8_pem().as_bytes())
                    .expect("what PrivateKey writes is PKCS#8 in PEM");
                let pair = EcdsaKeyPair::from_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    der.secret_pkcs8_der(),
                    &SystemRandom::new(),
                );
                Some(pair.map_err(|error| Error::Key(KeyError::Rejected(error.to_string())))?)
            }
            other => return Err(Error::Kind(other)),
        };
        Ok(Self { key, p256 })
    }

    /// Writes [`KEY_FILE`] and [`KEY_SET_FILE`] into a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`Error::Write`], also if one of the files is already there.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let key_set = format!("{:#}\n", self.key_set());
        write_new(&folder.join(KEY_FILE), 0o600, self.key.to_pkcs8_pem().as_bytes())?;
        write_new(&folder.join(KEY_SET_FILE), 0o644, key_set.as_bytes())
    }

    /// The algorithm that the key signs with.
    pub fn algorithm(&self) -> Algorithm {
        if self.p256.is_some() { Algorithm::Es256 } else { Algorithm::Rs256 }
    }

    /// The key's id as kube-apiserver makes it: SHA-256 of the SubjectPublicKeyInfo, in base64url.
    pub fn key_id(&self) -> String {
        base64url(digest::digest(&digest::SHA256, self.key.spki()))
    }

    /// The key set (RFC 7517) with this one key, as kube-apiserver serves it.
    pub fn key_set(&self) -> Value {
        let mut key = match &self.p256 {
            Some(pair) => {
                // An uncompressed point: 0x04, then both coordinates.
                let point = pair.public_key().as_ref();
                json!({
                    "kty": "EC", "crv": "P-256",
                    "x": base64url(&point[1..33]), "y": base64url(&point[33..]),
                })
            }
            None => {
                let (_, spki) = SubjectPublicKeyInfo::from_der(self.key.spki())
                    .expect("PrivateKey made this SubjectPublicKeyInfo");
                let Ok(PublicKey::RSA(public)) = spki.parsed() else {
                    unreachable!("a key that is not P-256 is RSA: see `new`");
                };
                // DER has a zero before a number whose first bit is set; a key set has not.
                let modulus = public.modulus.strip_prefix(&[0]).unwrap_or(public.modulus);
                json!({ "kty": "RSA", "n": base64url(modulus), "e": base64url(public.exponent) })
            }
        };
        key["use"] = json!("sig");
        key["alg"] = json!(self.algorithm().name());
        key["kid"] = json!(self.key_id());
        json!({ "keys": [key] })
    }

    /// A good draft: valid from `now` for [`DEFAULT_LIFETIME`], with the claims of a projected token.
    pub fn draft(&self, issuer: &str, audience: &str, subject: &Subject, now: SystemTime) -> Draft {
        let header = json!({ "alg": self.algorithm().name(), "kid": self.key_id() });
        Draft::new(header, issuer, audience, subject, now)
    }

    /// The token of a draft, signed with this issuer's key whatever the draft's header says.
    ///
    /// # Errors
    /// [`Error::Sign`].
    pub fn sign(&self, draft: &Draft) -> Result<String, Error> {
        let input = draft.signing_input();
        let signature = match &self.p256 {
            Some(pair) => {
                pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| Error::Sign)?.as_ref().to_vec()
            }
            None => self.key.sign(input.as_bytes()).map_err(|_| Error::Sign)?,
        };
        Ok(format!("{input}.{}", base64url(signature)))
    }

    /// The swapped-algorithm attack: the draft with `alg: HS256`, keyed with the public key's DER.
    pub fn sign_hs256(&self, draft: &Draft) -> String {
        let input = draft.with_algorithm("HS256").signing_input();
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.spki());
        format!("{input}.{}", base64url(hmac::sign(&key, input.as_bytes())))
    }
}

/// Replaces a token file as the kubelet does, whole or not at all, readable by its owner only.
///
/// # Errors
/// [`Error::Write`].
pub fn write_token(path: &Path, token: &str) -> Result<(), Error> {
    let temporary = path.with_added_extension("new");
    let failed = |source| Error::Write { path: path.to_owned(), source };
    // Left by a run that was killed.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    write_new(&temporary, 0o600, token.as_bytes())?;
    fs::rename(&temporary, path).map_err(failed)
}

fn write_new(path: &Path, mode: u32, content: &[u8]) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use std::time::{Duration, UNIX_EPOCH};

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn draft(issuer: &TokenIssuer) -> Draft {
        let subject = Subject::new("default", "sleep").on(Object::named("sleep-0"), Object::named("node-1"));
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        issuer.draft(ISSUER, "istio-ca", &subject, now)
    }

    fn decode(part: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(part).unwrap()
    }

    /// The token's header and claims, its signature verified with nothing but the key set.
    fn verified(issuer: &TokenIssuer, token: &str) -> (Value, Value) {
        let (input, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = input.split_once('.').unwrap();
        let key = &issuer.key_set()["keys"][0];
        let part = |name: &str| decode(key[name].as_str().unwrap());
        match key["kty"].as_str().unwrap() {
            "RSA" => ring::signature::RsaPublicKeyComponents { n: part("n"), e: part("e") }
                .verify(&ring::signature::RSA_PKCS1_2048_8192_SHA256, input.as_bytes(), &decode(signature))
                .unwrap(),
            _ => {
                let point = [vec![4], part("x"), part("y")].concat();
                ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
                    .verify(input.as_bytes(), &decode(signature))
                    .unwrap();
            }
        }
        (serde_json::from_slice(&decode(header)).unwrap(), serde_json::from_slice(&decode(claims)).unwrap())
    }

    #[test]
    fn a_token_has_the_shape_of_a_projected_one() {
        for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
            let issuer = TokenIssuer::generate(algorithm).unwrap();
            let token = issuer.sign(&draft(&issuer)).unwrap();
            let (header, mut claims) = verified(&issuer, &token);
            assert_eq!(header, json!({ "alg": algorithm.name(), "kid": issuer.key_id() }));
            let jti = claims["jti"].take();
            assert_eq!(jti.as_str().unwrap().len(), 36);
            let object = |name: &str| json!({ "name": name, "uid": Object::named(name).uid });
            assert_eq!(
                claims,
                json!({
                    "aud": ["istio-ca"],
                    "exp": 1_800_043_200, "iat": 1_800_000_000, "nbf": 1_800_000_000,
                    "iss": ISSUER, "jti": null, "sub": "system:serviceaccount:default:sleep",
                    "kubernetes.io": {
                        "namespace": "default",
                        "serviceaccount": { "name": "sleep", "uid": Object::named("default/sleep").uid },
                        "pod": object("sleep-0"), "node": object("node-1"),
                    },
                })
            );
            assert_ne!(draft(&issuer).claims["jti"], jti, "no two tokens share an id");
        }
    }

    #[test]
    fn the_key_id_is_the_hash_of_the_public_key_info() {
        let issuer = TokenIssuer::generate(Algorithm::Es256).unwrap();
        // The fixed DER before every P-256 point in a SubjectPublicKeyInfo (RFC 5480).
        let prefix = decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE");
        let key = &issuer.key_set()["keys"][0];
        let part = |name: &str| decode(key[name].as_str().unwrap());
        let hash = digest::digest(&digest::SHA256, &[prefix, part("x"), part("y")].concat());
        assert_eq!(decode(&issuer.key_id()), hash.as_ref());
    }

    #[test]
    fn a_saved_issuer_loads_and_is_never_written_over() {
        for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
            let folder = tempfile::tempdir().unwrap();
            let keys = folder.path().join("keys");
            let issuer = TokenIssuer::generate(algorithm).unwrap();
            issuer.save(&keys).unwrap();
            let mode = fs::metadata(keys.join(KEY_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let loaded = TokenIssuer::load(&keys).unwrap();
            verified(&issuer, &loaded.sign(&draft(&loaded)).unwrap());
            let saved: Value = serde_json::from_slice(&fs::read(keys.join(KEY_SET_FILE)).unwrap()).unwrap();
            assert_eq!(saved, loaded.key_set());

            let again = TokenIssuer::generate(algorithm).unwrap().save(&keys);
            assert!(matches!(again, Err(Error::Write { .. })));
            assert_eq!(TokenIssuer::load(&keys).unwrap().key_id(), issuer.key_id());
        }
    }

    #[test]
    fn a_missing_or_foreign_key_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(TokenIssuer::load(folder.path()), Err(Error::Read { .. })));
        let file = folder.path().join(KEY_FILE);
        fs::write(&file, pem::encode("PRIVATE KEY", b"no key")).unwrap();
        assert!(matches!(TokenIssuer::load(folder.path()), Err(Error::Key(_))));
        let ed25519 = ring::signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        fs::write(&file, pem::encode("PRIVATE KEY", ed25519.as_ref())).unwrap();
        assert!(matches!(TokenIssuer::load(folder.path()), Err(Error::Kind(KeyKind::Ed25519))));
    }

    #[test]
    fn bad_variants_keep_everything_but_the_one_thing() {
        let issuer = TokenIssuer::generate(Algorithm::Rs256).unwrap();
        let good = draft(&issuer);
        let none = good.unsigned();
        let parts: Vec<_> = none.split('.').collect();
        assert_eq!(parts[2], "");
        assert_eq!(decode(parts[1]), good.claims.to_string().as_bytes());
        let header: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
        assert_eq!(header, json!({ "alg": "none", "kid": issuer.key_id() }));

        let swapped = issuer.sign_hs256(&good);
        let (input, tag) = swapped.rsplit_once('.').unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, issuer.key.spki());
        hmac::verify(&key, input.as_bytes(), &decode(tag)).unwrap();

        let mut changed = good.clone().expiring(UNIX_EPOCH + Duration::from_secs(5));
        changed.claims["aud"] = json!(["another"]);
        let (_, claims) = verified(&issuer, &issuer.sign(&changed).unwrap());
        assert_eq!(claims["aud"], json!(["another"]));
        assert_eq!(claims["exp"], json!(5));
        assert_eq!(claims["jti"], good.claims["jti"]);
    }

    #[test]
    fn a_token_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("istio-token");
        fs::write(folder.path().join("istio-token.new"), "half of a tok").unwrap();
        write_token(&path, "first").unwrap();
        write_token(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = folder.path().join("no-such-folder/token");
        assert!(matches!(write_token(&nowhere, "third"), Err(Error::Write { .. })));
    }
}
