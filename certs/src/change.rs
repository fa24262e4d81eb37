//! What it means to put one plugged-in CA in the place of another: safe at once, or only after consumers
//! were shown to hold the new trust.
//!
//! Pure: it compares what was loaded. Who holds which roots is not known here, so safe is only what needs
//! no consumer to change: roots the same or more, and the same root at the end of the chain.

use std::collections::HashSet;

use crate::cacerts::Cacerts;
use crate::chain::Certificate;
use crate::name;

/// What a change needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Nothing changes for anybody.
    Same,
    /// Safe at once.
    Safe,
    /// Some peers would refuse others until all have the new roots.
    NeedsRotation,
}

/// One thing that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Its stable name.
    pub code: ReasonCode,
    /// For people.
    pub text: String,
}

/// What can change, with the verdict that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasonCode {
    /// Consumers would lose a root that live leaves may chain to.
    RootRemoved,
    /// New leaves chain to a root that consumers may not hold.
    AnchorChanged,
    /// Consumers get a root more.
    RootAdded,
    /// Another certificate signs, under the same root.
    SignerChanged,
    /// Other certificates stand between the signer and the same root.
    ChainChanged,
    /// The CRLs differ.
    CrlChanged,
}

impl ReasonCode {
    /// Its stable name, such as `ROOT_REMOVED`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RootRemoved => "ROOT_REMOVED",
            Self::AnchorChanged => "ANCHOR_CHANGED",
            Self::RootAdded => "ROOT_ADDED",
            Self::SignerChanged => "SIGNER_CHANGED",
            Self::ChainChanged => "CHAIN_CHANGED",
            Self::CrlChanged => "CRL_CHANGED",
        }
    }

    /// The least that a change with this reason needs.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::RootRemoved | Self::AnchorChanged => Verdict::NeedsRotation,
            Self::RootAdded | Self::SignerChanged | Self::ChainChanged | Self::CrlChanged => Verdict::Safe,
        }
    }
}

/// The difference between two CAs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The gravest that any reason leads to.
    pub verdict: Verdict,
    /// Everything that changes; empty where nothing does.
    pub reasons: Vec<Reason>,
}

/// Compares what is active with what is wished. Roots are compared by their bytes and without order.
pub fn compare(old: &Cacerts, new: &Cacerts) -> Change {
    let mut reasons = Vec::new();
    let mut add = |code, text| reasons.push(Reason { code, text });
    for root in beyond(&old.roots, &new.roots) {
        add(
            ReasonCode::RootRemoved,
            format!(
                "the root {} goes; leaves under it would be refused by whoever no longer has it",
                named(root)
            ),
        );
    }
    if !ends_in(new, &old.anchor) {
        add(ReasonCode::AnchorChanged, anchor_changed(old, new));
    }
    for root in beyond(&new.roots, &old.roots) {
        add(ReasonCode::RootAdded, format!("the root {} comes; nothing is signed under it yet", named(root)));
    }
    if old.ca.certificate != new.ca.certificate {
        let (old, new) = (named(&old.ca.certificate), named(&new.ca.certificate));
        add(ReasonCode::SignerChanged, format!("{new} signs in place of {old}"));
    } else if old.intermediates != new.intermediates {
        let text = format!("the certificates between {} and its root differ", named(&old.ca.certificate));
        add(ReasonCode::ChainChanged, text);
    }
    if old.crl != new.crl {
        add(ReasonCode::CrlChanged, "the CRLs differ".to_owned());
    }
    let verdict = reasons.iter().map(|reason| reason.code.verdict()).max().unwrap_or(Verdict::Same);
    Change { verdict, reasons }
}

/// Whether the chain of `cacerts` ends in `anchor`, or ends there as well: a root that was issued anew for the
/// same key and name signs what the old one did.
fn ends_in(cacerts: &Cacerts, anchor: &Certificate) -> bool {
    let top = cacerts.intermediates.last().unwrap_or(&cacerts.ca.certificate);
    cacerts.anchor == *anchor || (cacerts.roots.contains(anchor) && top.is_signed_by(anchor))
}

