//! One CA of the path: everything in its certificate that would make a peer refuse the leaves below it.

use std::time::SystemTime;

use crate::key::{KeyError, KeyKind};
use crate::name;
use crate::validity::ValidityError;

use super::details::{Constrained, Details, Signature};
use super::finding::{Findings, Kind, Placed};
use super::kinds;

/// Where a CA stands in the path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// How many CAs stand below it.
    pub(super) below: usize,
    /// Whether it is the root that the path ends in.
    pub(super) anchor: bool,
}

/// Judges one CA at `now`.
pub(super) fn check(member: &Placed, place: Place, now: SystemTime, findings: &mut Findings) {
    let Some(details) = Details::of(&member.certificate, place.anchor) else { return };
    key(member, findings);
    usage(member, &details, place, findings);
    constraints(member, &details, findings);
    // Said of a root with the roots.
    if !place.anchor {
        signature(member, findings);
    }
    serial(member, &details, findings);
    let issuer = name::display(&member.certificate.facts().issuer);
    if member.certificate.facts().subject == name::EMPTY {
        let todo = issued_anew(&issuer, "with a name, at the next occasion");
        findings.note(kinds::EMPTY_SUBJECT.on(member, "has an empty subject", todo));
    }
    for extension in &details.refused {
        let what = format!("has {extension}");
        findings.fault(kinds::CRITICAL_EXTENSION.on(
            member,
            what,
            issued_anew(&issuer, "without it, or well-formed and not critical"),
        ));
    }
    match member.certificate.facts().validity.at(now) {
        Err(error @ ValidityError::NotYet(_)) => {
            let todo = "check this machine's clock; if it is right, use this certificate from that day on";
            findings.fault(kinds::NOT_YET_VALID.on(member, error, todo));
        }
        Err(error) => {
            let todo = if place.anchor {
                "a new root is needed: certs root-ca --out NEW, then certs intermediate --root NEW …; all \
                    peers must get the new root"
                    .to_owned()
            } else {
                issued_anew(&issuer, "with a later end, for the same key")
            };
            findings.fault(kinds::ENDED.on(member, error, todo));
        }
        Ok(()) => {}
    }
}

/// A sentence for whoever runs the CA above.
pub(super) fn issued_anew(issuer: &str, how: &str) -> String {
    format!("have it issued anew by ({issuer}) {how}")
}

/// Whether the key is of a kind that signs for meshes.
pub(super) fn key(member: &Placed, findings: &mut Findings) -> bool {
    let Err(error) = KeyKind::of_spki(&member.certificate.facts().spki) else { return true };
    let kind = key_kind(&error);
    let todo = "make this CA anew with a P-256 key (or RSA of 2048 to 4096 bits), and everything below it";
    findings.fault(kind.on(member, format!("has a key that cannot be used: {error}"), todo));
    false
}

fn key_kind(error: &KeyError) -> Kind {
    match error {
        KeyError::RsaSize(_) => kinds::KEY_SIZE,
        KeyError::RsaExponent => kinds::KEY_EXPONENT,
        KeyError::Pss => kinds::KEY_PSS,
        KeyError::ExplicitParameters => kinds::KEY_PARAMETERS,
        _ => kinds::KEY_KIND,
    }
}

fn usage(member: &Placed, details: &Details, place: Place, findings: &mut Findings) {
    let facts = member.certificate.facts();
    let issuer = name::display(&facts.issuer);
    let anew = |how: &str| issued_anew(&issuer, how);
    if place.anchor && details.version_1 {
        // A root of version 1 has no extensions; that it is a CA is what its place among the roots says.
        return;
    }
    if !details.basic_constraints {
        let what = "is not a CA: its basic constraints are missing";
        findings.fault(kinds::NO_BASIC_CONSTRAINTS.on(
            member,
            what,
            anew("with basicConstraints=critical,CA:TRUE"),
        ));
    } else if !facts.ca {
        let what = "is not a CA: its basic constraints say CA:FALSE";
        let todo = "a server's or client's certificate cannot sign others; ".to_owned()
            + &anew("with basicConstraints=critical,CA:TRUE and keyUsage=critical,keyCertSign,cRLSign");
        findings.fault(kinds::NOT_A_CA.on(member, what, todo));
    }
    if facts.cert_sign == Some(false) {
        let what = "may not sign certificates: its key usage lacks keyCertSign";
        findings.fault(kinds::NO_CERT_SIGN.on(
            member,
            what,
            anew("with keyUsage=critical,keyCertSign,cRLSign"),
        ));
    }
    if !details.key_usage {
        let todo = anew("with keyUsage=critical,keyCertSign,cRLSign at the next occasion");
        findings.note(kinds::NO_KEY_USAGE.on(member, "has no key usage", todo));
    }
    if let Some(length) = facts.path_length.filter(|length| (*length as usize) < place.below) {
        let below =
            if place.below == 1 { "1 CA stands".into() } else { format!("{} CAs stand", place.below) };
        let what = format!("has path length {length}, but {below} below it");
        let todo = format!("sign with a CA right below it, or {}", anew("with a greater path length"));
        findings.fault(kinds::PATH_LENGTH.on(member, what, todo));
    }
    if details.serves_and_calls == Some(false) {
        let what = "has an extended key usage without serverAuth and clientAuth";
        findings.fault(kinds::EXTENDED_KEY_USAGE.on(
            member,
            what,
            anew("without extended key usage, or with extendedKeyUsage=serverAuth,clientAuth"),
        ));
    }
}

fn constraints(member: &Placed, details: &Details, findings: &mut Findings) {
    let issuer = name::display(&member.certificate.facts().issuer);
    for constrained in &details.constrained {
        match constrained {
            Constrained::Uri => {
                let what = "constrains URI names, so peers refuse every SPIFFE ID below it";
                let todo = issued_anew(&issuer, "without name constraints of the type URI");
                findings.fault(kinds::URI_CONSTRAINTS.on(member, what, todo));
            }
            Constrained::Directory => {
                let what = "constrains directory names, so rustls peers refuse every leaf below it";
                let todo = issued_anew(&issuer, "without name constraints of the type dirName");
                findings.fault(kinds::DIRECTORY_CONSTRAINTS.on(member, what, todo));
            }
            Constrained::Other => {
                let what = "constrains DNS names, addresses or mail names";
                let todo = "see that it permits the CA's own host names (serving.dns), or agents cannot \
                    connect to the CA";
                findings.note(kinds::OTHER_CONSTRAINTS.on(member, what, todo));
            }
        }
    }
}

/// Whether it is signed in a way that peers verify.
pub(super) fn signature(member: &Placed, findings: &mut Findings) {
    let Some(details) = Details::of(&member.certificate, false) else { return };
    let issuer = name::display(&member.certificate.facts().issuer);
    let todo = issued_anew(&issuer, "signed with SHA-256, such as openssl x509 -req -sha256 …");
    match &details.signature {
        Signature::Good => {}
        Signature::Weak(algorithm) => {
            findings.fault(kinds::SHA1_SIGNATURE.on(member, format!("is signed by {algorithm}"), todo));
        }
        Signature::Other(algorithm) => {
            findings.fault(kinds::SIGNATURE_ALGORITHM.on(member, format!("is signed by {algorithm}"), todo));
        }
    }
}

/// The note about an odd serial number.
pub(super) fn serial(member: &Placed, details: &Details, findings: &mut Findings) {
    if let Some(odd) = details.odd_serial() {
        let todo = "let its issuer choose a positive serial number of at most 20 octets at the next occasion";
        findings.note(kinds::SERIAL.on(member, format!("has {odd}"), todo));
    }
}
