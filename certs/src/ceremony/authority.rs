//! Making CAs: a root, or an intermediate under one, each in a folder of Istio's layout that the CA
//! loads as it is.
//!
//! What was made is judged as the CA would judge it before a file is written. Where the root comes from
//! is `root_folder`'s business, writing that of `new_files`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use signet_certs::ca::{Ca, CaError};
use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, Cacerts, Fault, Folder, ROOT_CERT};
use signet_certs::clock::{rfc3339, whole_seconds};
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::name::{self, ca_name};
use signet_certs::validity::{BACKDATE, Validity};
use thiserror::Error;

use super::new_files::{self, NewFile, NewFilesError, PRIVATE, PUBLIC};
use super::root_folder::{self, RootFolderError};
use super::text::{colons, lines, shell};

/// The upper bound of an organization and of a common name in RFC 5280.
const LONGEST_NAME: usize = 64;

/// What `root-ca` is told.
#[derive(Debug, Args)]
pub(crate) struct RootOptions {
    /// Common name of the root
    #[arg(long, value_name = "NAME", default_value = "Root CA", value_parser = attribute)]
    common_name: String,
    #[command(flatten)]
    ca: CaOptions,
}

/// What `intermediate` is told.
#[derive(Debug, Args)]
pub(crate) struct IntermediateOptions {
    /// Folder of the root: made by `certs root-ca`, or with Istio's root-cert.pem and root-key.pem
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Name of the cluster; becomes the locality (L) of the subject
    #[arg(long, value_name = "NAME", value_parser = attribute)]
    name: String,
    /// Common name of the intermediate
    #[arg(long, value_name = "NAME", default_value = "Intermediate CA", value_parser = attribute)]
    common_name: String,
    #[command(flatten)]
    ca: CaOptions,
}

/// What is said of every CA.
#[derive(Debug, Args)]
struct CaOptions {
    /// Folder to write into; made if it is not there, and nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Organization (O) of the subject
    #[arg(long, value_name = "NAME", default_value = "Signet", value_parser = attribute)]
    organization: String,
    /// Lifetime in d, h, m or s; an intermediate ends with its root at the latest
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = lifetime)]
    lifetime: Duration,
}

impl CaOptions {
    fn validity(&self, now: SystemTime) -> Validity {
        let now = whole_seconds(now);
        Validity { not_before: now - BACKDATE, not_after: now + self.lifetime }
    }
}

