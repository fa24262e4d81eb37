//! Issuing under an RSA-4096 CA, as the walkthroughs make it: with room for an issuing intermediate beneath it,
//! and without, where every certificate costs a signature of the slow key; beside what ring would make of those.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use signet_certs::key::PrivateKey;

use super::issuing::{Callers, Issued, connect, measure};
use super::{Failure, Stage};

/// How long ring signs.
const TIME: Duration = Duration::from_secs(2);

/// Issues with this many in flight under a CA of this making.
pub async fn issuing(flags: &[&str], in_flight: usize) -> Result<Issued, Failure> {
    let stage = Stage::with(&["ca"], flags)?;
    let ca = stage.start_ca()?;
    let channel = connect(&stage, &ca.address).await?;
    measure(&ca, &channel, &Arc::new(Callers::new(&stage)?), in_flight).await
}

/// Signatures a second of ring with an RSA-4096 key, one thread for each core.
pub fn signatures_of_ring() -> Result<f64, Failure> {
    let stage = Stage::with(&["ca"], &["--key", "rsa4096"])?;
    let key = PrivateKey::from_pem(&std::fs::read(stage.path("ca/ca-key.pem"))?)?;
    let pair = RsaKeyPair::from_pkcs8(key.to_pkcs8_der()).map_err(|error| error.to_string())?;
    let threads = std::thread::available_parallelism()?.get();
    let rate = || {
        let (began, mut times) = (Instant::now(), 0_u32);
        let mut signature = vec![0; pair.public().modulus_len()];
        while began.elapsed() < TIME {
            pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"a certificate", &mut signature)?;
            times += 1;
        }
        Ok::<_, ring::error::Unspecified>(f64::from(times) / began.elapsed().as_secs_f64())
    };
    let rates: Result<Vec<f64>, _> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(rate)).collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(Err(ring::error::Unspecified))).collect()
    });
    Ok(rates.map_err(|_| "ring could not sign")?.iter().sum())
}
