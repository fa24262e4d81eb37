//! The path from the signer to a root: which certificates of the chain belong to it and in which order.
//!
//! What has exactly one answer is put right with a note; what needs a guess is a fault.

use std::collections::{HashSet, VecDeque};
use std::time::SystemTime;

use crate::key::KeyKind;
use crate::name;

use super::details::{Details, Signature};
use super::files::Layout;
use super::finding::{Findings, Placed};
use super::kinds;
use super::member::{self, Place};

/// More than this many certificates between leaf and root are refused by rustls peers.
pub(super) const MAX_INTERMEDIATES: usize = 6;
/// A chain with more than this many certificates is no chain.
const MAX_CHAIN: usize = 32;

/// The way from the signer up.
pub(super) struct Path {
    /// From the signer upwards; the signer is not among them where it is a root itself.
    pub(super) intermediates: Vec<Placed>,
    pub(super) anchor: Placed,
}

/// Finds the path and judges every CA on it.
pub(super) fn find(
    signer: &Placed,
    chain: Vec<Placed>,
    roots: &[Placed],
    layout: &Layout,
    now: SystemTime,
    findings: &mut Findings,
) -> Option<Path> {
    let chain = unique(chain, findings);
    if !chain.iter().any(|member| member.certificate == signer.certificate) {
        let what = format!(
            "must begin with the certificate of {}, {}, and does not contain it",
            layout.certificate,
            signer.called()
        );
        let todo = format!(
            "cat {} HIGHER.pem > {}, with what stands between it and the root in HIGHER.pem",
            layout.certificate, layout.chain
        );
        findings.fault(kinds::SIGNER_NOT_IN_CHAIN.of(layout.chain, what, todo));
        return None;
    }
    let members = without_roots(signer, chain, roots, layout, findings);
    if members.len() > MAX_CHAIN {
        too_long(members.len(), layout, findings);
        return None;
    }
    let graph = Graph::of(signer, members, roots);
    let start = graph.members.iter().position(|member| member.certificate == signer.certificate)?;
    if !graph.complete[start] {
        graph.explain(start, layout, findings);
        return None;
    }
    let kept = graph.kept(start);
    graph.note_left_out(&kept, findings);
    let order = graph.order(start, kept, layout, findings)?;
    let (anchor, below) = graph.anchor(start, &order, now, layout, findings)?;
    for (distance, at) in graph.walk(start, &order) {
        let is_anchor = graph.members[at].certificate == anchor.certificate;
        member::check(&graph.members[at], Place { below: distance, anchor: is_anchor }, now, findings);
        graph.check_key_ids(at, &order, findings);
    }
    if anchor.certificate != signer.certificate {
        member::check(&anchor, Place { below, anchor: true }, now, findings);
    }
    let above = order.iter().filter(|at| **at != start || anchor.certificate != signer.certificate);
    let intermediates: Vec<_> = above.map(|at| graph.members[*at].clone()).collect();
    if intermediates.len() > MAX_INTERMEDIATES {
        too_long(intermediates.len(), layout, findings);
    }
    Some(Path { intermediates, anchor })
}

fn too_long(found: usize, layout: &Layout, findings: &mut Findings) {
    let what = format!("at most {MAX_INTERMEDIATES} certificates below the root, found {found}");
    let todo = "leave those that this signer is not under out, or sign with a CA nearer to the root";
    findings.fault(kinds::CHAIN_TOO_LONG.of(layout.chain, what, todo));
}

/// Each certificate of the chain once.
fn unique(chain: Vec<Placed>, findings: &mut Findings) -> Vec<Placed> {
    let mut seen = HashSet::new();
    let (once, again): (Vec<_>, Vec<_>) =
        chain.into_iter().partition(|member| seen.insert(member.certificate.digest()));
    for member in &again {
        let what = format!("stands in the chain again at line {}, and is taken once", member.line);
        findings.note(kinds::CHAIN_DUPLICATE.on(member, what, format!("remove it at line {}", member.line)));
    }
    once
}

