//! Trust bundles: the roots of each trust domain, kept apart, with merge, difference and a digest.

use std::collections::BTreeMap;

use crate::chain::Certificate;
use crate::digest::sha256;
use crate::spiffe_id::TrustDomain;

/// The roots of one trust domain: each once, in the order of their bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustBundle {
    roots: Vec<Certificate>,
}

impl TrustBundle {
    /// A bundle of these roots; repeated ones count once.
    pub fn new(mut roots: Vec<Certificate>) -> Self {
        roots.sort_by(|a, b| a.der().as_ref().cmp(b.der().as_ref()));
        roots.dedup();
        Self { roots }
    }

    /// The roots.
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// All roots as one PEM text.
    pub fn to_pem(&self) -> String {
        self.roots.iter().map(Certificate::to_pem).collect()
    }

    /// Whether every root of `other` is here too.
    pub fn contains_all(&self, other: &Self) -> bool {
        other.roots.iter().all(|root| self.roots.contains(root))
    }
}

/// Trust bundles per trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bundles(BTreeMap<TrustDomain, TrustBundle>);

impl FromIterator<(TrustDomain, TrustBundle)> for Bundles {
    /// Bundles of one trust domain become one. However many there are, each is looked at once.
    fn from_iter<I: IntoIterator<Item = (TrustDomain, TrustBundle)>>(bundles: I) -> Self {
        let mut roots: BTreeMap<TrustDomain, Vec<Certificate>> = BTreeMap::new();
        for (trust_domain, bundle) in bundles {
            roots.entry(trust_domain).or_default().extend(bundle.roots);
        }
        Self(roots.into_iter().map(|(trust_domain, roots)| (trust_domain, TrustBundle::new(roots))).collect())
    }
}

/// What one set of bundles has more and less than another, per trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    /// Roots that came.
    pub added: Vec<(TrustDomain, Certificate)>,
    /// Roots that went.
    pub removed: Vec<(TrustDomain, Certificate)>,
}

impl Difference {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl Bundles {
    /// One trust domain with these roots.
    pub fn of(trust_domain: TrustDomain, bundle: TrustBundle) -> Self {
        Self(BTreeMap::from([(trust_domain, bundle)]))
    }

    /// The bundle of one trust domain.
    pub fn get(&self, trust_domain: &TrustDomain) -> Option<&TrustBundle> {
        self.0.get(trust_domain)
    }

    /// All, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &TrustBundle)> {
        self.0.iter()
    }

    /// Both together; roots never cross from one trust domain to another.
    pub fn merge(&self, other: &Self) -> Self {
        let mut merged = self.0.clone();
        for (trust_domain, bundle) in &other.0 {
            let entry = merged.entry(trust_domain.clone()).or_default();
            let all = entry.roots.iter().chain(&bundle.roots).cloned().collect();
            *entry = TrustBundle::new(all);
        }
        Self(merged)
    }

    /// What it takes to come from `old` to this.
    pub fn difference(&self, old: &Self) -> Difference {
        Difference { added: self.beyond(old), removed: old.beyond(self) }
    }

    fn beyond(&self, other: &Self) -> Vec<(TrustDomain, Certificate)> {
        let pairs = self.0.iter().flat_map(|(domain, bundle)| bundle.roots.iter().map(move |r| (domain, r)));
        pairs
            .filter(|(domain, root)| !other.get(domain).is_some_and(|bundle| bundle.roots.contains(root)))
            .map(|(domain, root)| (domain.clone(), root.clone()))
            .collect()
    }

    /// SHA-256 over, per trust domain in order: the name's length (4 bytes, big-endian), the name, the
    /// number of roots (4 bytes, big-endian), and each root's SHA-256.
    pub fn digest(&self) -> [u8; 32] {
        let mut canonical = Vec::new();
        for (trust_domain, bundle) in &self.0 {
            // Both lengths are far below 2^32: names end at 255 bytes, roots are held in memory.
            canonical.extend((trust_domain.as_str().len() as u32).to_be_bytes());
            canonical.extend(trust_domain.as_str().as_bytes());
            canonical.extend((bundle.roots.len() as u32).to_be_bytes());
            for root in &bundle.roots {
                canonical.extend(root.digest());
            }
        }
        sha256(&canonical)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ca::tests::root;

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    #[test]
    fn order_and_repetition_do_not_change_a_bundle() {
        let (a, b) = (root("A").certificate, root("B").certificate);
        let one = TrustBundle::new(vec![a.clone(), b.clone(), a.clone()]);
        let other = TrustBundle::new(vec![b, a]);
        assert_eq!(one, other);
        let digest = |bundle| Bundles::of(domain("td"), bundle).digest();
        assert_eq!(digest(one), digest(other));
    }

    #[test]
    fn bundles_of_one_trust_domain_are_gathered() {
        let (a, b) = (root("A").certificate, root("B").certificate);
        let one = |root: &Certificate| TrustBundle::new(vec![root.clone()]);
        let given = [(domain("here"), one(&a)), (domain("there"), one(&b)), (domain("here"), one(&b))];
        let gathered: Bundles = given.clone().into_iter().collect();
        let merged = given.into_iter().map(|(domain, bundle)| Bundles::of(domain, bundle));
        assert_eq!(gathered, merged.fold(Bundles::default(), |all, one| all.merge(&one)));
    }

    #[test]
    fn merge_and_difference_work_per_trust_domain() {
        let (a, b) = (root("A").certificate, root("B").certificate);
        let here = Bundles::of(domain("here"), TrustBundle::new(vec![a.clone()]));
        let both = Bundles::of(domain("here"), TrustBundle::new(vec![a.clone(), b.clone()]));
        let there = Bundles::of(domain("there"), TrustBundle::new(vec![b.clone()]));
        let merged = both.merge(&there);
        assert_eq!(merged.get(&domain("here")), both.get(&domain("here")));
        assert_eq!(merged.get(&domain("there")), there.get(&domain("there")));
        let change = merged.difference(&here);
        assert_eq!(change.added, [(domain("here"), b.clone()), (domain("there"), b.clone())]);
        assert!(change.removed.is_empty());
        assert_eq!(here.difference(&merged).removed.len(), 2);
        assert!(merged.difference(&merged).is_empty());
        assert_ne!(here.digest(), both.digest());
        let elsewhere = Bundles::of(domain("there"), TrustBundle::new(vec![a]));
        assert_ne!(here.digest(), elsewhere.digest(), "the same root in another domain is other trust");
    }
}
