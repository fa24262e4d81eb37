//! When our certificates end: one forecast for `status`, metrics and the log, which warns at a half, a quarter
//! and a tenth of a life left.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use signet_certs::chain::Certificate;
use signet_certs::clock::rfc3339;
use signet_certs::crl::Term;
use signet_certs::digest::hex;
use signet_certs::name;
use signet_certs::validity::Validity;

use super::Issuer;

/// Between two looks of the warner.
const EVERY: Duration = Duration::from_secs(60);

/// What a certificate is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Trusted by everybody.
    Root,
    /// Between the root and the issuer.
    Intermediate,
    /// The plugged-in or self-signed CA that signs.
    Issuer,
    /// Signs in the issuer's place; made anew by itself.
    IssuingIntermediate,
    /// Our own port's; made anew by itself.
    Serving,
    /// A plugged-in CRL, which ends with its next update; it comes anew as a routine.
    Crl,
}

impl Kind {
    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
            Self::Issuer => "issuer",
            Self::IssuingIntermediate => "issuing-intermediate",
            Self::Serving => "serving",
            Self::Crl => "crl",
        }
    }

    /// Whether it is replaced at half of its life without anybody's doing, so that only less is a warning.
    fn renews_itself(self) -> bool {
        matches!(self, Self::IssuingIntermediate | Self::Serving | Self::Crl)
    }
}

/// How much of a life is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// More than half.
    Fine,
    /// At most half.
    Half,
    /// At most a quarter.
    Quarter,
    /// At most a tenth.
    Tenth,
    /// Nothing.
    Ended,
}

/// One certificate of ours, or a CRL.
#[derive(Debug, Clone, Serialize)]
pub struct Forecast {
    /// What it is to us.
    pub kind: Kind,
    /// For people.
    pub subject: String,
    /// Hex; empty for a CRL.
    pub serial: String,
    /// The first half of its SHA-256, hex: serial numbers repeat between CAs.
    pub fingerprint: String,
    /// Its last good second, RFC 3339.
    pub not_after: String,
    /// Its last good second.
    #[serde(skip)]
    pub ends: SystemTime,
    /// Until then; 0 after it.
    pub seconds_left: u64,
    /// Of its life, 0 to 1.
    pub share_left: f64,
    /// The share, as warnings have it.
    pub level: Level,
}

/// The share of a life that is left at `now`, 0 to 1, and its level.
pub fn left(validity: Validity, now: SystemTime) -> (f64, Level) {
    let Ok(left) = validity.not_after.duration_since(now) else { return (0.0, Level::Ended) };
    let life = validity.not_after.duration_since(validity.not_before).unwrap_or_default();
    let share = if life.is_zero() { 0.0 } else { (left.as_secs_f64() / life.as_secs_f64()).min(1.0) };
    let level = match share {
        share if share > 0.5 => Level::Fine,
        share if share > 0.25 => Level::Half,
        share if share > 0.1 => Level::Quarter,
        _ => Level::Tenth,
    };
    (share, level)
}

/// Every certificate that an outage could begin with, in the order of the chain, and then every CRL.
pub fn forecast(issuer: &Issuer, serving: Option<&Certificate>, now: SystemTime) -> Vec<Forecast> {
    let cacerts = issuer.cacerts();
    let signer = &cacerts.ca.certificate;
    let roots = cacerts.roots.iter().map(|root| (Kind::Root, root));
    let above = cacerts.intermediates.iter().filter(|member| *member != signer);
    // A root that signs by itself stands among the roots already.
    let signers = Some((Kind::Issuer, signer)).filter(|(_, signer)| !cacerts.roots.contains(signer));
    let issuing = issuer.issuing().map(|issuing| (Kind::IssuingIntermediate, issuing.certificate()));
    roots
        .chain(above.map(|member| (Kind::Intermediate, member)))
        .chain(signers)
        .chain(issuing)
        .chain(serving.map(|leaf| (Kind::Serving, leaf)))
        .map(|(kind, certificate)| of(kind, certificate, now))
        .chain(issuer.trust().crls.terms().map(|term| of_crl(&term, now)))
        .collect()
}

fn of(kind: Kind, certificate: &Certificate, now: SystemTime) -> Forecast {
    let facts = certificate.facts();
    let names = match facts.dns.first() {
        Some(host) if kind == Kind::Serving => host.clone(),
        _ => name::display(&facts.subject),
    };
    one(kind, names, facts.serial.to_string(), certificate.digest(), facts.validity, now)
}

fn of_crl(term: &Term, now: SystemTime) -> Forecast {
    one(Kind::Crl, name::display(&term.issuer), String::new(), term.digest, term.validity, now)
}

fn one(
    kind: Kind,
    subject: String,
    serial: String,
    digest: [u8; 32],
    validity: Validity,
    now: SystemTime,
) -> Forecast {
    let (share_left, level) = left(validity, now);
    Forecast {
        kind,
        subject,
        serial,
        fingerprint: hex(&digest[..16]),
        not_after: rfc3339(validity.not_after),
        ends: validity.not_after,
        seconds_left: validity.not_after.duration_since(now).unwrap_or_default().as_secs(),
        share_left,
        level,
    }
}

/// Says once of each certificate that it has come to the next level.
#[derive(Debug, Default)]
pub struct Warner {
    said: BTreeMap<String, Level>,
}

