//! What this agent can truthfully say it holds: a pure function of facts.
//!
//! A CA gates a rotation on these statements, so doubt always lowers them: a root counts as held only when
//! each subscriber accepted it and the files hold it; what cannot be told is said to be unknown.

use super::{Trust, Version};
use crate::sink::files::Written;
use crate::sink::sds::{RootDigests, Subscriber};
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::TrustDomain;
use signet_proto::signet::trust::v1::{Acknowledgement, HeldRoot, Holding, Subscribers};

/// Longest error text that is passed on, in bytes.
const MAX_ERROR: usize = 256;
/// Most error texts.
const MOST_ERRORS: usize = 8;

/// Everything that a statement is made of.
pub(crate) struct Facts<'a> {
    pub(crate) own: &'a TrustDomain,
    pub(crate) trust: &'a Trust,
    /// The leaf that is served now.
    pub(crate) serial: Option<&'a Serial>,
    pub(crate) subscribers: &'a [Subscriber],
    /// What the files hold; `None` if there are to be none.
    pub(crate) files: Option<&'a Written>,
}

/// How one subscriber stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Acknowledged,
    Pending,
    Rejected,
    Unknown,
}

/// The statement that these facts support. `None` while nobody has counted our trust: there is no
/// statement of the CA's to refer to.
pub(crate) fn state(facts: &Facts<'_>) -> Option<Acknowledgement> {
    let Version { epoch, sequence } = facts.trust.version?;
    let roots = facts.trust.bundles.iter().flat_map(|(trust_domain, bundle)| {
        bundle.roots().iter().map(move |root| (trust_domain, root.digest()))
    });
    let roots = roots
        .map(|(trust_domain, digest)| HeldRoot {
            trust_domain: trust_domain.to_string(),
            digest: digest.to_vec(),
            // Only our own trust domain's roots are served; nobody took the others from us.
            holding: if trust_domain == facts.own {
                holding(facts, &digest).into()
            } else {
                Holding::NotHeld.into()
            },
        })
        .collect();
    let connected: Vec<_> = facts.subscribers.iter().filter(|one| !one.streams.is_empty()).collect();
    let count = |standing| connected.iter().filter(|one| stands(one) == standing).count() as u32;
    let gone = facts.subscribers.len() - connected.len();
    let files_written =
        facts.files.is_some_and(|files| holds_all(&files.roots, facts) && files.error.is_none());
    Some(Acknowledgement {
        epoch,
        sequence,
        digest: facts.trust.bundles.digest().to_vec(),
        roots,
        serving_serial: serving(facts).map(|serial| serial.as_bytes().to_vec()).unwrap_or_default(),
        subscribers: Some(Subscribers {
            connected: connected.len() as u32,
            acknowledged: count(Standing::Acknowledged),
            rejected: count(Standing::Rejected),
            unknown: gone as u32 + count(Standing::Unknown),
            files_written,
        }),
        errors: errors(facts),
    })
}

fn holding(facts: &Facts<'_>, root: &[u8; 32]) -> Holding {
    let of_files = facts.files.map(|files| held_if(files.roots.contains(root)));
    let each = facts.subscribers.iter().map(|one| held_by(one, root)).chain(of_files);
    // The lowest statement wins; that something lacks it for certain is the lowest.
    each.fold(Holding::Held, |all, one| match (all, one) {
        (Holding::NotHeld, _) | (_, Holding::NotHeld) => Holding::NotHeld,
        (Holding::Held, Holding::Held) => Holding::Held,
        _ => Holding::Unknown,
    })
}

fn held_by(subscriber: &Subscriber, root: &[u8; 32]) -> Holding {
    let mut taking = subscriber.streams.values().filter_map(|facts| facts.roots.as_ref()).peekable();
    if taking.peek().is_none() {
        return Holding::Unknown;
    }
    let has = |set: &RootDigests| set.contains(root);
    // A set on its way may already have replaced the accepted one, so it must have the root too.
    held_if(
        taking
            .all(|roots| roots.accepted.as_ref().is_some_and(has) && roots.pending.as_ref().is_none_or(has)),
    )
}

fn held_if(truth: bool) -> Holding {
    if truth { Holding::Held } else { Holding::NotHeld }
}

fn stands(subscriber: &Subscriber) -> Standing {
    let certificates = || subscriber.streams.values().filter_map(|facts| facts.certificate.as_ref());
    let roots = || subscriber.streams.values().filter_map(|facts| facts.roots.as_ref());
    let rejected =
        certificates().any(|one| one.rejected.is_some()) || roots().any(|one| one.rejected.is_some());
    if rejected {
        Standing::Rejected
    } else if roots().next().is_none() {
        Standing::Unknown
    } else if certificates().all(|one| one.is_settled()) && roots().all(|one| one.is_settled()) {
        Standing::Acknowledged
    } else {
        Standing::Pending
    }
}