fn anchor_changed(old: &Cacerts, new: &Cacerts) -> String {
    let (before, after) = (named(&old.anchor), named(&new.anchor));
    if old.roots.contains(&new.anchor) {
        format!(
            "new leaves chain to {after} in place of {before}; that every consumer holds it is not shown yet"
        )
    } else {
        format!("new leaves chain to {after} in place of {before}, which no consumer has from this CA")
    }
}

/// Roots of one list that the other lacks.
fn beyond<'a>(these: &'a [Certificate], those: &[Certificate]) -> Vec<&'a Certificate> {
    let those: HashSet<_> = those.iter().map(Certificate::digest).collect();
    these.iter().filter(|root| !those.contains(&root.digest())).collect()
}

fn named(certificate: &Certificate) -> String {
    let facts = certificate.facts();
    format!("({}, serial {})", name::display(&facts.subject), facts.serial)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ca::Ca;
    use crate::ca::tests::{intermediate, life, root};
    use crate::key::PrivateKey;
    use crate::name::ca_name;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn copy(ca: &Ca) -> Ca {
        let key = PrivateKey::from_pem(ca.key.to_pkcs8_pem().as_bytes()).unwrap();
        Ca { certificate: ca.certificate.clone(), key }
    }

    /// What would be loaded for this signer under the anchor, with these roots.
    fn loaded(signer: &Ca, anchor: &Ca, roots: &[&Ca]) -> Cacerts {
        let chain =
            if signer.certificate == anchor.certificate { vec![] } else { vec![signer.certificate.clone()] };
        let roots = roots.iter().map(|root| root.certificate.clone()).collect();
        Cacerts::of(copy(signer), chain, anchor.certificate.clone(), roots)
    }

    fn codes(change: &Change) -> Vec<&'static str> {
        change.reasons.iter().map(|reason| reason.code.name()).collect()
    }

    #[test]
    fn case_32_only_more_roots_and_signers_under_the_same_root_are_safe_at_once() {
        let (a, b) = (root("A"), root("B"));
        let (a1, a2, b1) = (intermediate(&a), intermediate(&a), intermediate(&b));
        // The same name and key, as when a root is issued anew: other bytes are another root.
        let again = Ca::root(a.certificate.facts().subject.clone(), life(20), copy(&a).key).unwrap();
        let old = loaded(&a1, &a, &[&a]);
        let both = loaded(&a1, &a, &[&a, &b]);
        let table: [(&str, &Cacerts, Cacerts, Verdict, &[&str]); 13] = [
            ("nothing", &old, loaded(&a1, &a, &[&a]), Verdict::Same, &[]),
            ("the order of roots", &both, loaded(&a1, &a, &[&b, &a]), Verdict::Same, &[]),
            ("a root more", &old, loaded(&a1, &a, &[&a, &b]), Verdict::Safe, &["ROOT_ADDED"]),
            ("the signer", &old, loaded(&a2, &a, &[&a]), Verdict::Safe, &["SIGNER_CHANGED"]),
            ("both", &old, loaded(&a2, &a, &[&b, &a]), Verdict::Safe, &["ROOT_ADDED", "SIGNER_CHANGED"]),
            ("the root itself signs", &old, loaded(&a, &a, &[&a]), Verdict::Safe, &["SIGNER_CHANGED"]),
            ("a root less", &both, loaded(&a1, &a, &[&a]), Verdict::NeedsRotation, &["ROOT_REMOVED"]),
            (
                "the anchor, to a root that was given out",
                &both,
                loaded(&b1, &b, &[&a, &b]),
                Verdict::NeedsRotation,
                &["ANCHOR_CHANGED", "SIGNER_CHANGED"],
            ),
            (
                "everything",
                &old,
                loaded(&b1, &b, &[&b]),
                Verdict::NeedsRotation,
                &["ROOT_REMOVED", "ANCHOR_CHANGED", "ROOT_ADDED", "SIGNER_CHANGED"],
            ),
            (
                "neither subset nor superset",
                &both,
                loaded(&a1, &a, &[&a, &again]),
                Verdict::NeedsRotation,
                &["ROOT_REMOVED", "ROOT_ADDED"],
            ),
            (
                "a root issued anew beside the old one",
                &old,
                loaded(&a1, &a, &[&a, &again]),
                Verdict::Safe,
                &["ROOT_ADDED"],
            ),
            (
                "a root issued anew before the old one, whose chain ends in both",
                &old,
                loaded(&a1, &again, &[&again, &a]),
                Verdict::Safe,
                &["ROOT_ADDED"],
            ),
            (
                "a root issued anew in place of the old one",
                &old,
                loaded(&a1, &again, &[&again]),
                Verdict::NeedsRotation,
                &["ROOT_REMOVED", "ANCHOR_CHANGED", "ROOT_ADDED"],
            ),
        ];
        for (what, old, new, verdict, reasons) in &table {
            let change = compare(old, new);
            assert_eq!((change.verdict, codes(&change).as_slice()), (*verdict, *reasons), "{what}");
            assert!(change.reasons.iter().all(|reason| reason.text.contains("serial")), "{change:?}");
        }
    }

    #[test]
    fn another_chain_or_crl_under_the_same_signer_is_safe() {
        let a = root("A");
        let key = PrivateKey::generate_p256().unwrap();
        let middle = a.intermediate(ca_name("Signet", None, "Middle"), 1, life(8), key).unwrap();
        let signer = intermediate(&middle);
        let mut old = loaded(&signer, &a, &[&a]);
        old.intermediates.push(middle.certificate.clone());
        let mut new = loaded(&signer, &a, &[&a]);
        new.crl = Some(b"crl".to_vec());
        let change = compare(&old, &new);
        assert_eq!((change.verdict, codes(&change)), (Verdict::Safe, vec!["CHAIN_CHANGED", "CRL_CHANGED"]));
    }

    static ROOTS: LazyLock<Vec<(Ca, Ca)>> = LazyLock::new(|| {
        let all = ["A", "B", "C", "D"].map(root);
        all.into_iter().map(|root| (intermediate(&root), root)).collect()
    });

    /// A CA under one of four roots, with a set of roots that has it.
    fn any_cacerts() -> impl Strategy<Value = (usize, Vec<usize>)> {
        (0..4_usize, proptest::collection::hash_set(0..4_usize, 0..4)).prop_map(|(anchor, mut roots)| {
            roots.insert(anchor);
            (anchor, roots.into_iter().collect())
        })
    }

    fn of((anchor, roots): &(usize, Vec<usize>)) -> Cacerts {
        let roots: Vec<_> = roots.iter().map(|at| &ROOTS[*at].1).collect();
        loaded(&ROOTS[*anchor].0, &ROOTS[*anchor].1, &roots)
    }

    proptest! {
        #[test]
        fn what_is_safe_keeps_every_root_and_the_anchor(old in any_cacerts(), new in any_cacerts()) {
            let change = compare(&of(&old), &of(&new));
            let kept = old.1.iter().all(|root| new.1.contains(root));
            prop_assert_eq!(change.verdict <= Verdict::Safe, kept && old.0 == new.0);
            prop_assert_eq!(change.verdict == Verdict::Same, change.reasons.is_empty());
            // Leaves of both sides verify for consumers of both sides where the change is safe.
            if change.verdict == Verdict::Safe {
                prop_assert!(old.1.contains(&new.0) && new.1.contains(&old.0));
            }
        }

        #[test]
        fn safe_steps_in_a_row_are_safe_together(a in any_cacerts(), b in any_cacerts(), c in any_cacerts()) {
            let [a, b, c] = [of(&a), of(&b), of(&c)];
            if compare(&a, &b).verdict <= Verdict::Safe && compare(&b, &c).verdict <= Verdict::Safe {
                prop_assert!(compare(&a, &c).verdict <= Verdict::Safe);
            }
        }
    }
}
