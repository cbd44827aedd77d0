//! Decisions of resiliency, without doing anything.
//!
//! Owns: moments, pauses between attempts, the counting of attempts.
//! Never: sleeps, spawns, logs or reads a clock; whoever asks brings the time and the dice.
//! Start at [`Attempts::after`] for calls and at [`Backoff::delay`] for reconnecting.

mod backoff;
mod moment;
mod retry;

pub use backoff::Backoff;
pub use moment::Moment;
pub use retry::{Attempts, Next, Retry};
