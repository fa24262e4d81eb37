//! Making CAs: a root, or an intermediate under one, each in a folder of Istio's layout that the CA
//! loads as it is.
//!
//! What was made is judged as the CA would judge it before a file is written. Where the root comes from
//! is `root_folder`'s business, writing that of `new_files`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use signet_certs::ca::{Ca, CaError};
use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, Cacerts, Fault, Folder, ROOT_CERT};
use signet_certs::chain::{Certificate, CertificateError};
use signet_certs::check::Bounds;
use signet_certs::clock::{rfc3339, whole_seconds};
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::name::{self, ca_name};
use signet_certs::profile::Profile;
use signet_certs::template::Names;
use signet_certs::validity::{BACKDATE, Validity};
use thiserror::Error;
use zeroize::Zeroizing;

use super::new_files::{self, NewFile, NewFilesError, PRIVATE, PUBLIC};
use super::options::{CaOptions, Output, attribute, dns_name};
use super::root_folder::{self, ROOT_KEY, RootFolderError};
use super::text::{colons, lines, shell};

/// What `root-ca` is told.
#[derive(Debug, Args)]
pub(crate) struct RootOptions {
    /// Common name of the root
    #[arg(long, value_name = "NAME", default_value = "Root CA", value_parser = attribute)]
    common_name: String,
    /// Which files to write
    #[arg(long, value_enum, default_value_t = Layout::Cacerts)]
    layout: Layout,
    #[command(flatten)]
    ca: CaOptions,
}

/// Which files a root is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// The four files of a cacerts folder: a CA can load it
    Cacerts,
    /// root-cert.pem and root-key.pem, as Istio's Makefile names them: only to sign intermediates
    Root,
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
    /// How many CAs may stand beneath it: 0 or 1
    ///
    /// 0 lets it sign leaves alone. 1 is for an intermediate with an RSA key: it lets ca-server put a
    /// P-256 intermediate of its own beneath, which signs leaves many times faster.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    path_length: u8,
    /// DNS name to carry, as Istio's intermediates do; again for each
    #[arg(long, value_name = "NAME", value_parser = dns_name)]
    san_dns: Vec<String>,
    #[command(flatten)]
    ca: CaOptions,
}

