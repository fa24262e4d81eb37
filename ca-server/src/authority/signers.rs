//! Whose signatures are our own: the certificates of every authority that was ever active here. Roots of the
//! bundle that we never signed with are not among them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use signet_certs::chain::Certificate;
use tokio::task::spawn_blocking;

use super::Issuer;
use super::state::{self, StateError};
use crate::store::Store;

/// The authorities, read from their rows whenever another one is active.
pub struct Signers {
    issuer: Arc<ArcSwap<Issuer>>,
    store: Arc<dyn Store>,
    known: ArcSwap<Known>,
}

/// The authorities as of one active one.
#[derive(Debug, Default)]
pub struct Known {
    active: Option<Certificate>,
    authorities: Vec<Certificate>,
    /// The CA in memory under the active authority, if there is one.
    issuing: Option<Certificate>,
}

impl Signers {
    /// Follows `issuer`, with the rows in `store`.
    pub fn new(issuer: Arc<ArcSwap<Issuer>>, store: Arc<dyn Store>) -> Self {
        Self { issuer, store, known: ArcSwap::default() }
    }

    /// As they are now. Reads the disk only after a change.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub async fn current(&self) -> Result<Arc<Known>, StateError> {
        let (active, issuing) = {
            let issuer = self.issuer.load();
            let issuing = issuer.issuing().map(|issuing| issuing.certificate().clone());
            (issuer.cacerts().ca.certificate.clone(), issuing)
        };
        let known = self.known.load_full();
        if known.active.as_ref() == Some(&active) && known.issuing == issuing {
            return Ok(known);
        }
        let store = self.store.clone();
        let rows = spawn_blocking(move || state::list(store.as_ref())).await;
        // A task that did not end leaves what was known, which is still ours.
        let Ok(rows) = rows else { return Ok(known) };
        let mut authorities = vec![active.clone()];
        for row in rows? {
            // A row is of our own writing, and its chain begins with the authority itself.
            match Certificate::from_pem(row.chain.as_bytes()) {
                Ok(certificate) if certificate != active => authorities.push(certificate),
                Ok(_) => {}
                Err(error) => tracing::warn!(id = row.id, %error, "the row of an authority is not readable"),
            }
        }
        let known = Arc::new(Known { active: Some(active), authorities, issuing });
        self.known.store(known.clone());
        Ok(known)
    }
}

impl Known {
    /// Key ids of those above `leaf`, nearest first, if it is signed by an authority or by a CA right beneath
    /// one; `above` is what the leaf came with.
    pub fn above(
        &self,
        leaf: &Certificate,
        above: impl Iterator<Item = Certificate>,
    ) -> Option<Vec<Vec<u8>>> {
        if let Some(authority) = self.signer(leaf) {
            return Some(vec![authority.key_id()]);
        }
        self.issuing.iter().cloned().chain(above).find_map(|between| {
            // Ours before theirs: whoever brings junk pays with one signature of ours at the most.
            let named = between.facts().ca && between.facts().subject == leaf.facts().issuer;
            let authority = named.then(|| self.signer(&between)).flatten()?;
            leaf.is_signed_by(&between).then(|| vec![between.key_id(), authority.key_id()])
        })
    }

    fn signer(&self, certificate: &Certificate) -> Option<&Certificate> {
        self.authorities.iter().find(|authority| certificate.is_signed_by(authority))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::issuer::tests::issuer;
    use crate::authority::state::Source;
    use crate::authority::tests::{YEAR, cacerts, life, now, root};
    use crate::store::MemoryStore;
    use signet_certs::ca::Ca;
    use signet_certs::key::PrivateKey;
    use signet_certs::name::ca_name;

    /// A certificate of `ca`; a CA's, because what it is does not matter here.
    fn beneath(ca: &Ca, name: &str) -> Ca {
        let key = PrivateKey::generate_p256().unwrap();
        ca.intermediate(ca_name("Signet", None, name), 0, life(YEAR / 2), key).unwrap()
    }

    #[tokio::test]
    async fn authorities_that_were_ever_active_count_and_roots_of_the_bundle_do_not() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let activate = |issuer: &Issuer| {
            let change = state::change(store.as_ref(), issuer, Source::Cacerts, "copy".to_owned(), now());
            change.unwrap().unwrap().apply(store.as_ref()).unwrap();
        };
        let [first, second] = [(); 2].map(|()| root("Root CA"));
        let plugged = |root: &Ca| {
            let ca = root.intermediate(
                ca_name("Signet", None, "CA"),
                2,
                life(YEAR),
                PrivateKey::generate_p256().unwrap(),
            );
            let ca = ca.unwrap();
            let leaf = beneath(&ca, "leaf").certificate;
            let between = beneath_with_room(&ca);
            let deep = beneath(&between, "deep").certificate;
            let (signer, anchor) = (ca.certificate.clone(), root.certificate.clone());
            let cacerts = signet_certs::cacerts::Cacerts::of(ca, vec![signer], anchor.clone(), vec![anchor]);
            (issuer(cacerts), leaf, between.certificate, deep)
        };
        let (one, of_one, between_one, deep_one) = plugged(&first);
        let (two, of_two, ..) = plugged(&second);
        let one_id = one.key_id().to_vec();
        activate(&one);
        let current = Arc::new(ArcSwap::from(Arc::new(one)));
        let signers = Signers::new(current.clone(), store.clone());
        let none = || std::iter::empty();

        let known = signers.current().await.unwrap();
        assert_eq!(known.above(&of_one, none()), Some(vec![one_id.clone()]));
        assert_eq!(known.above(&of_two, none()), None, "not active yet");
        assert_eq!(known.above(&deep_one, none()), None, "what is between is missing");
        let ids = vec![between_one.key_id(), one_id.clone()];
        assert_eq!(known.above(&deep_one, [between_one.clone()].into_iter()), Some(ids));
        let of_root = beneath(&first, "of the root").certificate;
        assert_eq!(known.above(&of_root, none()), None, "a root of the bundle is no authority");
        assert_eq!(known.above(&of_root, [first.certificate.clone()].into_iter()), None);
        let foreign = issuer(cacerts(YEAR)).cacerts().ca.certificate.clone();
        assert_eq!(known.above(&foreign, [foreign.clone()].into_iter()), None);

        activate(&two);
        current.store(Arc::new(two));
        let known = signers.current().await.unwrap();
        assert!(known.above(&of_two, none()).is_some());
        assert_eq!(known.above(&of_one, none()), Some(vec![one_id]), "the old one still counts");
        assert!(Arc::ptr_eq(&known, &signers.current().await.unwrap()), "nothing is read twice");
    }

    fn beneath_with_room(ca: &Ca) -> Ca {
        let key = PrivateKey::generate_p256().unwrap();
        ca.intermediate(ca_name("Signet", None, "between"), 1, life(YEAR / 2), key).unwrap()
    }
}
