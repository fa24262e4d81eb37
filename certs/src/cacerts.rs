//! What a `cacerts` folder means: Istio's four files, judged as a whole before anything is signed.
//!
//! All faults are reported together, each with its file. The caller reads the files; see
//! [`Cacerts::read`] for the rules.

use std::fmt;
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::ca::Ca;
use crate::chain::{Certificate, CertificateError};
use crate::key::{KeyKind, PrivateKey};
use crate::name;
use crate::validity::Validity;

/// The signing certificate.
pub const CA_CERT: &str = "ca-cert.pem";
/// Its private key.
pub const CA_KEY: &str = "ca-key.pem";
/// The signing certificate and those above it, in order.
pub const CERT_CHAIN: &str = "cert-chain.pem";
/// One or more roots.
pub const ROOT_CERT: &str = "root-cert.pem";
/// More than this many certificates between leaf and root are refused by rustls peers.
pub const MAX_INTERMEDIATES: usize = 6;

/// The contents of the four files.
pub struct Files {
    /// `ca-cert.pem`
    pub ca_cert: Vec<u8>,
    /// `ca-key.pem`
    pub ca_key: Zeroizing<Vec<u8>>,
    /// `cert-chain.pem`
    pub cert_chain: Vec<u8>,
    /// `root-cert.pem`
    pub root_cert: Vec<u8>,
}

/// One thing that is wrong, and in which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// File name.
    pub file: &'static str,
    /// What was expected and what was found.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

/// A plugged-in CA that can sign now, and everything that its leaves are answered with.
#[derive(Debug)]
pub struct Cacerts {
    /// Who signs.
    pub ca: Ca,
    /// From the signing certificate upwards, without roots; empty where the signer is a root.
    pub intermediates: Vec<Certificate>,
    /// The root that the chain ends in.
    pub anchor: Certificate,
    /// All roots of `root-cert.pem`, each once, in their order.
    pub roots: Vec<Certificate>,
}

impl Cacerts {
    /// Reads and judges the files at `now`: every certificate parses; the signer is a CA, may sign
    /// certificates, and the key fits it; the chain begins with the signer, each member is signed by the
    /// next and the last by a root; path lengths suffice; nothing on the way constrains URI names;
    /// every member is valid now; roots are self-signed CAs.
    pub fn read(files: &Files, now: SystemTime) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults(Vec::new());
        let signer = faults.take(CA_CERT, Certificate::from_pem(&files.ca_cert).map_err(explain));
        let key = PrivateKey::from_pem(&files.ca_key).map_err(|error| error.to_string());
        let key = faults.take(CA_KEY, key);
        let chain = Certificate::all_from_pem(&files.cert_chain).map_err(explain);
        let chain = faults.take(CERT_CHAIN, chain);
        let roots = faults.take(ROOT_CERT, Certificate::all_from_pem(&files.root_cert).map_err(explain));

