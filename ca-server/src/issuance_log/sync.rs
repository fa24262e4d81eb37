//! What the queue and its writer wait with. `tests/interleavings` compiles both once more over an explorer's
//! kind of these, which runs them in every order.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
pub(super) use std::time::Instant;