/// Why no CA was made.
#[derive(Debug, Error)]
pub(crate) enum AuthorityError {
    /// There is no root to sign with.
    #[error("make an intermediate")]
    Root(#[from] RootFolderError),
    /// The root does not allow the path length.
    #[error(
        "an intermediate of path length {wanted} needs a root of path length {needed} or of none; this root has {found}",
        needed = u32::from(*wanted) + 1
    )]
    PathLength {
        /// What was asked for.
        wanted: u8,
        /// What the root has.
        found: u32,
    },
    /// No key could be made.
    #[error("make a key")]
    Key(#[from] KeyError),
    /// The certificate could not be made.
    #[error("make the CA's certificate")]
    Certificate(#[from] CaError),
    /// What was made does not read back.
    #[error("read the CA's certificate back")]
    Unreadable(#[from] CertificateError),
    /// The CA would not load what was made.
    #[error("a CA made like this would not load:\n{list}", list = lines(.0))]
    Faults(Vec<Fault>),
    /// The files could not be written.
    #[error("write the CA's files")]
    Write(#[from] NewFilesError),
}

/// Makes a root and answers what to tell people.
pub(crate) fn root(options: &RootOptions, now: SystemTime) -> Result<String, AuthorityError> {
    let CaOptions { output, organization, key, .. } = &options.ca;
    let subject = ca_name(organization, None, &options.common_name);
    let ca = Ca::root(subject, validity(&options.ca, now), PrivateKey::generate(*key)?)?;
    let pem = ca.certificate.to_pem();
    let files = judged(&ca, &pem, pem.as_bytes(), now)?;
    match options.layout {
        Layout::Cacerts => write_cacerts(output, &files)?,
        Layout::Root => {
            // The certificate last: to the Makefile it is the sign that the root is made.
            let new = [
                NewFile { name: ROOT_KEY, mode: PRIVATE, content: files.key.as_bytes() },
                NewFile { name: ROOT_CERT, mode: PUBLIC, content: &files.root_cert },
            ];
            new_files::write_all(&output.out, &new, &output.overwrite)?;
        }
    }
    let held = match options.layout {
        Layout::Cacerts => HELD_IN_CACERTS,
        Layout::Root => HELD_IN_ROOT,
    };
    let next = format!("certs intermediate --root {} --name cluster1 --out cluster1", shell(&output.out));
    Ok(report("root", &output.out, &ca, "") + held + "Next\n  " + &next + "\n")
}

/// Makes an intermediate and answers what to tell people.
pub(crate) fn intermediate(options: &IntermediateOptions, now: SystemTime) -> Result<String, AuthorityError> {
    let output = &options.ca.output;
    let root = root_folder::read(&options.root, now)?;
    let above = root.ca.certificate.facts();
    if let Some(found) =
        above.path_length.filter(|found| (1..=u32::from(options.path_length)).contains(found))
    {
        return Err(AuthorityError::PathLength { wanted: options.path_length, found });
    }
    let wanted = validity(&options.ca, now);
    let validity = Validity { not_after: wanted.not_after.min(above.validity.not_after), ..wanted };
    let ca = sign(options, &root.ca, validity, now)?;
    let chain = ca.certificate.to_pem() + &root.ca.certificate.to_pem();
    write_cacerts(output, &judged(&ca, &chain, &root.root_cert, now)?)?;
    let cut = if validity.not_after < wanted.not_after {
        format!(" (cut to the end of its root; {} was asked for)", rfc3339(wanted.not_after))
    } else {
        String::new()
    };
    let next = format!(
        "ca-server run --cacerts {} --trust-domain cluster.local --jwks jwks.json --token-issuer ISSUER --data data",
        shell(&output.out)
    );
    Ok(report("intermediate", &output.out, &ca, &cut) + HELD_IN_CACERTS + "Next\n  " + &next + "\n")
}

fn sign(
    options: &IntermediateOptions,
    root: &Ca,
    validity: Validity,
    now: SystemTime,
) -> Result<Ca, AuthorityError> {
    let subject = ca_name(&options.ca.organization, Some(&options.name), &options.common_name);
    let names = match options.san_dns.as_slice() {
        [] => Names::Subject(subject),
        dns => Names::SubjectAndHosts { subject, dns: dns.to_vec() },
    };
    let profile = Profile::Intermediate { path_length: options.path_length };
    let key = PrivateKey::generate(options.ca.key)?;
    let template = root.template(profile, names, key.spki().to_vec(), validity)?;
    let der = root.sign(&template, Bounds { now, maximum: options.ca.lifetime })?;
    Ok(Ca { certificate: Certificate::from_der(der.to_vec())?, key })
}

fn validity(options: &CaOptions, now: SystemTime) -> Validity {
    let now = whole_seconds(now);
    Validity { not_before: now - BACKDATE, not_after: now + options.lifetime }
}

/// The four files, as the CA judges them.
struct Four {
    certificate: String,
    key: Zeroizing<String>,
    chain: String,
    root_cert: Vec<u8>,
}

fn judged(ca: &Ca, chain: &str, root_cert: &[u8], now: SystemTime) -> Result<Four, AuthorityError> {
    let four = Four {
        certificate: ca.certificate.to_pem(),
        key: ca.key.to_pkcs8_pem(),
        chain: chain.to_owned(),
        root_cert: root_cert.to_vec(),
    };
    let folder = Folder::from([
        (CA_CERT, four.certificate.clone().into_bytes()),
        (CA_KEY, four.key.as_bytes().to_vec()),
        (CERT_CHAIN, chain.as_bytes().to_vec()),
        (ROOT_CERT, root_cert.to_vec()),
    ]);
    Cacerts::read(&folder, now).map_err(AuthorityError::Faults)?;
    Ok(four)
}

fn write_cacerts(output: &Output, four: &Four) -> Result<(), NewFilesError> {
    let public = |name, content| NewFile { name, mode: PUBLIC, content };
    let new = [
        public(CA_CERT, four.certificate.as_bytes()),
        NewFile { name: CA_KEY, mode: PRIVATE, content: four.key.as_bytes() },
        public(CERT_CHAIN, four.chain.as_bytes()),
        public(ROOT_CERT, &four.root_cert),
    ];
    new_files::write_all(&output.out, &new, &output.overwrite)
}

const HELD_IN_CACERTS: &str = "Files
  ca-cert.pem     its certificate
  ca-key.pem      its private key, for the owner's eyes only (mode 0600)
  cert-chain.pem  its certificate and those above it
  root-cert.pem   what everybody trusts
";
const HELD_IN_ROOT: &str = "Files
  root-cert.pem  its certificate, which everybody trusts
  root-key.pem   its private key, for the owner's eyes only (mode 0600)
";

fn report(kind: &str, out: &Path, ca: &Ca, cut: &str) -> String {
    let facts = ca.certificate.facts();
    let (from, to) = (rfc3339(facts.validity.not_before), rfc3339(facts.validity.not_after));
    format!(
        "Made the {kind} ({subject}) in {out}\n\
         \x20 key          {key}\n\
         \x20 valid        {from} to {to}{cut}\n\
         \x20 fingerprint  SHA-256 {fingerprint}\n",
        subject = name::display(&facts.subject),
        out = out.display(),
        key = ca.key.kind(),
        fingerprint = colons(&ca.certificate.digest()),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::clock::from_unix;
    use signet_certs::key::NewKey;
    use std::fs;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        from_unix(1_800_000_000)
    }

    fn options(out: PathBuf, lifetime: Duration) -> CaOptions {
        let output = Output { out, overwrite: Vec::new() };
        CaOptions { output, organization: "Signet".into(), lifetime, key: NewKey::P256 }
    }

    fn make_root(out: PathBuf, lifetime: Duration) -> Result<String, AuthorityError> {
        root(&root_options(out, lifetime), now())
    }

    fn root_options(out: PathBuf, lifetime: Duration) -> RootOptions {
        RootOptions { common_name: "Root CA".into(), layout: Layout::Cacerts, ca: options(out, lifetime) }
    }

    fn make_intermediate(root: PathBuf, out: PathBuf, lifetime: Duration) -> Result<String, AuthorityError> {
        intermediate(&intermediate_options(root, out, lifetime), now())
    }

    fn intermediate_options(root: PathBuf, out: PathBuf, lifetime: Duration) -> IntermediateOptions {
        IntermediateOptions {
            root,
            name: "cluster1".into(),
            common_name: "Intermediate CA".into(),
            path_length: 0,
            san_dns: Vec::new(),
            ca: options(out, lifetime),
        }
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
    fn every_kind_of_key_makes_a_root_and_an_intermediate() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, name) in
            [(NewKey::P384, "P-384\n"), (NewKey::Ed25519, "Ed25519\n"), (NewKey::Rsa2048, "RSA 2048\n")]
        {
            let [top, out] = ["root", "out"].map(|role| folder.path().join(format!("{kind}-{role}")));
            let mut options = root_options(top.clone(), HOUR);
            options.ca.key = kind;
            let report = root(&options, now()).unwrap();
            assert!(report.contains(&format!("  key          {name}")), "{report}");
            let mut options = intermediate_options(top, out.clone(), HOUR);
            options.ca.key = kind;
            intermediate(&options, now()).unwrap();
            let key = PrivateKey::from_pem(&fs::read(out.join(CA_KEY)).unwrap()).unwrap();
            assert_eq!(key.spki(), certificate(&out).facts().spki);
        }
    }

    #[test]
    fn a_root_in_istio_s_layout_has_two_files_and_signs() {
        let folder = tempfile::tempdir().unwrap();
        let [top, out] = ["root", "out"].map(|name| folder.path().join(name));
        let options = RootOptions { layout: Layout::Root, ..root_options(top.clone(), HOUR) };
        root(&options, now()).unwrap();
        let mut names: Vec<_> = fs::read_dir(&top)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [ROOT_CERT, ROOT_KEY]);
        let before = fs::read(top.join(ROOT_KEY)).unwrap();
        assert!(matches!(root(&options, now()), Err(AuthorityError::Write(_))));
        assert_eq!(fs::read(top.join(ROOT_KEY)).unwrap(), before);
        make_intermediate(top, out, HOUR).unwrap();
    }

    #[test]
    fn path_length_and_host_names_are_as_asked() {
        let folder = tempfile::tempdir().unwrap();
        let [top, plain, named] = ["root", "plain", "named"].map(|name| folder.path().join(name));
        make_root(top.clone(), HOUR).unwrap();
        make_intermediate(top.clone(), plain.clone(), HOUR).unwrap();
        let (length, dns) =
            (certificate(&plain).facts().path_length, certificate(&plain).facts().dns.clone());
        assert_eq!((length, dns), (Some(0), vec![]));
        let san_dns = vec!["istiod.istio-system.svc".to_owned(), "istiod.istio-system".to_owned()];
        let options = intermediate_options(top, named.clone(), HOUR);
        let options = IntermediateOptions { path_length: 1, san_dns: san_dns.clone(), ..options };
        intermediate(&options, now()).unwrap();
        let (length, dns) =
            (certificate(&named).facts().path_length, certificate(&named).facts().dns.clone());
        assert_eq!((length, dns), (Some(1), san_dns));
    }

    #[test]
    fn a_path_length_that_the_root_does_not_allow_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        // A root of path length 1, which we do not make ourselves: its self-signature is all that counts.
        let key = PrivateKey::generate(NewKey::P256).unwrap();
        let subject = ca_name("Signet", None, "Root CA");
        let life = Validity { not_before: now() - BACKDATE, not_after: now() + HOUR };
        let issuer = Ca::root(subject.clone(), life, key).unwrap();
        let spki = issuer.key.spki().to_vec();
        let profile = Profile::Intermediate { path_length: 1 };
        let template = issuer.template(profile, Names::Subject(subject), spki, life).unwrap();
        let der = issuer.sign(&template, Bounds { now: now(), maximum: HOUR }).unwrap();
        let bounded = Certificate::from_der(der.to_vec()).unwrap();
        fs::write(folder.path().join(ROOT_CERT), bounded.to_pem()).unwrap();
        fs::write(folder.path().join(ROOT_KEY), issuer.key.to_pkcs8_pem().as_bytes()).unwrap();

        let options = intermediate_options(folder.path().to_owned(), out.clone(), HOUR);
        let options = IntermediateOptions { path_length: 1, ..options };
        let refused = intermediate(&options, now()).unwrap_err();
        assert!(refused.to_string().contains("path length 2 or of none; this root has 1"), "{refused}");
        assert!(!out.exists());
        intermediate(&IntermediateOptions { path_length: 0, ..options }, now()).unwrap();
    }
}
