//! The roots of a folder: each one a self-signed CA, each once, and what is worth knowing of those that
//! this chain does not end in.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use crate::key::KeyKind;
use crate::name;
use crate::validity::ValidityError;

use super::details::{Details, Signature};
use super::finding::{Findings, Placed};
use super::{kinds, member};

/// From this many bytes of PEM on, the size of all roots together is worth a word.
const MANY: usize = 64 * 1024;

/// Each certificate once, in order.
pub(super) fn unique(roots: Vec<Placed>) -> Vec<Placed> {
    let mut seen = HashSet::new();
    roots.into_iter().filter(|root| seen.insert(root.certificate.digest())).collect()
}

/// Faults of every root.
pub(super) fn check(roots: &[Placed], findings: &mut Findings) {
    for root in roots {
        check_one(root, findings);
    }
    same_names(roots, findings);
    let size: usize = roots.iter().map(|root| root.certificate.to_pem().len()).sum();
    if let Some(first) = roots.first().filter(|_| size > MANY) {
        let what = format!("holds {} roots, {} KiB in each answer", roots.len(), size / 1024);
        let todo = "leave out the roots that no peer in this mesh is under";
        findings.note(kinds::ROOTS_MANY.of(first.file, what, todo));
    }
}

/// Notes on the roots that the path does not end in; of the anchor the path's own check speaks.
pub(super) fn note_others(roots: &[Placed], anchor: &Placed, now: SystemTime, findings: &mut Findings) {
    for root in roots.iter().filter(|root| root.certificate != anchor.certificate) {
        let Some(details) = Details::of(&root.certificate, true) else { continue };
        member::serial(root, &details, findings);
        if let Err(error) = KeyKind::of_spki(&root.certificate.facts().spki) {
            let todo = "leave it out once nothing is under it";
            findings.note(kinds::ROOT_UNUSABLE.on(
                root,
                format!("has a key that not all peers know: {error}"),
                todo,
            ));
        }
        match root.certificate.facts().validity.at(now) {
            Err(error @ ValidityError::NotYet(_)) => {
                findings.note(kinds::ROOT_NOT_YET.on(root, error, "nothing, if that is meant"));
            }
            Err(error) => findings.note(kinds::ROOT_ENDED.on(root, error, "leave it out")),
            Ok(()) => {}
        }
    }
}

fn check_one(root: &Placed, findings: &mut Findings) {
    let Some(details) = Details::of(&root.certificate, true) else { return };
    let facts = root.certificate.facts();
    if !root.certificate.is_self_issued() {
        let issuer = name::display(&facts.issuer);
        let what = format!("is not a root: it is not signed by itself but by ({issuer})");
        let todo = format!(
            "put the root ({issuer}) here in its place; a certificate between signer and root belongs into \
                the chain"
        );
        findings.fault(kinds::NOT_A_ROOT.on(root, what, todo));
        return;
    }
    if details.version_1 {
        let todo =
            "nothing now; the next root should be of version 3 with CA:TRUE, as certs root-ca makes it";
        findings.note(kinds::ROOT_VERSION_1.on(root, "is an X.509 certificate of version 1", todo));
    } else if !facts.ca {
        let todo = "put the CA's own certificate here, not one that a server or client shows";
        findings.fault(kinds::NOT_A_CA.on(root, "is not a CA (basic constraints say so)", todo));
    }
    let known_key = KeyKind::of_spki(&facts.spki).is_ok();
    match details.signature {
        Signature::Good if known_key && !root.certificate.is_signed_by(&root.certificate) => {
            let what = "is not a root: it is not signed by itself, though it names itself as its issuer";
            findings.fault(kinds::NOT_A_ROOT.on(root, what, "copy the root anew from where it was made"));
        }
        Signature::Good => {}
        Signature::Weak(algorithm) => {
            let todo = "nothing now; make the next root with SHA-256";
            findings.note(kinds::SHA1_ROOT.on(root, format!("is signed by {algorithm}"), todo));
        }
        Signature::Other(algorithm) => {
            let what = format!("is signed by {algorithm}, which is not verified here");
            let todo = format!(
                "compare its fingerprint with the one that its makers publish: openssl x509 -in {} -noout \
                    -fingerprint -sha256",
                root.file
            );
            findings.note(kinds::ROOT_UNUSABLE.on(root, what, todo));
        }
    }
}

fn same_names(roots: &[Placed], findings: &mut Findings) {
    let mut by_name: BTreeMap<&[u8], Vec<&Placed>> = BTreeMap::new();
    for root in roots {
        by_name.entry(&root.certificate.facts().subject).or_default().push(root);
    }
    for (_, same) in by_name {
        let [first, rest @ ..] = same.as_slice() else { continue };
        let key = |root: &Placed| root.certificate.facts().spki.clone();
        if let Some(other) = rest.iter().find(|other| key(other) != key(first)) {
            let what = format!("and the root at line {} have one subject and different keys", other.line);
            let todo =
                "give the next root a name of its own, such as certs root-ca --common-name \"Root CA 2\"";
            findings.note(kinds::ROOTS_SAME_NAME.on(first, what, todo));
        }
    }
}