/// The chain without roots: Istio's tools end it with the root, which peers have already.
fn without_roots(
    signer: &Placed,
    chain: Vec<Placed>,
    roots: &[Placed],
    layout: &Layout,
    findings: &mut Findings,
) -> Vec<Placed> {
    let roots: HashSet<_> = roots.iter().map(|root| root.certificate.digest()).collect();
    let is_root = |member: &Placed| roots.contains(&member.certificate.digest());
    let last = chain.iter().rposition(|member| !is_root(member) || member == signer).unwrap_or(0);
    let mut members = Vec::with_capacity(chain.len());
    for (at, member) in chain.into_iter().enumerate() {
        if member.certificate == signer.certificate {
            members.push(member);
        } else if is_root(&member) {
            if at < last {
                let what = "is a root and stands before other certificates of the chain; it is left out";
                let todo = format!("move it to the end of {}, or remove it there", layout.chain);
                findings.note(kinds::CHAIN_REORDERED.on(&member, what, todo));
            }
        } else if member.certificate.is_self_issued() && member.certificate.is_signed_by(&member.certificate)
        {
            let what =
                format!("is a self-signed root that is not in {}; it is left out of the chain", layout.roots);
            let todo = format!(
                "add it to {} if it shall be trusted, or remove it from {}",
                layout.roots, layout.chain
            );
            findings.note(kinds::CHAIN_ROOT_UNTRUSTED.on(&member, what, todo));
        } else {
            members.push(member);
        }
    }
    members
}

/// Who signed whom, by indices.
struct Graph<'a> {
    members: Vec<Placed>,
    /// Where each begins in the chain's file.
    lines: Vec<usize>,
    roots: &'a [Placed],
    /// Members that signed each member.
    parents: Vec<Vec<usize>>,
    /// Roots that signed each member, or that it is.
    tops: Vec<Vec<usize>>,
    /// Whether a root can be reached from each member.
    complete: Vec<bool>,
}

impl<'a> Graph<'a> {
    fn of(signer: &Placed, mut members: Vec<Placed>, roots: &'a [Placed]) -> Self {
        let count = members.len();
        let lines = members.iter().map(|member| member.line).collect();
        // People know it by its own file.
        members.iter_mut().filter(|m| m.certificate == signer.certificate).for_each(|m| *m = signer.clone());
        let signed = |below: &Placed, above: &Placed| below.certificate.is_signed_by(&above.certificate);
        let parents: Vec<Vec<usize>> = (0..count)
            .map(|at| (0..count).filter(|up| *up != at && signed(&members[at], &members[*up])).collect())
            .collect();
        let tops: Vec<Vec<usize>> = members
            .iter()
            .map(|member| {
                let itself = roots.iter().position(|root| root.certificate == member.certificate);
                let others = (0..roots.len()).filter(|up| Some(*up) != itself && signed(member, &roots[*up]));
                itself.into_iter().chain(others).collect()
            })
            .collect();
        let mut complete: Vec<bool> = tops.iter().map(|tops| !tops.is_empty()).collect();
        // A path has no more steps than there are members.
        for _ in 0..count {
            for at in 0..count {
                complete[at] |= parents[at].iter().any(|up| complete[*up]);
            }
        }
        Self { members, lines, roots, parents, tops, complete }
    }

    /// Members of `among` by their distance from `start`, which is the number of CAs below them.
    fn walk(&self, start: usize, among: &[usize]) -> Vec<(usize, usize)> {
        let mut found = vec![(0, start)];
        let mut queue = VecDeque::from([(0, start)]);
        while let Some((distance, at)) = queue.pop_front() {
            for up in self.parents[at].iter().filter(|up| among.contains(up)) {
                if !found.iter().any(|(_, seen)| seen == up) {
                    found.push((distance + 1, *up));
                    queue.push_back((distance + 1, *up));
                }
            }
        }
        found
    }

    /// Members on some path from `start` to a root, in the order of the file.
    fn kept(&self, start: usize) -> Vec<usize> {
        let complete: Vec<_> = (0..self.members.len()).filter(|at| self.complete[*at]).collect();
        let mut kept: Vec<_> = self.walk(start, &complete).into_iter().map(|(_, at)| at).collect();
        kept.sort_unstable();
        kept
    }

