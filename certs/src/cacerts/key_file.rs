//! What is said of a private key that cannot be used, and whether the key fits the certificate.

use crate::key::{KeyError, KeyKind, PrivateKey};

use super::finding::{Fault, Findings, Placed};
use super::kinds;

/// The usable key of a file.
pub(super) fn read(file: &'static str, pem: &[u8], findings: &mut Findings) -> Option<PrivateKey> {
    PrivateKey::from_pem(pem).map_err(|error| findings.fault(fault(file, &error))).ok()
}

/// What an administrator can do about a key that cannot be used.
fn fault(file: &'static str, error: &KeyError) -> Fault {
    let rewrite = |command: String| format!("{command}; then put NEW.pem in place of {file}");
    let anew = "make a new key, such as openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 \
        -out NEW.pem, and have the CA's certificate issued for it";
    let (kind, todo) = match error {
        KeyError::Form(_) => (
            kinds::KEY_MISSING,
            format!(
                "put the private key that belongs to the signing certificate into {file}, beginning \
                with -----BEGIN PRIVATE KEY-----, RSA PRIVATE KEY or EC PRIVATE KEY"
            ),
        ),
        KeyError::Several(_) => (
            kinds::KEY_SEVERAL,
            format!(
                "leave the one key in {file} that belongs to the signing \
                certificate"
            ),
        ),
        KeyError::Encrypted => (
            kinds::KEY_ENCRYPTED,
            rewrite(format!(
                "openssl pkey -in {file} -out NEW.pem asks for the \
                password and writes the key without"
            )),
        ),
        KeyError::NoPublicPart => (
            kinds::KEY_NO_PUBLIC_PART,
            rewrite(format!(
                "openssl ec -in {file} -conv_form uncompressed -out NEW.pem computes and adds \
                it"
            )),
        ),
        KeyError::ExplicitParameters => (
            kinds::KEY_PARAMETERS,
            rewrite(format!("openssl ec -in {file} -param_enc named_curve -out NEW.pem names the curve"))
                + "; if the certificate spells its curve out too, have it issued anew",
        ),
        KeyError::Pss => (
            kinds::KEY_PSS,
            "make a plain RSA key, openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096 -out \
                NEW.pem, and have the CA's certificate issued for it"
                .into(),
        ),
        KeyError::Kind(_) => (kinds::KEY_KIND, anew.into()),
        KeyError::RsaSize(_) => (kinds::KEY_SIZE, anew.into()),
        KeyError::RsaExponent => (kinds::KEY_EXPONENT, anew.into()),
        _ => (
            kinds::KEY_DAMAGED,
            format!(
                "copy {file} anew from where it was made; openssl pkey -in {file} -noout -check says \
                whether a copy is whole"
            ),
        ),
    };
    kind.of(file, error.to_string(), todo)
}

/// The certificate of `signers` that the key belongs to: the first, unless only another one fits.
pub(super) fn signer(
    signers: &[Placed],
    key: Option<&PrivateKey>,
    key_file: &'static str,
    findings: &mut Findings,
) -> Option<Placed> {
    let first = signers.first()?;
    let Some(key) = key else { return Some(first.clone()) };
    let fits = |placed: &&Placed| placed.certificate.facts().spki == key.spki();
    if fits(&first) {
        return Some(first.clone());
    }
    if let Some(other) = signers.iter().find(fits) {
        let what = format!(
            "at line {} is taken for the signing certificate: the key belongs to it, not to the first one \
                of the file",
            other.line
        );
        let todo = format!("move it to the beginning of {}", other.file);
        findings.note(kinds::SIGNER_CHOSEN.on(other, what, todo));
        return Some(other.clone());
    }
    match KeyKind::of_spki(&first.certificate.facts().spki) {
        // Said of every certificate of the path.
        Err(_) => {}
        Ok(kind) => {
            let what = format!(
                "expected the {kind} key of {}, found a {} key that is not its own",
                first.called(),
                key.kind()
            );
            let todo = format!(
                "find the key whose public half is the certificate's: openssl pkey -in {key_file} -pubout \
                    and openssl x509 -in {} -noout -pubkey must print the same",
                first.file
            );
            findings.fault(kinds::KEY_OF_ANOTHER.of(key_file, what, todo));
        }
    }
    Some(first.clone())
}
