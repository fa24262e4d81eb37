//! Which CA the server starts with: the one that was active before, whatever the plugged-in folder says
//! meanwhile; at the first start the plugged-in one, or, where nothing is plugged in, one of its own making.
//!
//! A CA that was made here is never made again silently: that would be a root that nobody trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_certs::ca::{Ca, CaError};
use signet_certs::cacerts::{Cacerts, Folder};
use signet_certs::chain::Certificate;
use signet_certs::clock::whole_seconds;
use signet_certs::digest::hex;
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::name::ca_name;
use signet_certs::spiffe_id::TrustDomain;
use signet_certs::validity::{BACKDATE, Validity};
use signet_service::logging::with_causes;
use thiserror::Error;

use super::kept::Kept;
use super::loader::LoadError;
use super::state::{Row, Source};

/// Life of a self-signed root, as Istio's.
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);
/// The longest organization that a name may have (RFC 5280, appendix A.1).
const LONGEST_ORGANIZATION: usize = 64;

/// Why the server has no CA to start with.
#[derive(Debug, Error)]
pub enum StartError {
    /// The first one cannot be used.
    #[error(transparent)]
    Load(LoadError),
    /// It was active here, and is gone or damaged.
    #[error(
        "the CA {id}, which is active here since {since}, cannot be used; {way_back}. It is not made anew: nobody \
         would trust that one"
    )]
    Lost {
        /// Its key identifier.
        id: String,
        /// Since when.
        since: String,
        /// What to do.
        way_back: String,
        /// What is wrong with its copy.
        #[source]
        cause: LoadError,
    },
    /// No row says which of several copies is active.
    #[error(
        "several CAs have a copy in {}, and the state that says which of them is active is lost: leave that one \
         there and move the others away",
        .0.display()
    )]
    Ambiguous(PathBuf),
    /// No key could be made.
    #[error("making the key of a self-signed CA")]
    Key(#[from] KeyError),
    /// No certificate could be made.
    #[error("making a self-signed CA")]
    Sign(#[from] CaError),
}

/// What to start with.
#[derive(Debug)]
pub struct Start {
    /// The CA.
    pub cacerts: Arc<Cacerts>,
    /// Where it came from.
    pub source: Source,
    /// Whether it can sign now. One that has ended waits for a successor, and the server is not ready.
    pub signs: bool,
}

/// Chooses. `active` is the row of the authority that was active last, `folder` what is plugged in at `path`.
pub fn choose(
    active: Option<&Row>,
    kept: &Kept,
    folder: &Folder,
    path: &Path,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Start, StartError> {
    let plugged =
        || Cacerts::read(folder, now).map_err(|faults| LoadError { folder: path.to_owned(), faults });
    let Some(row) = active else {
        // The rows are lost, or a crash came before the first one: a copy is the CA that was active all the same.
        match kept.names().as_slice() {
            [] => {}
            [only] => {
                let cacerts = kept.read(only, now).map_err(StartError::Load)?;
                let source =
                    if cacerts.intermediates.is_empty() { Source::SelfSigned } else { Source::Cacerts };
                return Ok(Start { cacerts: Arc::new(cacerts), source, signs: true });
            }
            _ => return Err(StartError::Ambiguous(kept.path(""))),
        }
        if folder.is_empty() {
            let cacerts = Arc::new(self_signed(trust_domain, now)?);
            let id = hex(&cacerts.ca.certificate.key_id());
            let (folder, exists) = (path.display(), path.exists());
            tracing::warn!(id, %folder, exists, "nothing is plugged in: made a self-signed CA, to be trusted from now on");
            return Ok(Start { cacerts, source: Source::SelfSigned, signs: true });
        }
        let cacerts = Arc::new(plugged().map_err(StartError::Load)?);
        return Ok(Start { cacerts, source: Source::Cacerts, signs: true });
    };
    // Rows of the first layout have no copy: there the folder is all there is.
    let cause = if row.copy.is_empty() {
        match plugged() {
            Ok(cacerts) => {
                return Ok(Start { cacerts: Arc::new(cacerts), source: Source::Cacerts, signs: true });
            }
            Err(error) => error,
        }
    } else {
        match kept.read(&row.copy, now).or_else(|cause| dormant(row, kept, cause)) {
            Ok(cacerts) => {
                let signs = cacerts.validities().all(|validity| validity.at(now).is_ok());
                return Ok(Start { cacerts: Arc::new(cacerts), source: row.source, signs });
            }
            Err(error) => error,
        }
    };
    match plugged() {
        Ok(cacerts) if continues(row, &cacerts, now) => {
            let (cause, copy) = (with_causes(&cause), kept.path(&row.copy));
            tracing::warn!(cause, copy = %copy.display(), "the active CA's copy cannot be used; the CA files continue it");
            Ok(Start { cacerts: Arc::new(cacerts), source: Source::Cacerts, signs: true })
        }
        _ => Err(StartError::Lost {
            id: row.id.clone(),
            since: row.active_since.clone(),
            way_back: way_back(row, kept, path),
            cause,
        }),
    }
}

/// Whether a CA can follow the one of `row` without anybody's noticing: its roots are all there and its chain
/// ends in the same one. Where that root has ended, nobody is left to notice.
fn continues(row: &Row, next: &Cacerts, now: SystemTime) -> bool {
    let chain = Certificate::all_from_pem(row.chain.as_bytes()).unwrap_or_default();
    let Some(anchor) = chain.last() else { return false };
    let roots: Vec<_> = next.roots.iter().map(|root| hex(&root.digest())).collect();
    anchor.facts().validity.not_after < now
        || next.anchor == *anchor && row.root_digests.iter().all(|root| roots.contains(root))
}

/// The copy of a CA that has ended or is not valid yet, and is in order otherwise: as it was when it was valid.
fn dormant(row: &Row, kept: &Kept, cause: LoadError) -> Result<Cacerts, LoadError> {
    if !cause.faults.iter().all(|fault| matches!(fault.code, "ENDED" | "NOT_YET_VALID")) {
        return Err(cause);
    }
    let chain = Certificate::all_from_pem(row.chain.as_bytes()).unwrap_or_default();
    let Some(valid) = chain.iter().map(|member| member.facts().validity.not_before).max() else {
        return Err(cause);
    };
    let cacerts = kept.read(&row.copy, valid)?;
    tracing::error!(
        cause = %cause,
        "the active CA cannot sign now: put a successor under the same root into the CA files, or mend the clock"
    );
    Ok(cacerts)
}

fn way_back(row: &Row, kept: &Kept, path: &Path) -> String {
    let copy: PathBuf = kept.path(&row.copy);
    match row.source {
        Source::Cacerts => format!("put its files back into {}", path.display()),
        Source::SelfSigned => format!(
            "put its files back into {}, restore the data folder from a backup, or begin anew with another data \
             folder and give its root to every workload",
            copy.display()
        ),
    }
}

/// A root that signs by itself, named for the mesh.
fn self_signed(trust_domain: &TrustDomain, now: SystemTime) -> Result<Cacerts, StartError> {
    let organization = Some(trust_domain.as_str()).filter(|name| name.len() <= LONGEST_ORGANIZATION);
    let subject = ca_name(organization.unwrap_or("Signet"), None, "Self-signed CA");
    let now = whole_seconds(now);
    let validity = Validity { not_before: now - BACKDATE, not_after: now + TEN_YEARS };
    let ca = Ca::root(subject, validity, PrivateKey::generate_p256()?)?;
    let root = ca.certificate.clone();
    Ok(Cacerts::of(ca, Vec::new(), root.clone(), vec![root]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::issuer::tests::issuer;
    use crate::authority::state;
    use crate::authority::tests::{YEAR, cacerts, life, now, root};
    use crate::store::MemoryStore;
    use signet_certs::cacerts::{CA_CERT, CA_KEY, NAMES};
    use std::fs;
    use zeroize::Zeroizing;

    struct Home {
        folder: tempfile::TempDir,
        kept: Kept,
        store: MemoryStore,
    }

    impl Home {
        fn new() -> Home {
            let folder = tempfile::tempdir().unwrap();
            let kept = Kept::new(folder.path(), Arc::default());
            Home { folder, kept, store: MemoryStore::default() }
        }

        fn choose(&self, folder: &Folder, at: SystemTime) -> Result<Start, StartError> {
            let row = state::active(&self.store).unwrap();
            let domain = TrustDomain::parse("cluster.local").unwrap();
            choose(row.as_ref(), &self.kept, folder, Path::new("/cacerts"), &domain, at)
        }

        /// Starts as the server does: what was chosen is active and kept.
        fn start(&self, folder: &Folder) -> Start {
            let start = self.choose(folder, now()).unwrap();
            let copy = self.kept.write(&start.cacerts).unwrap();
            let issuer = crate::authority::Issuer::new(
                start.cacerts.clone(),
                None,
                issuer(cacerts(YEAR)).trust().clone(),
            );
            if let Some(change) = state::change(&self.store, &issuer, start.source, copy, now()).unwrap() {
                change.apply(&self.store).unwrap();
            }
            start
        }
    }

    /// A plugged-in folder with this CA.
    fn plugged(cacerts: &Cacerts) -> Folder {
        let place = tempfile::tempdir().unwrap();
        let kept = Kept::new(place.path(), Arc::default());
        let copy = kept.path(&kept.write(cacerts).unwrap());
        let mut folder = Folder::new();
        for name in NAMES {
            if let Ok(content) = fs::read(copy.join(name)) {
                folder.insert(name, Ok(Zeroizing::new(content)));
            }
        }
        folder
    }

    fn id(start: &Start) -> Vec<u8> {
        start.cacerts.ca.certificate.key_id()
    }

    #[test]
    fn with_nothing_plugged_in_a_ca_is_made_once() {
        let home = Home::new();
        let first = home.start(&Folder::new());
        assert_eq!(first.source, Source::SelfSigned);
        assert!(first.cacerts.intermediates.is_empty());
        let again = home.choose(&Folder::new(), now() + YEAR).unwrap();
        assert_eq!((id(&again), again.source), (id(&first), Source::SelfSigned));
    }

    #[test]
    fn without_its_row_the_copy_is_the_active_ca_and_none_is_made_anew() {
        let home = Home::new();
        let first = home.start(&Folder::new());
        let home = Home { store: MemoryStore::default(), ..home };
        for folder in [Folder::new(), plugged(&cacerts(YEAR))] {
            let again = home.choose(&folder, now()).unwrap();
            assert_eq!((id(&again), again.source), (id(&first), Source::SelfSigned));
        }
        home.kept.write(&cacerts(YEAR)).unwrap();
        assert!(matches!(home.choose(&Folder::new(), now()), Err(StartError::Ambiguous(_))));
    }

    #[test]
    fn a_self_signed_ca_that_is_missing_or_damaged_is_an_error_with_the_way_back() {
        for damage in [CA_KEY, CA_CERT, "all"] {
            let home = Home::new();
            home.start(&Folder::new());
            let row = state::active(&home.store).unwrap().unwrap();
            let copy = home.kept.path(&row.copy);
            match damage {
                "all" => fs::remove_dir_all(&copy).unwrap(),
                file => fs::write(copy.join(file), "garbage").unwrap(),
            }
            let error = home.choose(&Folder::new(), now()).unwrap_err();
            let text = error.to_string();
            for part in [row.id.as_str(), copy.to_str().unwrap(), "restore", "not made anew"] {
                assert!(text.contains(part), "{part:?} is not in {text}");
            }
            assert!(std::error::Error::source(&error).unwrap().to_string().contains("cannot be used"));
            // Another CA that is plugged in by now is no way back either.
            assert!(matches!(home.choose(&plugged(&cacerts(YEAR)), now()), Err(StartError::Lost { .. })));
        }
    }

    #[test]
    fn the_active_ca_is_started_with_whatever_is_plugged_in_meanwhile() {
        let home = Home::new();
        let first = home.start(&plugged(&cacerts(YEAR)));
        let mut damaged = Folder::new();
        damaged.insert(CA_CERT, Ok(Zeroizing::new(b"garbage".to_vec())));
        for folder in [Folder::new(), damaged, plugged(&cacerts(YEAR))] {
            let again = home.choose(&folder, now()).unwrap();
            assert_eq!((id(&again), again.source), (id(&first), Source::Cacerts));
        }
    }

    #[test]
    fn without_its_copy_the_same_ca_in_the_folder_will_do() {
        let home = Home::new();
        let first = cacerts(YEAR);
        let folder = plugged(&first);
        home.start(&folder);
        fs::remove_dir_all(home.folder.path().join("authorities")).unwrap();
        assert_eq!(id(&home.choose(&folder, now()).unwrap()), first.ca.certificate.key_id());
        let error = home.choose(&Folder::new(), now()).unwrap_err().to_string();
        assert!(error.contains("put its files back into /cacerts"), "{error}");
    }

    /// An intermediate of this life under a root, which is trusted together with others.
    fn under(root: &Ca, others: &[&Ca], lifetime: Duration) -> Cacerts {
        let key = PrivateKey::generate_p256().unwrap();
        let subject = ca_name("Signet", Some("cluster1"), "Intermediate CA");
        let ca = root.intermediate(subject, 0, life(lifetime), key).unwrap();
        let signer = ca.certificate.clone();
        let roots = [&[root], others].concat().iter().map(|root| root.certificate.clone()).collect();
        Cacerts::of(ca, vec![signer], root.certificate.clone(), roots)
    }

    #[test]
    fn a_ca_that_has_ended_or_is_not_valid_yet_is_started_with_and_does_not_sign() {
        let (home, a, b) = (Home::new(), root("A"), root("B"));
        let first = home.start(&plugged(&under(&a, &[&b], YEAR)));
        assert!(first.signs);
        for at in [now() + YEAR * 2, now() - YEAR] {
            for folder in
                [Folder::new(), plugged(&under(&a, &[&b], YEAR * 5)), plugged(&under(&b, &[&a], YEAR * 5))]
            {
                let start = home.choose(&folder, at).unwrap();
                assert_eq!((id(&start), start.signs), (id(&first), false));
            }
        }
    }

    #[test]
    fn without_its_copy_only_what_continues_the_active_ca_is_taken() {
        let (home, a, b) = (Home::new(), root("A"), root("B"));
        home.start(&plugged(&under(&a, &[&b], YEAR)));
        fs::remove_dir_all(home.kept.path("")).unwrap();
        let next = under(&a, &[&b], YEAR * 5);
        assert_eq!(id(&home.choose(&plugged(&next), now()).unwrap()), next.ca.certificate.key_id());
        for other in [under(&b, &[&a], YEAR * 5), under(&a, &[], YEAR * 5)] {
            assert!(matches!(home.choose(&plugged(&other), now()), Err(StartError::Lost { .. })));
        }
    }

    #[test]
    fn without_its_copy_and_after_the_end_of_its_root_any_successor_is_taken() {
        let home = Home::new();
        home.start(&plugged(&cacerts(YEAR)));
        fs::remove_dir_all(home.kept.path("")).unwrap();
        let later = now() + YEAR * 11;
        let key = PrivateKey::generate_p256().unwrap();
        let validity = Validity { not_before: now(), not_after: now() + YEAR * 20 };
        let next = Ca::root(ca_name("Signet", None, "Next"), validity, key).unwrap();
        let root = next.certificate.clone();
        let next = Cacerts::of(next, Vec::new(), root.clone(), vec![root.clone()]);
        assert_eq!(id(&home.choose(&plugged(&next), later).unwrap()), root.key_id());
    }

    #[test]
    fn the_first_start_needs_a_folder_that_is_whole_or_none() {
        let mut folder = plugged(&cacerts(YEAR));
        folder.insert(CA_KEY, Ok(Zeroizing::new(Vec::new())));
        assert!(matches!(Home::new().choose(&folder, now()), Err(StartError::Load(_))));
    }
}
