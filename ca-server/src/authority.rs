//! Authorities: CA keys and certificates with a state. Exactly one is active, and signs as [`Issuer`].
//!
//! [`start`] chooses the CA to start with; while the server runs, [`follow`] watches the plugged-in folder,
//! [`wish`] judges what it asks for, [`reload`] takes it. [`loader`] reads a folder, [`rehearsal`] tries it out,
//! [`kept`] and [`state`] are the copy and the rows that outlive a restart. [`issuer`] is the snapshot that one
//! request signs with, [`issuing`] the fast CA under a slow key, [`pool`] the threads that sign, [`serving`] the
//! certificate of our own port, [`aftermath`] how long what an issuing intermediate signed may live, [`expiry`] says when all of them end, [`signers`] whose
//! signatures are our own.

pub mod aftermath;
pub mod expiry;
pub mod follow;
pub mod issuer;
pub mod issuing;
pub mod kept;
pub mod loader;
pub mod pool;
pub mod rehearsal;
pub mod reload;
#[cfg(test)]
mod secrecy_tests;
pub mod serving;
pub mod signers;
pub mod start;
pub mod state;
pub mod wish;

pub use issuer::Issuer;

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use signet_certs::ca::Ca;
    use signet_certs::cacerts::Cacerts;
    use signet_certs::clock::from_unix;
    use signet_certs::key::PrivateKey;
    use signet_certs::name::ca_name;
    use signet_certs::validity::{BACKDATE, Validity};
    use std::time::{Duration, SystemTime};

    pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);

    pub(crate) fn now() -> SystemTime {
        from_unix(1_800_000_000)
    }

    pub(crate) fn life(lifetime: Duration) -> Validity {
        Validity { not_before: now() - BACKDATE, not_after: now() + lifetime }
    }

    pub(crate) fn root(name: &str) -> Ca {
        let key = PrivateKey::generate_p256().unwrap();
        Ca::root(ca_name("Signet", None, name), life(YEAR * 10), key).unwrap()
    }

    /// An empty CRL of `ca`, DER, of January 2027 and good until January 2028.
    pub(crate) fn crl(ca: &Ca) -> Vec<u8> {
        let der = |tag: u8, parts: &[&[u8]]| {
            let content = parts.concat();
            let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
            match high {
                0 if low < 0x80 => [vec![tag, low], content].concat(),
                0 => [vec![tag, 0x81, low], content].concat(),
                _ => [vec![tag, 0x82, high, low], content].concat(),
            }
        };
        let (algorithm, name) = (ca.key.algorithm_identifier(), &ca.certificate.facts().subject);
        let (this, next) = (der(0x17, &[b"270101000000Z"]), der(0x17, &[b"280101000000Z"]));
        let tbs = der(0x30, &[algorithm, name, &this, &next]);
        der(0x30, &[&tbs, algorithm, &der(0x03, &[&[0], &ca.key.sign(&tbs).unwrap()])])
    }

    /// A plugged-in CA whose intermediate lives this long.
    pub(crate) fn cacerts(lifetime: Duration) -> Cacerts {
        let root = root("Root CA");
        let key = PrivateKey::generate_p256().unwrap();
        let subject = ca_name("Signet", Some("cluster1"), "Intermediate CA");
        let ca = root.intermediate(subject, 0, life(lifetime), key).unwrap();
        let (signer, anchor) = (ca.certificate.clone(), root.certificate);
        Cacerts::of(ca, vec![signer], anchor.clone(), vec![anchor])
    }
}
