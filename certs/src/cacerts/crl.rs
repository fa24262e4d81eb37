//! `ca-crl.pem`: the CRLs of the chain's CAs. Envoy wants one of every CA of a chain once it has one of
//! any, so a missing or wrong one breaks all peers at once.

use std::time::SystemTime;

use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::clock::{from_unix, rfc3339};
use crate::{name, pem};

use super::details::Details;
use super::finding::{Findings, Placed};
use super::folder::CA_CRL;
use super::kinds;

/// Judges the CRLs against every CA of the path, the root included.
pub(super) fn check(text: &[u8], path: &[&Placed], now: SystemTime, findings: &mut Findings) {
    let Some(blocks) = blocks(text, findings) else { return };
    let mut crls = Vec::with_capacity(blocks.len());
    for block in &blocks {
        match CertificateRevocationList::from_der(&block.der) {
            Ok(([], crl)) => crls.push((block.line, crl)),
            _ => {
                let what = format!("line {}: this is not a CRL", block.line);
                findings.fault(kinds::CRL_DAMAGED.of(CA_CRL, what, "copy this CRL anew from its CA"));
            }
        }
    }
    let mut used = vec![false; crls.len()];
    for ca in path {
        let facts = ca.certificate.facts();
        let named = crls.iter().enumerate().filter(|(_, (_, crl))| crl.issuer().as_raw() == facts.subject);
        let (good, bad): (Vec<_>, Vec<_>) = named.partition(|(_, (_, crl))| signed(ca, crl));
        good.iter().chain(&bad).for_each(|(at, _)| used[*at] = true);
        match (good.first(), bad.first()) {
            (None, None) => {
                let what = "has no CRL here";
                let todo = format!(
                    "add its CRL, an empty one if nothing is revoked (openssl ca -gencrl …), to {CA_CRL}; \
                        or remove the file"
                );
                findings.fault(kinds::CRL_MISSING.on(ca, what, todo).within(CA_CRL));
            }
            (None, Some((_, (line, _)))) => {
                let what = format!("did not sign the CRL at line {line} that names it");
                findings
                    .fault(kinds::CRL_SIGNATURE.on(ca, what, "get the CRL anew from this CA").within(CA_CRL));
            }
            (Some(_), _) => {}
        }
        if Details::of(&ca.certificate, true).is_some_and(|details| details.crl_sign == Some(false)) {
            let todo = "leave CRLs out (remove ca-crl.pem), or have this CA made anew with cRLSign";
            let what = "may not sign CRLs: its key usage lacks cRLSign";
            findings.fault(kinds::CRL_NO_CRL_SIGN.on(ca, what, todo));
        }
        for (_, (line, crl)) in good {
            revoked(ca, *line, crl, path, findings);
            freshness(*line, crl, now, findings);
        }
    }
    for ((line, crl), _) in crls.iter().zip(used).filter(|(_, used)| !used) {
        let what =
            format!("line {line}: the CRL of ({}) is of no CA here", name::display(crl.issuer().as_raw()));
        let todo = "keep it if that CA signs for peers in the same mesh, and leave it out otherwise";
        findings.note(kinds::CRL_STRANGER.of(CA_CRL, what, todo));
    }
}

fn blocks(text: &[u8], findings: &mut Findings) -> Option<Vec<pem::Block>> {
    let todo = "put CRLs in PEM there, beginning with -----BEGIN X509 CRL----- (openssl crl -inform DER \
        -in FILE converts), or remove the file";
    let found = match pem::blocks(text) {
        Ok(blocks) => blocks,
        Err(error) => {
            findings.fault(kinds::CRL_DAMAGED.of(CA_CRL, error.to_string(), todo));
            return None;
        }
    };
    let labels = pem::describe(&found);
    let crls: Vec<_> = found.into_iter().filter(|block| block.label == crate::crl::LABEL).collect();
    if crls.is_empty() {
        findings.fault(kinds::CRL_DAMAGED.of(
            CA_CRL,
            format!("expected a block X509 CRL, found {labels}"),
            todo,
        ));
        return None;
    }
    Some(crls)
}

fn signed(ca: &Placed, crl: &CertificateRevocationList<'_>) -> bool {
    let algorithm = crl.signature_algorithm.algorithm.as_bytes();
    ca.certificate.verifies(algorithm, crl.tbs_cert_list.as_ref(), &crl.signature_value.data)
}

/// Members of the path that this CA's CRL revokes.
fn revoked(
    ca: &Placed,
    line: usize,
    crl: &CertificateRevocationList<'_>,
    path: &[&Placed],
    findings: &mut Findings,
) {
    for member in
        path.iter().filter(|member| member.certificate.facts().issuer == ca.certificate.facts().subject)
    {
        let serial = member.certificate.facts().serial.as_bytes();
        let listed = crl.iter_revoked_certificates().any(|entry| {
            let found = entry.raw_serial();
            found[found.iter().take_while(|octet| **octet == 0).count()..] == *serial
        });
        if listed {
            let what = format!("is revoked by the CRL at line {line} of {CA_CRL}");
            let todo = "make a new intermediate, such as certs intermediate, and load that";
            findings.fault(kinds::CRL_REVOKES_CHAIN.on(member, what, todo));
        }
    }
}

fn freshness(line: usize, crl: &CertificateRevocationList<'_>, now: SystemTime, findings: &mut Findings) {
    let next = crl.next_update().map(|next| from_unix(next.timestamp()));
    if let Some(next) = next.filter(|next| *next < now) {
        // No fault: that the CA signs on is worth more than a fresh list.
        let issuer = name::display(crl.issuer().as_raw());
        let what = format!("line {line}: the CRL of ({issuer}) was to be renewed by {}", rfc3339(next));
        let todo = "get the CRL anew from this CA, or remove ca-crl.pem";
        findings.note(kinds::CRL_ENDED.of(CA_CRL, what, todo));
    }
}