        let roots = roots.map(deduplicated);
        if let Some(roots) = &roots {
            faults.check_roots(roots);
        }
        if let (Some(signer), Some(key)) = (&signer, &key) {
            faults.check_key(signer, key);
        }
        let (Some(signer), Some(chain), Some(roots)) = (signer, chain, roots) else {
            return Err(faults.0);
        };
        let path = faults.check_chain(&signer, chain, &roots, now);
        match (key, path) {
            (Some(key), Some((intermediates, anchor))) if faults.0.is_empty() => {
                Ok(Self { ca: Ca { certificate: signer, key }, intermediates, anchor, roots })
            }
            _ => Err(faults.0),
        }
    }

    /// The validity of every certificate above a leaf.
    pub fn validities(&self) -> impl Iterator<Item = Validity> {
        self.intermediates.iter().chain([&self.anchor]).map(|member| member.facts().validity)
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, file: &'static str, what: impl Into<String>) {
        self.0.push(Fault { file, what: what.into() });
    }

    fn take<T>(&mut self, file: &'static str, result: Result<T, String>) -> Option<T> {
        result.map_err(|what| self.add(file, what)).ok()
    }

    fn check_roots(&mut self, roots: &[Certificate]) {
        for root in roots {
            let called = called(root);
            if !root.is_self_issued() || !root.is_signed_by(root) {
                self.add(ROOT_CERT, format!("{called} is not a root: it is not signed by itself"));
            } else if !root.facts().ca {
                self.add(ROOT_CERT, format!("{called} is not a CA (basic constraints say so)"));
            }
        }
    }

    fn check_key(&mut self, signer: &Certificate, key: &PrivateKey) {
        match KeyKind::of_spki(&signer.facts().spki) {
            Err(error) => self.add(CA_CERT, format!("{}: {error}", called(signer))),
            Ok(kind) if signer.facts().spki != key.spki() => {
                let found = format!("a {} key that is not its own", key.kind());
                self.add(CA_KEY, format!("expected the {kind} key of {}, found {found}", called(signer)));
            }
            Ok(_) => {}
        }
    }

    /// Follows the chain from the signer to a root; answers the intermediates and the anchor.
    fn check_chain(
        &mut self,
        signer: &Certificate,
        mut chain: Vec<Certificate>,
        roots: &[Certificate],
        now: SystemTime,
    ) -> Option<(Vec<Certificate>, Certificate)> {
        if chain.first() != Some(signer) {
            self.add(CERT_CHAIN, format!("must begin with the certificate of {CA_CERT}"));
            return None;
        }
        // Istio's tools end the chain with the root; clients have it from the bundle.
        while chain.last().is_some_and(|last| roots.contains(last)) {
            chain.pop();
        }
        for pair in chain.windows(2) {
            if !pair[0].is_signed_by(&pair[1]) {
                let (below, above) = (called(&pair[0]), called(&pair[1]));
                self.add(CERT_CHAIN, format!("{below} is followed by {above}, which did not sign it"));
                return None;
            }
        }
        let last = chain.last().unwrap_or(signer);
        let above = roots.iter().find(|root| *root == last || last.is_signed_by(root));
        let Some(anchor) = above else {
            let issuer = name::display(&last.facts().issuer);
            let what = format!("{} is signed by ({issuer}), which is not in {ROOT_CERT}", called(last));
            self.add(CERT_CHAIN, what);
            return None;
        };
        if chain.len() > MAX_INTERMEDIATES {
            let what =
                format!("at most {MAX_INTERMEDIATES} certificates below the root, found {}", chain.len());
            self.add(CERT_CHAIN, what);
        }
        for (below, member) in chain.iter().chain([anchor]).enumerate() {
            let file = match below {
                0 => CA_CERT,
                _ if member == anchor => ROOT_CERT,
                _ => CERT_CHAIN,
            };
            self.check_member(file, member, below, now);
        }
        Some((chain, anchor.clone()))
    }

    /// One CA on the path, with this many CAs below it.
    fn check_member(&mut self, file: &'static str, member: &Certificate, below: usize, now: SystemTime) {
        let (called, facts) = (called(member), member.facts());
        if !facts.ca {
            self.add(
                file,
                format!("{called} is not a CA: its basic constraints are missing or say CA:FALSE"),
            );
        }
        if facts.cert_sign == Some(false) {
            self.add(file, format!("{called} may not sign certificates: its key usage lacks keyCertSign"));
        }
        if facts.path_length.is_some_and(|length| (length as usize) < below) {
            let length = facts.path_length.unwrap_or_default();
            self.add(file, format!("{called} has path length {length}, but {below} CAs stand below it"));
        }
        if facts.constrains_uris {
            self.add(
                file,
                format!("{called} constrains URI names, so peers refuse every SPIFFE ID below it"),
            );
        }
        if let Err(error) = facts.validity.at(now) {
            self.add(file, format!("{called} {error}"));
        }
    }
}