impl Warner {
    /// What is to be said now. Certificates that are ours no more are forgotten.
    pub fn due(&mut self, forecast: Vec<Forecast>) -> Vec<Forecast> {
        let mut said = BTreeMap::new();
        let mut due = Vec::new();
        for one in forecast {
            let before = self.said.get(&one.fingerprint).copied().unwrap_or(Level::Fine);
            let worth_saying = one.level > if one.kind.renews_itself() { Level::Half } else { Level::Fine };
            said.insert(one.fingerprint.clone(), one.level.max(before));
            if worth_saying && one.level > before {
                due.push(one);
            }
        }
        self.said = said;
        due
    }

    /// Looks every minute; there is nothing to see while the clock is not believed. Never returns.
    pub async fn run(mut self, look: impl Fn() -> Option<Vec<Forecast>>) {
        loop {
            for one in look().map(|forecast| self.due(forecast)).unwrap_or_default() {
                let Forecast { kind, subject, serial, not_after, share_left, level, .. } = one;
                let (kind, percent) = (kind.name(), (share_left * 100.0).round());
                if level >= Level::Tenth {
                    tracing::error!(
                        kind,
                        subject,
                        serial,
                        not_after,
                        percent,
                        "a certificate or CRL ends soon"
                    );
                } else {
                    tracing::warn!(
                        kind,
                        subject,
                        serial,
                        not_after,
                        percent,
                        "a certificate or CRL has used up much of its life"
                    );
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::issuer::tests::issuer;
    use crate::authority::tests::{YEAR, cacerts, crl, now, root};

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn levels_change_at_a_half_a_quarter_a_tenth_and_the_end() {
        let second = Duration::from_secs(1);
        let validity = Validity { not_before: now(), not_after: now() + second * 1000 };
        for (at, level) in [
            (0, Level::Fine),
            (499, Level::Fine),
            (500, Level::Half),
            (749, Level::Half),
            (750, Level::Quarter),
            (899, Level::Quarter),
            (900, Level::Tenth),
            (1000, Level::Tenth),
            (1001, Level::Ended),
        ] {
            assert_eq!(left(validity, now() + second * at).1, level, "{at}");
        }
        assert_eq!(left(validity, now() - second).0, 1.0);
    }

    #[test]
    fn the_forecast_has_each_certificate_once_with_its_end() {
        let issuer = issuer(cacerts(YEAR));
        let found = forecast(&issuer, None, now());
        let kinds: Vec<_> = found.iter().map(|one| one.kind).collect();
        assert_eq!(kinds, [Kind::Root, Kind::Issuer]);
        assert_eq!(found[1].seconds_left, YEAR.as_secs());
        assert_eq!(found[1].ends, now() + YEAR);
        assert_eq!(found[1].not_after, rfc3339(now() + YEAR));
    }

    #[test]
    fn crls_are_in_the_forecast_and_end_with_their_next_update() {
        let plain = issuer(cacerts(YEAR));
        let crls = signet_certs::crl::Crls::from_der([crl(&root("Root CA"))]).unwrap();
        let trust = crate::trust::Trust { crls, ..plain.trust().as_ref().clone() };
        let issuer = Issuer::new(plain.cacerts().clone(), None, std::sync::Arc::new(trust));
        let found = forecast(&issuer, None, now()).pop().unwrap();
        assert_eq!((found.kind, found.not_after.as_str()), (Kind::Crl, "2028-01-01T00:00:00Z"));
        assert!(found.subject.contains("Root CA") && found.serial.is_empty(), "{found:?}");
        let levels =
            [20, 300, 340, 360].map(|day| forecast(&issuer, None, now() + DAY * day).pop().unwrap().level);
        assert_eq!(levels, [Level::Fine, Level::Quarter, Level::Tenth, Level::Ended]);
    }

    #[test]
    fn each_level_is_said_once_and_what_renews_itself_only_when_it_did_not() {
        let issuer = issuer(cacerts(YEAR));
        let mut warner = Warner::default();
        let mut said = |at: SystemTime, serving: bool| -> Vec<_> {
            let leaf = issuer.cacerts().ca.certificate.clone();
            let mut all = forecast(&issuer, None, at);
            if serving {
                all = vec![of(Kind::Serving, &leaf, at)];
            }
            warner.due(all).into_iter().map(|one| (one.kind, one.level)).collect()
        };
        assert_eq!(said(now(), false), []);
        assert_eq!(said(now() + YEAR * 6 / 10, false), [(Kind::Issuer, Level::Half)]);
        assert_eq!(said(now() + YEAR * 7 / 10, false), []);
        assert_eq!(
            said(now() + YEAR * 95 / 100, false),
            [(Kind::Issuer, Level::Tenth)],
            "levels may be skipped"
        );
        assert_eq!(said(now() + YEAR * 2, false), [(Kind::Issuer, Level::Ended)]);
        assert_eq!(said(now() + YEAR * 9, false), [(Kind::Root, Level::Tenth)]);
        let mut warner = Warner::default();
        let leaf = issuer.cacerts().ca.certificate.clone();
        let mut serving = |at| warner.due(vec![of(Kind::Serving, &leaf, at)]).len();
        assert_eq!((serving(now() + YEAR * 6 / 10), serving(now() + YEAR * 8 / 10)), (0, 1));
    }
}