    fn note_left_out(&self, kept: &[usize], findings: &mut Findings) {
        for (at, member) in self.members.iter().enumerate().filter(|(at, _)| !kept.contains(at)) {
            let what = if self.complete[at] || self.parents[at].is_empty() {
                "belongs to no path from the signing certificate to a root; it is left out"
            } else {
                "leads to no root; it is left out"
            };
            let todo = format!("remove it from {}", member.file);
            findings.note(kinds::CHAIN_STRANGER.on(member, what, todo));
        }
    }

    /// The kept members with each followed by its signer.
    fn order(
        &self,
        start: usize,
        kept: Vec<usize>,
        layout: &Layout,
        findings: &mut Findings,
    ) -> Option<Vec<usize>> {
        let above =
            |at: usize| self.parents[at].iter().copied().filter(|up| kept.contains(up)).collect::<Vec<_>>();
        if kept.iter().any(|at| above(*at).len() > 1) {
            // Cross-signed: any order in which each stands behind one that it signed.
            let follows = |place: usize| kept[..place].iter().any(|at| above(*at).contains(&kept[place]));
            if kept[0] == start && (1..kept.len()).all(follows) {
                return Some(kept);
            }
            let what = "is in an order in which a certificate stands before all that it signed, and more \
                than one order is possible";
            let todo =
                format!("write {} in the order signing certificate, its signer, and so on", layout.chain);
            findings.fault(kinds::CHAIN_AMBIGUOUS.of(layout.chain, what, todo));
            return None;
        }
        let mut order = vec![start];
        while let Some(up) = order.last().and_then(|at| above(*at).first().copied()) {
            if order.contains(&up) {
                break;
            }
            order.push(up);
        }
        if order != kept {
            let lines: Vec<_> = order.iter().map(|at| self.lines[*at].to_string()).collect();
            let what = format!(
                "is in the wrong order; it is taken in this one, by the lines on which they begin: {}",
                lines.join(", ")
            );
            let todo = format!("write {} in that order", layout.chain);
            findings.note(kinds::CHAIN_REORDERED.of(layout.chain, what, todo));
        }
        Some(order)
    }

    /// The root nearest to the signer, one that is valid and whose key id fits where there is one; with the
    /// number of CAs below it.
    fn anchor(
        &self,
        start: usize,
        order: &[usize],
        now: SystemTime,
        layout: &Layout,
        findings: &mut Findings,
    ) -> Option<(Placed, usize)> {
        let mut found: Vec<(usize, usize, usize)> = Vec::new();
        for (distance, at) in self.walk(start, order) {
            for top in &self.tops[at] {
                if !found.iter().any(|(_, _, seen)| seen == top) {
                    found.push((distance, at, *top));
                }
            }
        }
        let fits = |(_, at, top): &&(usize, usize, usize)| {
            let root = &self.roots[*top];
            root.certificate.facts().validity.at(now).is_ok() && key_ids_fit(&self.members[*at], root)
        };
        let (distance, at, top) = *found.iter().find(fits).or(found.first())?;
        let root = &self.roots[top];
        if found.len() > 1 {
            let names: Vec<_> = found.iter().map(|(_, _, top)| self.roots[*top].called()).collect();
            let what = format!("is cross-signed: it leads to {}", names.join(" and to "));
            let todo = format!("nothing, if all of them are to be in {}", layout.roots);
            findings.note(kinds::CHAIN_CROSS_SIGNED.on(&self.members[start], what, todo));
        }
        let itself = self.members[at].certificate == root.certificate;
        Some((root.clone(), if itself { distance } else { distance + 1 }))
    }