fn called(certificate: &Certificate) -> String {
    let facts = certificate.facts();
    format!("({}, serial {})", name::display(&facts.subject), facts.serial)
}

fn explain(error: CertificateError) -> String {
    match error {
        CertificateError::Pem(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

fn deduplicated(roots: Vec<Certificate>) -> Vec<Certificate> {
    let mut once: Vec<Certificate> = Vec::with_capacity(roots.len());
    for root in roots {
        if !once.contains(&root) {
            once.push(root);
        }
    }
    once
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ca::tests::{YEAR, intermediate, life, now, root};
    use crate::name::ca_name;
    use crate::profile::Profile;
    use crate::template::Names;
    use std::slice::from_ref;

    struct Folder {
        root: Ca,
        signer: Ca,
    }

    fn good() -> Folder {
        let root = root("Root CA");
        let signer = intermediate(&root);
        Folder { root, signer }
    }

    impl Folder {
        fn files(&self) -> Files {
            let (signer, root) = (self.signer.certificate.to_pem(), self.root.certificate.to_pem());
            Files {
                ca_cert: signer.clone().into_bytes(),
                ca_key: Zeroizing::new(self.signer.key.to_pkcs8_pem().as_bytes().to_vec()),
                cert_chain: format!("{signer}{root}").into_bytes(),
                root_cert: root.into_bytes(),
            }
        }
    }

    fn faults(files: &Files, now: SystemTime) -> Vec<String> {
        Cacerts::read(files, now).unwrap_err().iter().map(ToString::to_string).collect()
    }

    fn one_fault(files: &Files, file: &str, text: &str) {
        let found = faults(files, now());
        assert!(found.len() == 1 && found[0].starts_with(file) && found[0].contains(text), "{found:?}");
    }

    #[test]
    fn istio_s_four_files_load_and_the_root_leaves_the_chain() {
        let folder = good();
        let loaded = Cacerts::read(&folder.files(), now()).unwrap();
        assert_eq!(loaded.intermediates, from_ref(&folder.signer.certificate));
        assert_eq!(loaded.roots, from_ref(&folder.root.certificate));
        assert_eq!(loaded.anchor, folder.root.certificate);
        assert_eq!(loaded.validities().count(), 2);
        let without_root = Files { cert_chain: folder.files().ca_cert, ..folder.files() };
        assert_eq!(Cacerts::read(&without_root, now()).unwrap().intermediates.len(), 1);
    }

    #[test]
    fn a_root_that_signs_itself_has_no_intermediates() {
        let root = root("Root CA");
        let pem = root.certificate.to_pem().into_bytes();
        let files = Files {
            ca_cert: pem.clone(),
            ca_key: Zeroizing::new(root.key.to_pkcs8_pem().as_bytes().to_vec()),
            cert_chain: pem.clone(),
            root_cert: [pem.clone(), pem].concat(),
        };
        let loaded = Cacerts::read(&files, now()).unwrap();
        assert!(loaded.intermediates.is_empty());
        assert_eq!(loaded.roots.len(), 1, "a root given twice counts once");
        assert_eq!(loaded.anchor, root.certificate);
    }

    #[test]
    fn three_levels_need_their_order_and_their_path_lengths() {
        let top = root("Root CA");
        let middle_key = PrivateKey::generate_p256().unwrap();
        let middle = top.intermediate(ca_name("Signet", None, "Middle"), 1, life(8), middle_key).unwrap();
        let signer = intermediate(&middle);
        let pem = |ca: &Ca| ca.certificate.to_pem();
        let files = Files {
            ca_cert: pem(&signer).into_bytes(),
            ca_key: Zeroizing::new(signer.key.to_pkcs8_pem().as_bytes().to_vec()),
            cert_chain: format!("{}{}{}", pem(&signer), pem(&middle), pem(&top)).into_bytes(),
            root_cert: pem(&top).into_bytes(),
        };
        assert_eq!(Cacerts::read(&files, now()).unwrap().intermediates.len(), 2);
        let swapped = format!("{}{}{}", pem(&signer), pem(&top), pem(&middle)).into_bytes();
        one_fault(&Files { cert_chain: swapped, ..good_as(&files) }, CERT_CHAIN, "which did not sign it");
        let missing = pem(&signer).into_bytes();
        one_fault(&Files { cert_chain: missing, ..good_as(&files) }, CERT_CHAIN, "not in root-cert.pem");
        let short_key = PrivateKey::generate_p256().unwrap();
        let short = top.intermediate(ca_name("Signet", None, "Middle"), 0, life(8), short_key).unwrap();
        let below = intermediate(&short);
        let files = Files {
            ca_cert: pem(&below).into_bytes(),
            ca_key: Zeroizing::new(below.key.to_pkcs8_pem().as_bytes().to_vec()),
            cert_chain: format!("{}{}", pem(&below), pem(&short)).into_bytes(),
            root_cert: pem(&top).into_bytes(),
        };
        one_fault(&files, CERT_CHAIN, "path length 0, but 1 CAs stand below");
    }

    fn good_as(files: &Files) -> Files {
        Files {
            ca_cert: files.ca_cert.clone(),
            ca_key: files.ca_key.clone(),
            cert_chain: files.cert_chain.clone(),
            root_cert: files.root_cert.clone(),
        }
    }

    #[test]
    fn each_fault_is_named_with_its_file() {
        let folder = good();
        let files = || folder.files();
        let other = good();
        one_fault(&Files { ca_cert: b"x".to_vec(), ..files() }, CA_CERT, "expected a block CERTIFICATE");
        one_fault(&Files { ca_key: other.files().ca_key, ..files() }, CA_KEY, "not its own");
        one_fault(&Files { ca_key: Zeroizing::new(Vec::new()), ..files() }, CA_KEY, "no PEM block");
        one_fault(&Files { cert_chain: Vec::new(), ..files() }, CERT_CHAIN, "expected a block CERTIFICATE");
        one_fault(&Files { cert_chain: files().root_cert, ..files() }, CERT_CHAIN, "must begin with");
        one_fault(&Files { root_cert: Vec::new(), ..files() }, ROOT_CERT, "expected a block CERTIFICATE");
        one_fault(&Files { root_cert: other.files().root_cert, ..files() }, CERT_CHAIN, "not in root-");
        let both = [files().root_cert, files().ca_cert].concat();
        let found = faults(&Files { root_cert: both, ..files() }, now());
        assert!(found[0].contains("is not a root"), "{found:?}");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let files = Files { ca_key: Zeroizing::new(vec![]), root_cert: vec![], ..good().files() };
        assert_eq!(faults(&files, now()).len(), 2);
    }

    #[test]
    fn case_29_a_signer_that_is_no_ca_is_refused() {
        let root = root("Root CA");
        let key = PrivateKey::generate_p256().unwrap();
        let names = Names::Hosts { dns: vec!["localhost".into()], ip: vec![] };
        let template = root.template(Profile::Serving, names, key.spki().to_vec(), life(1)).unwrap();
        let bounds = crate::check::Bounds { now: now(), maximum: YEAR };
        let der = root.sign(&template, bounds).unwrap();
        let leaf = Ca { certificate: Certificate::from_der(der.to_vec()).unwrap(), key };
        let found = faults(&Folder { root, signer: leaf }.files(), now());
        assert!(found.iter().any(|fault| fault.contains("is not a CA")), "{found:?}");
        assert!(found.iter().any(|fault| fault.contains("lacks keyCertSign")), "{found:?}");
    }

    #[test]
    fn expired_and_future_members_are_refused() {
        let files = good().files();
        assert!(faults(&files, now() + YEAR * 6)[0].starts_with(CA_CERT));
        assert_eq!(faults(&files, now() + YEAR * 11).len(), 2, "signer and root");
        assert!(faults(&files, now() - YEAR)[0].contains("is not valid before"));
    }
}
