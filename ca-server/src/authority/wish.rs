//! What the plugged-in folder asks for, held against what is active: a changed folder is a wish. It is taken
//! at once only if every certificate and every bundle that is out there goes on working; everything else is
//! refused with its reasons, and the CA goes on as before. Pure, but for the signatures of a rehearsal.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use signet_certs::cacerts::{Cacerts, Folder};
use signet_certs::change::{self, Verdict};
use signet_certs::clock::rfc3339;
use signet_certs::digest::hex;
use signet_certs::name;
use signet_certs::spiffe_id::TrustDomain;
use signet_service::logging::with_causes;

use super::rehearsal::rehearse;
use super::state::Source;
use crate::config::Serving;
use crate::reason;

/// What a folder is judged by.
#[derive(Debug)]
pub struct Rules {
    /// Where we sign.
    pub domains: BTreeSet<TrustDomain>,
    /// Our own port.
    pub serving: Serving,
}

/// Why a wish is not granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Stable.
    pub code: &'static str,
    /// For people: what was expected, what was found, what to do.
    pub text: String,
}

/// What becomes of a wish.
#[derive(Debug)]
pub enum Outcome {
    /// The folder says what is active already.
    Same,
    /// Safe at once.
    Take(Arc<Cacerts>),
    /// Not to be taken.
    Refuse(Refused),
}

/// A wish that is not granted, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The wished key's identifier, hex, where the folder could be read so far.
    pub id: Option<String>,
    /// Its subject.
    pub subject: Option<String>,
    /// Why.
    pub reasons: Vec<Reason>,
}

impl Refused {
    /// For a folder that could not be read as a CA.
    pub fn because(code: reason::Reason, text: impl Into<String>) -> Self {
        Self { id: None, subject: None, reasons: vec![Reason { code: code.code(), text: text.into() }] }
    }

    fn of(cacerts: &Cacerts, reasons: Vec<Reason>) -> Self {
        let subject = name::display(&cacerts.ca.certificate.facts().subject);
        Self { id: Some(hex(&cacerts.ca.certificate.key_id())), subject: Some(subject), reasons }
    }

    /// CRLs that come too early for leaves under an issuing intermediate.
    pub fn crls_wait(cacerts: &Cacerts, until: SystemTime) -> Self {
        let text = format!(
            "the CRLs are taken at {}: until then there may be certificates under an issuing intermediate, which \
             has no CRL, and peers with CRLs would refuse them; the plugged-in key signs everything meanwhile",
            rfc3339(until)
        );
        Self::of(cacerts, vec![Reason { code: reason::Reason::CrlsWait.code(), text }])
    }

    /// A safe wish that could not be carried out.
    pub fn failed(cacerts: &Cacerts, cause: String) -> Self {
        Self::of(cacerts, vec![Reason { code: reason::Reason::NotKept.code(), text: cause }])
    }
}

