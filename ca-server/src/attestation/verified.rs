//! Tokens whose signature one key set has verified lately. An agent sends the same token again and again, most of
//! all where it is refused for want of room: the second look at a signature is not paid for. Everything else
//! about a token is judged anew each time. A key set that is read again begins without.

use std::collections::HashSet;
use std::mem;
use std::sync::{Mutex, PoisonError};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::token::Jws;

/// Tokens in one generation; two are kept, about 1 MB.
const GENERATION: usize = 8192;

type Digest = [u8; SHA256_OUTPUT_LEN];

/// What a signature covers and the signature itself, as a digest.
pub(super) fn digest(jws: &Jws<'_>) -> Digest {
    let mut context = Context::new(&SHA256);
    // Neither part can hold the dot between them.
    context.update(jws.signing_input.as_bytes());
    context.update(b".");
    context.update(&jws.signature);
    let mut digest = [0; SHA256_OUTPUT_LEN];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The latest ones, by digest.
#[derive(Default)]
pub(super) struct Verified {
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashSet<Digest>,
    old: HashSet<Digest>,
}

impl Verified {
    pub(super) fn has(&self, token: &Digest) -> bool {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.contains(token) || generations.old.contains(token)
    }

    /// Call it only for a signature that was verified.
    pub(super) fn keep(&self, token: Digest) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.young.len() >= GENERATION {
            generations.old = mem::take(&mut generations.young);
        }
        generations.young.insert(token);
    }
}

impl std::fmt::Debug for Verified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verified")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        digest
    }

    #[test]
    fn the_latest_are_remembered_and_no_more_than_two_generations() {
        let verified = Verified::default();
        let last = 5 * GENERATION as u64;
        (0..=last).for_each(|number| verified.keep(token(number)));
        assert!(verified.has(&token(last)) && verified.has(&token(last - GENERATION as u64)));
        assert!(!verified.has(&token(0)) && !verified.has(&token(last + 1)));
        let generations = verified.generations.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION);
    }
}