/// The leaf that everybody serves: the present one if all have it, else that of one who lags behind, or
/// none if somebody who wants a certificate has none.
fn serving(facts: &Facts<'_>) -> Option<Serial> {
    let present = facts.serial?;
    let of_files = facts.files.map(|files| files.serial.clone());
    let of_subscribers = facts.subscribers.iter().flat_map(|subscriber| {
        let mut serving: Vec<_> = subscriber
            .streams
            .values()
            .filter_map(|facts| facts.certificate.as_ref())
            .map(|delivery| delivery.accepted.clone().or_else(|| subscriber.last_serial.clone()))
            .collect();
        if subscriber.streams.is_empty() {
            serving.extend(subscriber.last_serial.clone().map(Some));
        }
        serving
    });
    of_files
        .into_iter()
        .chain(of_subscribers)
        .find(|serial| serial.as_ref() != Some(present))
        .unwrap_or_else(|| Some(present.clone()))
}

fn holds_all(roots: &RootDigests, facts: &Facts<'_>) -> bool {
    let own = facts.trust.bundles.get(facts.own);
    own.is_some_and(|bundle| bundle.roots().iter().all(|root| roots.contains(&root.digest())))
}

fn errors(facts: &Facts<'_>) -> Vec<String> {
    let streams = facts.subscribers.iter().flat_map(|one| one.streams.values());
    let refusals = streams.flat_map(|facts| {
        let certificate = facts.certificate.as_ref().and_then(|one| one.rejected.as_ref());
        let roots = facts.roots.as_ref().and_then(|one| one.rejected.as_ref());
        let named = |name: &str, text: &String| format!("{name}: {text}");
        certificate
            .map(|text| named("default", text))
            .into_iter()
            .chain(roots.map(|text| named("ROOTCA", text)))
    });
    let files = facts.files.and_then(|files| files.error.clone());
    let all: Vec<_> = refusals.chain(files).map(|text| cut(&text)).collect();
    all[all.len().saturating_sub(MOST_ERRORS)..].to_vec()
}