/// Judges `folder` at `now` against the active CA and where that came from.
pub fn judge(folder: &Folder, active: &Cacerts, source: Source, rules: &Rules, now: SystemTime) -> Outcome {
    if folder.is_empty() {
        return match source {
            Source::SelfSigned => Outcome::Same,
            Source::Cacerts => Outcome::Refuse(Refused::because(
                reason::Reason::Empty,
                "the files of the active CA are gone; put them back, or the files of its successor",
            )),
        };
    }
    let wished = match Cacerts::read(folder, now) {
        Ok(wished) => Arc::new(wished),
        Err(faults) => {
            let reasons = faults.iter().map(|fault| Reason { code: fault.code, text: fault.to_string() });
            return Outcome::Refuse(Refused { id: None, subject: None, reasons: reasons.collect() });
        }
    };
    let change = change::compare(active, &wished);
    match change.verdict {
        Verdict::Same => Outcome::Same,
        Verdict::NeedsRotation => {
            let grave = |reason: &change::Reason| reason.code.verdict() == Verdict::NeedsRotation;
            let way_out = match source {
                Source::Cacerts => "",
                Source::SelfSigned => {
                    "; until there are rotations, another root begins with another data folder, and every \
                     workload needs it"
                }
            };
            let reasons = change.reasons.into_iter().filter(grave);
            let reasons =
                reasons.map(|reason| Reason { code: reason.code.name(), text: reason.text + way_out });
            Outcome::Refuse(Refused::of(&wished, reasons.collect()))
        }
        Verdict::Safe => match rehearse(wished.clone(), &rules.domains, &rules.serving, now) {
            Ok(()) => Outcome::Take(wished),
            Err(error) => {
                let reason = Reason { code: reason::Reason::Rehearsal.code(), text: with_causes(&error) };
                Outcome::Refuse(Refused::of(&wished, vec![reason]))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::kept::Kept;
    use crate::authority::tests::{YEAR, life, now, root};
    use signet_certs::ca::Ca;
    use signet_certs::cacerts::{CA_KEY, NAMES, ROOT_CERT};
    use signet_certs::key::PrivateKey;
    use signet_certs::name::ca_name;
    use std::time::Duration;
    use zeroize::Zeroizing;

    fn rules() -> Rules {
        let domains = BTreeSet::from([TrustDomain::parse("cluster.local").unwrap()]);
        let lifetime = Duration::from_secs(3600);
        Rules { domains, serving: Serving { dns: vec!["localhost".into()], ip: vec![], lifetime } }
    }

    /// An intermediate under `anchor`, with these roots.
    fn under(anchor: &Ca, roots: &[&Ca]) -> Cacerts {
        let key = PrivateKey::generate_p256().unwrap();
        let subject = ca_name("Signet", Some("cluster1"), "Intermediate CA");
        let ca = anchor.intermediate(subject, 0, life(YEAR), key).unwrap();
        let signer = ca.certificate.clone();
        let roots = roots.iter().map(|root| root.certificate.clone()).collect();
        Cacerts::of(ca, vec![signer], anchor.certificate.clone(), roots)
    }

    fn folder(cacerts: &Cacerts) -> Folder {
        let place = tempfile::tempdir().unwrap();
        let kept = Kept::new(place.path(), Arc::default());
        let copy = kept.path(&kept.write(cacerts).unwrap());
        let mut folder = Folder::new();
        for name in NAMES {
            if let Ok(content) = std::fs::read(copy.join(name)) {
                folder.insert(name, Ok(Zeroizing::new(content)));
            }
        }
        folder
    }

    fn judged(active: &Cacerts, wished: &Folder) -> Outcome {
        judge(wished, active, Source::Cacerts, &rules(), now())
    }

    fn codes(outcome: Outcome) -> Vec<&'static str> {
        match outcome {
            Outcome::Refuse(refused) => refused.reasons.iter().map(|reason| reason.code).collect(),
            other => panic!("a refusal was expected, not {other:?}"),
        }
    }

    #[test]
    fn what_leaves_every_bundle_and_certificate_good_is_taken() {
        let (a, b) = (root("A"), root("B"));
        let active = under(&a, &[&a]);
        assert!(matches!(judged(&active, &folder(&active)), Outcome::Same));
        for wished in [under(&a, &[&a]), under(&a, &[&a, &b]), under(&a, &[&b, &a])] {
            assert!(matches!(judged(&active, &folder(&wished)), Outcome::Take(_)));
        }
    }

    #[test]
    fn case_32_another_anchor_or_a_root_less_needs_a_rotation() {
        let (a, b) = (root("A"), root("B"));
        let active = under(&a, &[&a, &b]);
        assert_eq!(codes(judged(&active, &folder(&under(&a, &[&a])))), ["ROOT_REMOVED"]);
        assert_eq!(codes(judged(&active, &folder(&under(&b, &[&a, &b])))), ["ANCHOR_CHANGED"]);
        let both = codes(judged(&active, &folder(&under(&b, &[&b]))));
        assert!(both.contains(&"ROOT_REMOVED") && both.contains(&"ANCHOR_CHANGED"), "{both:?}");
        // The same subject with another key is another root.
        let twin = root("A");
        let codes = codes(judged(&under(&a, &[&a]), &folder(&under(&twin, &[&twin]))));
        assert!(codes.contains(&"ANCHOR_CHANGED"), "{codes:?}");
    }

    #[test]
    fn case_30_what_is_broken_or_gone_is_refused_with_each_fault() {
        let a = root("A");
        let active = under(&a, &[&a]);
        let mut broken = folder(&under(&a, &[&a]));
        broken.insert(CA_KEY, Ok(Zeroizing::new(b"garbage".to_vec())));
        broken.insert(ROOT_CERT, Err("is a directory".to_owned()));
        assert_eq!(codes(judged(&active, &broken)).len(), 2);
        assert_eq!(codes(judged(&active, &Folder::new())), ["EMPTY"]);
        let nothing_wished = judge(&Folder::new(), &active, Source::SelfSigned, &rules(), now());
        assert!(matches!(nothing_wished, Outcome::Same));
    }

    #[test]
    fn a_refusal_names_the_wished_key() {
        let (a, b) = (root("A"), root("B"));
        let wished = under(&b, &[&b]);
        let Outcome::Refuse(refused) = judged(&under(&a, &[&a]), &folder(&wished)) else {
            panic!("a refusal was expected");
        };
        assert_eq!(refused.id, Some(hex(&wished.ca.certificate.key_id())));
        assert_eq!(refused.subject.as_deref(), Some("O=Signet, L=cluster1, CN=Intermediate CA"));
    }
}
