//! Making a certificate for one workload that cannot ask a CA, such as a machine before it joins the mesh.
//!
//! It goes the way of every leaf, template, check, signature, and is then judged as a peer would. No CA
//! records it: who needs that asks a running one.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use signet_certs::ca::CaError;
use signet_certs::chain::{Certificate, CertificateError, ChainError, verify_svid};
use signet_certs::check::Bounds;
use signet_certs::clock::{rfc3339, whole_seconds};
use signet_certs::key::{KeyError, KeyKind, NewKey, PrivateKey};
use signet_certs::profile::Profile;
use signet_certs::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
use signet_certs::template::Names;
use signet_certs::validity::{self, ValidityError};
use thiserror::Error;

use super::new_files::{self, NewFile, NewFilesError, PRIVATE, PUBLIC};
use super::options::{Output, leaf_lifetime};
use super::root_folder::{self, RootFolderError};
use super::text::colons;

const KEY: &str = "key.pem";
const WORKLOAD_CERT: &str = "workload-cert.pem";
const WORKLOAD_CERT_CHAIN: &str = "workload-cert-chain.pem";
const ROOT_CERT: &str = signet_certs::cacerts::ROOT_CERT;

/// What `workload` is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder of the CA that signs: a root's or an intermediate's
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Trust domain of the SPIFFE ID
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: TrustDomain,
    /// Kubernetes namespace of the SPIFFE ID
    #[arg(long, value_name = "NAME")]
    namespace: String,
    /// Kubernetes service account of the SPIFFE ID
    #[arg(long, value_name = "NAME", default_value = "default")]
    service_account: String,
    /// Lifetime in d, h, m or s, at most 90d; it ends with its chain at the latest
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = leaf_lifetime)]
    lifetime: Duration,
    /// Kind of key: p256, p384, ed25519, rsa2048, rsa3072 or rsa4096
    ///
    /// RSA costs both sides at every handshake. Envoy refuses peers with an Ed25519 key.
    #[arg(long, value_name = "KIND", default_value_t = NewKey::P256)]
    key: NewKey,
    #[command(flatten)]
    output: Output,
}

