//! What the two long-running programs share, beside the rules of certificates: where their settings come
//! from ([`settings`]), how they log ([`logging`]), how they replace files ([`files`]), whether their wall
//! clock may be believed ([`clock_watch`]), that they leave no core dump ([`core_dumps`]), and the counters that
//! keep Istio's names ([`counter`]). Nothing here knows what a CA or an agent is.

pub mod clock_watch;
pub mod core_dumps;
pub mod counter;
pub mod files;
pub mod logging;
pub mod settings;
