//! Decisions of resiliency, without doing anything.
//!
//! Owns: moments, pauses between attempts, retries, budgets, circuit breakers and what opens them.
//! Never: sleeps, spawns, logs, locks or reads a clock; whoever asks brings the time and the dice.
//! Start at [`Attempts::after`] for calls, at [`Breaker::admit`] for breakers and at [`Backoff::delay`] for reconnecting.

mod backoff;
pub mod breaker;
mod budget;
mod moment;
mod retry;
pub mod trip;

pub use backoff::Backoff;
pub use breaker::Breaker;
pub use budget::{Allowance, Budget};
pub use moment::Moment;
pub use retry::{Attempts, Code, Codes, Failure, GivenUp, Jitter, Next, Pauses, Pushback, Retry};
pub use trip::Counts;