/// Why no certificate was made.
#[derive(Debug, Error)]
pub(crate) enum WorkloadError {
    /// Namespace and service account make no SPIFFE ID.
    #[error("name the workload")]
    Identity(#[from] SpiffeIdError),
    /// There is no CA to sign with.
    #[error("make a workload's certificate")]
    Ca(#[from] RootFolderError),
    /// A member of the chain is not valid now.
    #[error("bound the certificate's life by its chain")]
    Validity(#[from] ValidityError),
    /// No key could be made.
    #[error("make a key")]
    Key(#[from] KeyError),
    /// The certificate could not be made.
    #[error("make the certificate")]
    Certificate(#[from] CaError),
    /// What was made does not read back.
    #[error("read the certificate back")]
    Unreadable(#[from] CertificateError),
    /// Peers would refuse what was made.
    #[error("a peer would refuse the certificate")]
    Refused(#[from] ChainError),
    /// The files could not be written.
    #[error("write the workload's files")]
    Write(#[from] NewFilesError),
}

/// Makes key and certificate and answers what to tell people.
pub(crate) fn make(options: &Options, now: SystemTime) -> Result<String, WorkloadError> {
    let id = SpiffeId::workload(&options.trust_domain, &options.namespace, &options.service_account)?;
    let signer = root_folder::signer(&options.ca, now)?;
    let cacerts = &signer.cacerts;
    let validity = validity::leaf(now, options.lifetime, cacerts.validities())?;
    let key = PrivateKey::generate(options.key)?;
    let names = Names::SpiffeId(id.clone());
    let template = cacerts.ca.template(Profile::Workload, names, key.spki().to_vec(), validity)?;
    let der = cacerts.ca.sign(&template, Bounds { now, maximum: options.lifetime })?;
    let leaf = Certificate::from_der(der.to_vec())?;
    verify_svid(&leaf, &cacerts.intermediates, &cacerts.roots, now)?;

    let chain: String = [&leaf].into_iter().chain(&cacerts.intermediates).map(Certificate::to_pem).collect();
    let (key_pem, pem) = (key.to_pkcs8_pem(), leaf.to_pem());
    let new = [
        NewFile { name: KEY, mode: PRIVATE, content: key_pem.as_bytes() },
        NewFile { name: WORKLOAD_CERT, mode: PUBLIC, content: pem.as_bytes() },
        NewFile { name: WORKLOAD_CERT_CHAIN, mode: PUBLIC, content: chain.as_bytes() },
        NewFile { name: ROOT_CERT, mode: PUBLIC, content: &signer.root_cert },
    ];
    new_files::write_all(&options.output.out, &new, &options.output.overwrite)?;
    let cut = if validity.not_after < whole_seconds(now) + options.lifetime {
        " (cut to the end of its chain)"
    } else {
        ""
    };
    Ok(format!(
        "Made a certificate of {id} in {out}\n\
         \x20 key          {kind}{warning}\n\
         \x20 valid        {from} to {to}{cut}\n\
         \x20 fingerprint  SHA-256 {fingerprint}\n\
         Files\n\
         \x20 {KEY}                  its private key, for the owner's eyes only (mode 0600)\n\
         \x20 {WORKLOAD_CERT}        the certificate\n\
         \x20 {WORKLOAD_CERT_CHAIN}  the certificate and the intermediates above it\n\
         \x20 {ROOT_CERT}            what everybody trusts\n\
         It stands in no CA's log.\n",
        out = options.output.out.display(),
        kind = key.kind(),
        warning = if key.kind() == KeyKind::Ed25519 { ", which Envoy refuses in a peer" } else { "" },
        from = rfc3339(validity.not_before),
        to = rfc3339(validity.not_after),
        fingerprint = colons(&leaf.digest()),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ceremony::root_folder::ROOT_KEY;
    use signet_certs::ca::Ca;
    use signet_certs::clock::from_unix;
    use signet_certs::name::ca_name;
    use signet_certs::validity::{BACKDATE, Validity};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        from_unix(1_800_000_000)
    }

    /// A root that lives for two hours, in Istio's layout.
    fn root(folder: &Path) -> Ca {
        let life = Validity { not_before: now() - BACKDATE, not_after: now() + HOUR * 2 };
        let key = PrivateKey::generate(NewKey::P256).unwrap();
        let root = Ca::root(ca_name("Istio", None, "Root CA"), life, key).unwrap();
        fs::write(folder.join(ROOT_CERT), root.certificate.to_pem()).unwrap();
        fs::write(folder.join(ROOT_KEY), root.key.to_pkcs8_pem().as_bytes()).unwrap();
        root
    }

    fn options(ca: &Path, out: &Path) -> Options {
        Options {
            ca: ca.to_owned(),
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
            namespace: "vm".into(),
            service_account: "default".into(),
            lifetime: HOUR,
            key: NewKey::P256,
            output: Output { out: out.to_owned(), overwrite: Vec::new() },
        }
    }

    #[test]
    fn a_root_signs_a_workload_s_certificate_and_its_four_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let root = root(folder.path());
        let out = folder.path().join("vm");
        let report = make(&options(folder.path(), &out), now()).unwrap();
        assert!(report.contains("spiffe://cluster.local/ns/vm/sa/default"), "{report}");
        let read = |name: &str| fs::read(out.join(name)).unwrap();
        let leaf = Certificate::from_pem(&read(WORKLOAD_CERT)).unwrap();
        let id = verify_svid(&leaf, &[], &[root.certificate], now()).unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/vm/sa/default");
        assert_eq!(leaf.facts().validity, Validity { not_before: now() - BACKDATE, not_after: now() + HOUR });
        assert_eq!(
            read(WORKLOAD_CERT_CHAIN),
            read(WORKLOAD_CERT),
            "a root signed it: nothing stands between"
        );
        assert_eq!(read(ROOT_CERT), fs::read(folder.path().join(ROOT_CERT)).unwrap());
        assert_eq!(PrivateKey::from_pem(&read(KEY)).unwrap().spki(), leaf.facts().spki);
        assert_eq!(out.join(KEY).metadata().unwrap().permissions().mode() & 0o777, PRIVATE);
    }

    #[test]
    fn its_life_is_cut_to_its_chain_and_the_report_says_so() {
        let folder = tempfile::tempdir().unwrap();
        root(folder.path());
        let out = folder.path().join("vm");
        let report = make(&Options { lifetime: HOUR * 3, ..options(folder.path(), &out) }, now()).unwrap();
        assert!(report.contains("(cut to the end of its chain)"), "{report}");
        assert!(report.contains("  key          P-256\n"), "{report}");
        let leaf = Certificate::from_pem(&fs::read(out.join(WORKLOAD_CERT)).unwrap()).unwrap();
        assert_eq!(leaf.facts().validity.not_after, now() + HOUR * 2);
        let other = Options { key: NewKey::Ed25519, ..options(folder.path(), &folder.path().join("other")) };
        let report = make(&other, now()).unwrap();
        assert!(report.contains("Ed25519, which Envoy refuses in a peer\n"), "{report}");
    }

    #[test]
    fn refusals_write_nothing_and_what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        root(folder.path());
        let out = folder.path().join("vm");
        for bad in ["", "a/b", "..", "a b"] {
            let refused = make(&Options { namespace: bad.into(), ..options(folder.path(), &out) }, now());
            assert!(matches!(refused, Err(WorkloadError::Identity(_))), "{bad}");
        }
        let nowhere = make(&options(&folder.path().join("nowhere"), &out), now());
        assert!(matches!(nowhere, Err(WorkloadError::Ca(_))));
        let ended = make(&options(folder.path(), &out), now() + HOUR * 3);
        assert!(matches!(ended, Err(WorkloadError::Ca(RootFolderError::Faults(..)))));
        assert!(!out.exists());

        make(&options(folder.path(), &out), now()).unwrap();
        let before = fs::read(out.join(KEY)).unwrap();
        assert!(matches!(make(&options(folder.path(), &out), now()), Err(WorkloadError::Write(_))));
        assert_eq!(fs::read(out.join(KEY)).unwrap(), before);
        let overwrite = [KEY, WORKLOAD_CERT, WORKLOAD_CERT_CHAIN].map(str::to_owned).to_vec();
        let output = Output { out: out.clone(), overwrite };
        make(&Options { output, ..options(folder.path(), &out) }, now()).unwrap();
        assert_ne!(fs::read(out.join(KEY)).unwrap(), before);
    }
}
