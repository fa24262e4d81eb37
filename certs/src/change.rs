//! What a changed CA means for everybody who holds the old one's certificates and roots.
use crate::cacerts::Cacerts;
use crate::name;

/// What a change may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing changed.
    Same,
    /// Safe at once.
    Safe,
    /// Somebody would be refused without a rotation.
    NeedsRotation,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Stable.
    pub code: &'static str,
    /// For people.
    pub text: String,
}

/// A change and why it is judged so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether it may be taken at once.
    pub verdict: Verdict,
    /// Why.
    pub reasons: Vec<Reason>,
}

/// Judges the change from `old` to `new`.
pub fn compare(old: &Cacerts, new: &Cacerts) -> Change {
    let mut reasons = Vec::new();
    for root in old.roots.iter().filter(|root| !new.roots.contains(root)) {
        let text = format!("the root ({}) would go", name::display(&root.facts().subject));
        reasons.push(Reason { code: "ROOT_REMOVED", text });
    }
    if old.anchor != new.anchor {
        let text =
            format!("the chain would end in the root ({})", name::display(&new.anchor.facts().subject));
        reasons.push(Reason { code: "ANCHOR_CHANGED", text });
    }
    if !reasons.is_empty() {
        return Change { verdict: Verdict::NeedsRotation, reasons };
    }
    let same = old.ca.certificate == new.ca.certificate
        && old.intermediates == new.intermediates
        && old.roots.len() == new.roots.len()
        && old.crl == new.crl;
    Change { verdict: if same { Verdict::Same } else { Verdict::Safe }, reasons }
}
