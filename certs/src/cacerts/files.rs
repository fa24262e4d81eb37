//! From a folder to parsed files: which form it has, whether that is whole, what each file holds.

use crate::chain::{Certificate, CertificateError};
use crate::key::PrivateKey;
use crate::pem::{self, PemError};

use super::finding::{Findings, Placed};
use super::folder::{CA_CERT, CA_CRL, CA_KEY, CERT_CHAIN, Folder, ROOT_CERT, TLS_CA, TLS_CERT, TLS_KEY};
use super::{Form, key_file, kinds};

/// The files of a form, by what they are for.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    pub(super) form: Form,
    pub(super) certificate: &'static str,
    pub(super) key: &'static str,
    pub(super) chain: &'static str,
    pub(super) roots: &'static str,
}

pub(super) const CACERTS: Layout =
    Layout { form: Form::Cacerts, certificate: CA_CERT, key: CA_KEY, chain: CERT_CHAIN, roots: ROOT_CERT };
pub(super) const TLS_SECRET: Layout =
    Layout { form: Form::TlsSecret, certificate: TLS_CERT, key: TLS_KEY, chain: TLS_CERT, roots: TLS_CA };

impl Layout {
    /// The files that must be there.
    pub(super) fn names(&self) -> Vec<&'static str> {
        match self.form {
            Form::Cacerts => vec![self.certificate, self.key, self.chain, self.roots],
            Form::TlsSecret => vec![self.certificate, self.key, self.roots],
        }
    }
}

/// What the files of one form hold; nothing where a file is absent or does not read.
pub(super) struct Parsed<'a> {
    /// Signing certificates in the file of the signing certificate; the first, as a rule, is meant.
    pub(super) signers: Option<Vec<Placed>>,
    pub(super) key: Option<PrivateKey>,
    pub(super) chain: Option<Vec<Placed>>,
    pub(super) roots: Option<Vec<Placed>>,
    pub(super) crl: Option<&'a [u8]>,
}

/// Reads all files of a form; a finding for each that is absent or does not read.
pub(super) fn parse<'a>(folder: &'a Folder, layout: &Layout, findings: &mut Findings) -> Parsed<'a> {
    complete(folder, layout, findings);
    let signers = certificates(folder, layout.certificate, findings);
    let chain = if layout.chain == layout.certificate {
        signers.clone()
    } else {
        certificates(folder, layout.chain, findings)
    };
    let key = content(folder, layout.key, findings).and_then(|pem| key_file::read(layout.key, pem, findings));
    let roots = certificates(folder, layout.roots, findings);
    let crl = match layout.form {
        Form::Cacerts => content(folder, CA_CRL, findings),
        Form::TlsSecret => {
            if folder.contains(CA_CRL) {
                let what = "stands beside tls.crt and is not read";
                let todo = "use the files ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem where \
                    CRLs are wanted, or remove ca-crl.pem";
                findings.note(kinds::CRL_NOT_READ.of(CA_CRL, what, todo));
            }
            None
        }
    };
    Parsed { signers, key, chain, roots, crl }
}

fn complete(folder: &Folder, layout: &Layout, findings: &mut Findings) {
    let names = layout.names();
    let there: Vec<_> = names.iter().filter(|name| folder.contains(name)).copied().collect();
    for name in names.iter().filter(|name| !folder.contains(name)) {
        let what = if there.is_empty() {
            "is missing, as are the other CA files".to_owned()
        } else {
            format!("is missing, while there is {}", there.join(", "))
        };
        findings.fault(kinds::INCOMPLETE.of(name, what, missing(name, layout)));
    }
}

fn missing(name: &str, layout: &Layout) -> String {
    let (certificate, roots) = (layout.certificate, layout.roots);
    match name {
        CA_CERT => "put the certificate that signs into ca-cert.pem; it is the first one of \
            cert-chain.pem"
            .into(),
        CERT_CHAIN => "write the signing certificate and those between it and the root, in this order: cat \
                ca-cert.pem HIGHER.pem > cert-chain.pem (ca-cert.pem alone where the root signed it)"
            .into(),
        TLS_CERT => "put the signing certificate, then those between it and the root, into tls.crt".into(),
        CA_KEY | TLS_KEY => format!("put the private key of {certificate} into {name}"),
        _ => format!(
            "put the root that {certificate} chains to into {roots}, and every other root that \
            peers shall trust"
        ),
    }
}

/// The content of a file that is there; a fault where it cannot be read.
fn content<'a>(folder: &'a Folder, file: &'static str, findings: &mut Findings) -> Option<&'a [u8]> {
    match folder.get(file)? {
        Ok(content) => Some(content),
        Err(why) => {
            let todo = "make it a file that the CA's user may read, of at most 1 MiB";
            findings.fault(kinds::UNREADABLE.of(file, format!("cannot be read: {why}"), todo));
            None
        }
    }
}

/// The certificates of a file that is there, at least one.
fn certificates(folder: &Folder, file: &'static str, findings: &mut Findings) -> Option<Vec<Placed>> {
    let text = content(folder, file, findings)?;
    let blocks = match pem::certificates(text) {
        Ok(blocks) => blocks,
        Err(error) => {
            findings.fault(unreadable(file, &error));
            return None;
        }
    };
    if let Some(key) = pem::blocks(text).unwrap_or_default().iter().find(|b| b.label.ends_with("PRIVATE KEY"))
    {
        let what = format!("holds a private key too, at line {}", key.line);
        let todo =
            format!("remove the key from {file}, and treat it as known to others if the file was handed out");
        findings.note(kinds::KEY_BESIDE_CERTIFICATES.of(file, what, todo));
    }
    let mut placed = Vec::with_capacity(blocks.len());
    let mut whole = true;
    for (line, der) in blocks {
        match Certificate::from_der(der) {
            Ok(certificate) => placed.push(Placed { certificate, file, line }),
            Err(error) => {
                let what = match error {
                    CertificateError::Trailing(_, bytes) => {
                        format!("line {line}: {bytes} bytes stand behind the certificate's end")
                    }
                    _ => format!("line {line}: this is not an X.509 certificate"),
                };
                let todo = format!(
                    "copy this certificate anew from where it was issued; openssl x509 -in {file} -noout \
                        -text shows the first one"
                );
                findings.fault(kinds::DAMAGED.of(file, what, todo));
                whole = false;
            }
        }
    }
    whole.then_some(placed)
}

fn unreadable(file: &'static str, error: &PemError) -> super::Fault {
    let (kind, todo) = match error {
        PemError::Missing(..) => (
            kinds::NO_CERTIFICATE,
            format!("put the certificate into {file}, in PEM, beginning with -----BEGIN CERTIFICATE-----"),
        ),
        PemError::NotText => (
            kinds::NO_CERTIFICATE,
            format!("write it as PEM: openssl x509 -inform DER -in {file} -out NEW.pem"),
        ),
        _ => (kinds::DAMAGED, format!("copy {file} anew; the part from that line on is cut or changed")),
    };
    kind.of(file, error.to_string(), todo)
}