/// A text cut to what the CA accepts, at a character.
pub(crate) fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_ERROR);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sink::sds::{Delivery, StreamFacts};
    use crate::testing::{Authority, trust, trust_domain};
    use std::collections::BTreeSet;
    use std::sync::Arc;

    /// Two roots, a leaf, and one subscriber with both secrets; everything accepted.
    struct Scene {
        trust: Trust,
        serial: Serial,
        subscribers: Vec<Subscriber>,
        files: Option<Written>,
    }

    fn accepted<T>(content: T) -> Option<Delivery<T>> {
        Some(Delivery { accepted: Some(content), pending: None, rejected: None })
    }

    fn serial(byte: u8) -> Serial {
        Serial::from_bytes(&[byte; 16])
    }

    impl Scene {
        fn new() -> Self {
            let trust = trust(&[&Authority::root("A"), &Authority::root("B")], Some((1, 4)));
            let scene = Self { trust, serial: serial(2), subscribers: vec![], files: None };
            let facts = StreamFacts { certificate: accepted(serial(2)), roots: accepted(scene.roots()) };
            Self { subscribers: vec![subscriber(vec![facts])], ..scene }
        }

        fn roots(&self) -> RootDigests {
            let bundle = self.trust.bundles.get(&trust_domain()).unwrap();
            Arc::new(bundle.roots().iter().map(|root| root.digest()).collect())
        }

        /// The first root alone.
        fn one_root(&self) -> RootDigests {
            let bundle = self.trust.bundles.get(&trust_domain()).unwrap();
            Arc::new(BTreeSet::from([bundle.roots()[0].digest()]))
        }

        fn facts(&mut self) -> &mut StreamFacts {
            self.subscribers[0].streams.get_mut(&0).unwrap()
        }

        fn state(&self) -> Acknowledgement {
            state(&Facts {
                own: &trust_domain(),
                trust: &self.trust,
                serial: Some(&self.serial),
                subscribers: &self.subscribers,
                files: self.files.as_ref(),
            })
            .unwrap()
        }

        fn holdings(&self) -> Vec<Holding> {
            self.state().roots.iter().map(|root| root.holding()).collect()
        }

        fn serving(&self) -> Vec<u8> {
            self.state().serving_serial
        }
    }

    fn subscriber(streams: Vec<StreamFacts>) -> Subscriber {
        Subscriber { streams: (0..).zip(streams).collect(), last_serial: None }
    }

    #[test]
    fn what_everybody_accepted_is_held() {
        let scene = Scene::new();
        assert_eq!(scene.holdings(), [Holding::Held, Holding::Held]);
        assert_eq!(scene.serving(), [2; 16]);
        let stated = scene.state();
        assert_eq!(
            (stated.epoch, stated.sequence, stated.digest),
            (1, 4, scene.trust.bundles.digest().to_vec())
        );
        let expected = Subscribers { connected: 1, acknowledged: 1, ..Default::default() };
        assert_eq!(stated.subscribers, Some(expected));
    }

    #[test]
    fn two_streams_of_one_subscriber_are_judged_together() {
        let mut scene = Scene::new();
        let both = scene.facts().clone();
        scene.subscribers = vec![subscriber(vec![
            StreamFacts { certificate: both.certificate, roots: None },
            StreamFacts { certificate: None, roots: both.roots },
        ])];
        assert_eq!(scene.holdings(), [Holding::Held, Holding::Held]);
        assert_eq!(scene.state().subscribers.unwrap().acknowledged, 1);
    }

    #[test]
    fn a_root_on_its_way_or_refused_is_not_held() {
        let mut scene = Scene::new();
        let (one, both) = (scene.one_root(), scene.roots());
        scene.facts().roots =
            Some(Delivery { accepted: Some(one), pending: Some(both.clone()), rejected: None });
        assert_eq!(scene.holdings(), [Holding::Held, Holding::NotHeld]);
        let roots = scene.facts().roots.as_mut().unwrap();
        (roots.pending, roots.rejected) = (None, Some("no".into()));
        assert_eq!(scene.holdings(), [Holding::Held, Holding::NotHeld]);
        let stated = scene.state();
        assert_eq!((stated.subscribers.unwrap().rejected, stated.errors), (1, vec!["ROOTCA: no".to_owned()]));
        // A root that is being taken away may be gone already.
        let one = scene.one_root();
        scene.facts().roots = Some(Delivery { accepted: Some(both), pending: Some(one), rejected: None });
        assert_eq!(scene.holdings(), [Holding::Held, Holding::NotHeld]);
        scene.facts().roots = Some(Delivery { accepted: None, pending: None, rejected: None });
        assert_eq!(scene.holdings(), [Holding::NotHeld, Holding::NotHeld]);
    }

    #[test]
    fn what_cannot_be_told_is_unknown_and_not_held_is_lower() {
        let mut scene = Scene::new();
        let only = StreamFacts { certificate: accepted(serial(2)), roots: None };
        scene.subscribers.push(subscriber(vec![only]));
        assert_eq!(scene.holdings(), [Holding::Unknown, Holding::Unknown]);
        assert_eq!(scene.state().subscribers.unwrap().unknown, 1);
        let mut gone = Scene::new();
        gone.subscribers.push(subscriber(vec![]));
        assert_eq!(gone.holdings(), [Holding::Unknown, Holding::Unknown]);
        let counts = gone.state().subscribers.unwrap();
        assert_eq!((counts.connected, counts.acknowledged, counts.unknown), (1, 1, 1));
        let one = gone.one_root();
        gone.facts().roots = accepted(one);
        assert_eq!(gone.holdings(), [Holding::Unknown, Holding::NotHeld]);
    }

    #[test]
    fn files_that_are_wanted_count() {
        let mut scene = Scene::new();
        scene.files = Some(Written::default());
        assert_eq!(scene.holdings(), [Holding::NotHeld, Holding::NotHeld]);
        assert!(scene.serving().is_empty());
        scene.files =
            Some(Written { serial: Some(serial(2)), roots: scene.roots(), crls: None, error: None });
        assert_eq!(scene.holdings(), [Holding::Held, Holding::Held]);
        assert!(scene.state().subscribers.unwrap().files_written);
        scene.files.as_mut().unwrap().error = Some("disk full".into());
        let stated = scene.state();
        assert!(!stated.subscribers.unwrap().files_written);
        assert_eq!(stated.errors, ["disk full"]);
    }

    #[test]
    fn the_serving_leaf_is_the_laggard_s() {
        let mut scene = Scene::new();
        let pending = Delivery { accepted: Some(serial(1)), pending: Some(serial(2)), rejected: None };
        scene.facts().certificate = Some(pending);
        assert_eq!(scene.serving(), [1; 16]);
        let refused = Delivery { accepted: Some(serial(1)), pending: None, rejected: Some("no".into()) };
        scene.facts().certificate = Some(refused);
        assert_eq!(scene.serving(), [1; 16], "a refusal is not serving the new leaf");
        scene.facts().certificate =
            Some(Delivery { accepted: None, pending: Some(serial(2)), rejected: None });
        assert!(scene.serving().is_empty());
        let mut gone = Scene::new();
        gone.subscribers.push(Subscriber { last_serial: Some(serial(1)), ..Default::default() });
        assert_eq!(gone.serving(), [1; 16]);
    }

    #[test]
    fn roots_of_other_trust_domains_are_not_served() {
        let mut scene = Scene::new();
        let root = Authority::root("C").certificate;
        let other = TrustDomain::parse("other.example").unwrap();
        let theirs =
            signet_certs::bundle::Bundles::of(other, signet_certs::bundle::TrustBundle::new(vec![root]));
        scene.trust.bundles = scene.trust.bundles.merge(&theirs);
        assert_eq!(scene.holdings(), [Holding::Held, Holding::Held, Holding::NotHeld]);
    }

    #[test]
    fn without_a_version_there_is_nothing_to_state_and_long_texts_are_cut() {
        let mut scene = Scene::new();
        scene.facts().roots.as_mut().unwrap().rejected = Some("ä".repeat(300));
        let error = scene.state().errors.remove(0);
        assert!(error.len() <= 256 && error.len() > 250);
        scene.trust.version = None;
        let trust_domain = trust_domain();
        let facts =
            Facts { own: &trust_domain, trust: &scene.trust, serial: None, subscribers: &[], files: None };
        assert_eq!(state(&facts), None);
    }
}