    /// Whether some issuer of a member is the one that its authority key identifier names.
    fn check_key_ids(&self, at: usize, order: &[usize], findings: &mut Findings) {
        let member = &self.members[at];
        let parents = self.parents[at].iter().filter(|up| order.contains(up)).map(|up| &self.members[*up]);
        let issuers: Vec<_> = parents.chain(self.tops[at].iter().map(|up| &self.roots[*up])).collect();
        if issuers.iter().any(|issuer| key_ids_fit(member, issuer)) {
            return;
        }
        let Some(issuer) = issuers.first() else { return };
        let what =
            format!("names another key id or serial number for its issuer than {} has", issuer.called());
        let name = name::display(&member.certificate.facts().issuer);
        let todo = member::issued_anew(
            &name,
            "with authorityKeyIdentifier=keyid, after the issuer's own certificate last changed",
        );
        findings.fault(kinds::KEY_ID_MISMATCH.on(member, what, todo));
    }

    /// Says why no root is reached: at each end of what is reached, whom it names and what is known of them.
    fn explain(&self, start: usize, layout: &Layout, findings: &mut Findings) {
        let all: Vec<_> = (0..self.members.len()).collect();
        let before = findings.faults.len();
        for (_, at) in self.walk(start, &all).into_iter().filter(|(_, at)| self.parents[*at].is_empty()) {
            self.explain_end(&self.members[at], layout, findings);
        }
        if findings.faults.len() == before {
            let what = "goes round in a circle of certificates that signed each other, without a root";
            let todo = format!("add the root to {}", layout.roots);
            findings.fault(kinds::CHAIN_BROKEN.of(layout.chain, what, todo));
        }
    }

    fn explain_end(&self, member: &Placed, layout: &Layout, findings: &mut Findings) {
        let facts = member.certificate.facts();
        let issuer = name::display(&facts.issuer);
        let weak = Details::of(&member.certificate, false)
            .is_some_and(|details| details.signature != Signature::Good);
        let others = || self.members.iter().chain(self.roots).filter(|other| *other != member);
        if weak {
            // What cannot be verified here is no path.
            member::signature(member, findings);
        }
        let mut named = others().filter(|other| other.certificate.facts().subject == facts.issuer).peekable();
        if named.peek().is_some() {
            for other in named {
                if KeyKind::of_spki(&other.certificate.facts().spki).is_err() {
                    member::key(other, findings);
                } else if !weak {
                    let what = format!(
                        "names {} at line {} of {} as its issuer, which did not sign it: its key is another",
                        other.called(),
                        other.line,
                        other.file
                    );
                    let todo = format!(
                        "put the certificate of ({issuer}) there that has the signing key, or have {} \
                            issued anew by the one that is there",
                        member.called()
                    );
                    findings.fault(kinds::CHAIN_KEY_MISMATCH.on(member, what, todo));
                }
            }
        } else if let Some(other) =
            others().find(|other| name::display(&other.certificate.facts().subject) == issuer)
        {
            let what = format!(
                "names ({issuer}) as its issuer in other bytes than {} at line {} of {} has as its subject",
                other.called(),
                other.line,
                other.file
            );
            findings.fault(kinds::CHAIN_NAME_ENCODING.on(
                member,
                what,
                member::issued_anew(&issuer, "by a program that copies the subject's bytes, as OpenSSL does"),
            ));
        } else {
            let what = format!(
                "is signed by ({issuer}), which is not in {} nor further up in {}",
                layout.roots, layout.chain
            );
            let todo = format!(
                "if ({issuer}) is the root, add its certificate to {}; if it is an intermediate, add it to \
                    {} behind {}",
                layout.roots,
                layout.chain,
                member.called()
            );
            findings.fault(kinds::CHAIN_BROKEN.on(member, what, todo));
        }
    }
}

fn key_ids_fit(below: &Placed, above: &Placed) -> bool {
    let (child, issuer) = (below.certificate.facts(), above.certificate.facts());
    let id = match (&child.authority_key_id, &issuer.subject_key_id) {
        (Some(named), Some(own)) => named == own,
        _ => true,
    };
    let serial = Details::of(&below.certificate, false).and_then(|details| details.authority_serial);
    let strip = |octets: &[u8]| octets[octets.iter().take_while(|octet| **octet == 0).count()..].to_vec();
    id && serial.is_none_or(|serial| strip(&serial) == issuer.serial.as_bytes())
}