/// Why no CA was made.
#[derive(Debug, Error)]
pub(crate) enum AuthorityError {
    /// There is no root to sign with.
    #[error("make an intermediate")]
    Root(#[from] RootFolderError),
    /// No key could be made.
    #[error("make a key")]
    Key(#[from] KeyError),
    /// The certificate could not be made.
    #[error("make the CA's certificate")]
    Certificate(#[from] CaError),
    /// The CA would not load what was made.
    #[error("a CA made like this would not load:\n{list}", list = lines(.0))]
    Faults(Vec<Fault>),
    /// The files could not be written.
    #[error("write the CA's files")]
    Write(#[from] NewFilesError),
}

/// Makes a root and answers what to tell people.
pub(crate) fn root(options: &RootOptions, now: SystemTime) -> Result<String, AuthorityError> {
    let CaOptions { out, organization, .. } = &options.ca;
    let subject = ca_name(organization, None, &options.common_name);
    let ca = Ca::root(subject, options.ca.validity(now), PrivateKey::generate_p256()?)?;
    let pem = ca.certificate.to_pem();
    write(out, &ca, &pem, pem.as_bytes(), now)?;
    let next = format!("certs intermediate --root {} --name cluster1 --out cluster1", shell(out));
    Ok(report("root", out, &ca, "", &next))
}

/// Makes an intermediate and answers what to tell people.
pub(crate) fn intermediate(options: &IntermediateOptions, now: SystemTime) -> Result<String, AuthorityError> {
    let CaOptions { out, organization, .. } = &options.ca;
    let root = root_folder::read(&options.root, now)?;
    let subject = ca_name(organization, Some(&options.name), &options.common_name);
    let wanted = options.ca.validity(now);
    let ca = root.ca.intermediate(subject, 0, wanted, PrivateKey::generate_p256()?)?;
    let chain = ca.certificate.to_pem() + &root.ca.certificate.to_pem();
    write(out, &ca, &chain, &root.root_cert, now)?;
    let cut = if ca.certificate.facts().validity.not_after < wanted.not_after {
        format!(" (cut to the end of its root; {} was asked for)", rfc3339(wanted.not_after))
    } else {
        String::new()
    };
    let next = format!(
        "ca-server run --cacerts {} --trust-domain cluster.local --jwks jwks.json --token-issuer ISSUER --data data",
        shell(out)
    );
    Ok(report("intermediate", out, &ca, &cut, &next))
}

/// Judges the four files as the CA will, then writes them.
fn write(out: &Path, ca: &Ca, chain: &str, root_cert: &[u8], now: SystemTime) -> Result<(), AuthorityError> {
    let (certificate, key) = (ca.certificate.to_pem(), ca.key.to_pkcs8_pem());
    let folder = Folder::from([
        (CA_CERT, certificate.clone().into_bytes()),
        (CA_KEY, key.as_bytes().to_vec()),
        (CERT_CHAIN, chain.as_bytes().to_vec()),
        (ROOT_CERT, root_cert.to_vec()),
    ]);
    Cacerts::read(&folder, now).map_err(AuthorityError::Faults)?;
    let public = |name, content| NewFile { name, mode: PUBLIC, content };
    let new = [
        public(CA_CERT, certificate.as_bytes()),
        NewFile { name: CA_KEY, mode: PRIVATE, content: key.as_bytes() },
        public(CERT_CHAIN, chain.as_bytes()),
        public(ROOT_CERT, root_cert),
    ];
    Ok(new_files::write_all(out, &new)?)
}

fn report(kind: &str, out: &Path, ca: &Ca, cut: &str, next: &str) -> String {
    let facts = ca.certificate.facts();
    let (from, to) = (rfc3339(facts.validity.not_before), rfc3339(facts.validity.not_after));
    format!(
        "Made the {kind} ({subject}) in {out}\n\
         \x20 key          {key}\n\
         \x20 valid        {from} to {to}{cut}\n\
         \x20 fingerprint  SHA-256 {fingerprint}\n\
         Files\n\
         \x20 {CA_CERT}     its certificate\n\
         \x20 {CA_KEY}      its private key, for the owner's eyes only (mode 0600)\n\
         \x20 {CERT_CHAIN}  its certificate and those above it\n\
         \x20 {ROOT_CERT}   what everybody trusts\n\
         Next\n\
         \x20 {next}\n",
        subject = name::display(&facts.subject),
        out = out.display(),
        key = ca.key.kind(),
        fingerprint = colons(&ca.certificate.digest()),
    )
}

/// A value that a name can carry.
fn attribute(text: &str) -> Result<String, AttributeError> {
    if text.is_empty() || text.chars().count() > LONGEST_NAME || text.chars().any(char::is_control) {
        return Err(AttributeError(text.chars().count()));
    }
    Ok(text.to_owned())
}

/// Why a text cannot stand in a name.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("expected 1 to {LONGEST_NAME} characters without control characters, found {0}")]
struct AttributeError(usize);

/// Reads `--lifetime`: whole seconds, at most a hundred years, far from the end of what certificates express.
fn lifetime(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);
    match signet_certs::duration::parse(text)? {
        lifetime if lifetime.subsec_nanos() != 0 => Err("must be whole seconds".to_owned()),
        lifetime if lifetime > LONGEST => Err("must be at most 36500d".to_owned()),
        lifetime => Ok(lifetime),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::chain::Certificate;
    use signet_certs::clock::from_unix;
    use std::fs;
    use std::path::Path;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        from_unix(1_800_000_000)
    }

    #[test]
    fn lifetimes_are_whole_and_bounded() {
        assert_eq!(lifetime("36500d"), Ok(Duration::from_secs(36_500 * 86_400)));
        for bad in ["36501d", "0s", "1500ms", "ten years", ""] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
    }

    fn options(out: PathBuf, lifetime: Duration) -> CaOptions {
        CaOptions { out, organization: "Signet".into(), lifetime }
    }

    fn make_root(out: PathBuf, lifetime: Duration) -> Result<String, AuthorityError> {
        root(&RootOptions { common_name: "Root CA".into(), ca: options(out, lifetime) }, now())
    }

    fn make_intermediate(root: PathBuf, out: PathBuf, lifetime: Duration) -> Result<String, AuthorityError> {
        let common_name = "Intermediate CA".into();
        let ca = options(out, lifetime);
        intermediate(&IntermediateOptions { root, name: "cluster1".into(), common_name, ca }, now())
    }

    fn certificate(folder: &Path) -> Certificate {
        Certificate::from_pem(&fs::read(folder.join(CA_CERT)).unwrap()).unwrap()
    }

    #[test]
    fn an_intermediate_is_cut_to_its_root_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let [top, long, short] = ["root", "long", "short"].map(|name| folder.path().join(name));
        make_root(top.clone(), HOUR).unwrap();
        let report = make_intermediate(top.clone(), long.clone(), HOUR * 2).unwrap();
        assert_eq!(
            certificate(&long).facts().validity,
            Validity { not_before: now() - BACKDATE, not_after: now() + HOUR }
        );
        let asked = rfc3339(now() + HOUR * 2);
        assert!(report.contains(&format!("(cut to the end of its root; {asked} was asked for)")), "{report}");
        let report = make_intermediate(top, short.clone(), HOUR / 2).unwrap();
        assert_eq!(certificate(&short).facts().validity.not_after, now() + HOUR / 2);
        assert!(!report.contains("cut to"), "{report}");
    }

    #[test]
    fn a_report_names_subject_key_and_fingerprint_and_never_the_key_itself() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("root");
        let report = make_root(out.clone(), HOUR).unwrap();
        let fingerprint = colons(&certificate(&out).digest());
        for part in ["(O=Signet, CN=Root CA)", "P-256", &fingerprint, "certs intermediate --root"] {
            assert!(report.contains(part), "{part} in {report}");
        }
        let key = fs::read_to_string(out.join(CA_KEY)).unwrap();
        assert!(key.lines().all(|line| !report.contains(line)));
    }

    #[test]
    fn a_refusal_leaves_no_folder_behind() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let refused = make_intermediate(folder.path().join("nowhere"), out.clone(), HOUR);
        assert!(matches!(refused, Err(AuthorityError::Root(_))));
        assert!(!out.exists());
        make_root(out.clone(), HOUR).unwrap();
        let before = fs::read(out.join(CA_KEY)).unwrap();
        assert!(matches!(make_root(out.clone(), HOUR), Err(AuthorityError::Write(_))));
        assert_eq!(fs::read(out.join(CA_KEY)).unwrap(), before);
    }

    #[test]
    fn names_have_the_bounds_of_rfc_5280() {
        assert!(attribute(&"ä".repeat(LONGEST_NAME)).is_ok());
        assert_eq!(attribute(&"a".repeat(LONGEST_NAME + 1)), Err(AttributeError(LONGEST_NAME + 1)));
        assert!(attribute("").is_err() && attribute("a\nb").is_err());
    }
}
