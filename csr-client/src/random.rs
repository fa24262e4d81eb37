//! Small draws of randomness: jitter, nonces, the instance id.

use ring::rand::{SecureRandom, SystemRandom};
use signet_certs::digest::hex;

/// A draw from [0, 1).
pub(crate) fn unit() -> f64 {
    // 53 bits fill a double's mantissa exactly.
    (u64::from_be_bytes(bytes()) >> 11) as f64 / (1u64 << 53) as f64
}

/// 128 random bits as lower-case hex.
pub(crate) fn id() -> String {
    hex(&bytes::<16>())
}

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The kernel's generator does not fail once the machine is up, and keys could not be made without it.
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    bytes
}
