//! What callers are told, row by row of Dapr's catalogue: code, status, words, details.
//!
//! Each function is one row; both APIs show it from the same value. Clients compare these texts.

pub mod absent;
pub mod component;
pub mod health;
pub mod invoke;
pub mod policy;
pub mod pubsub;
pub mod secrets;
pub mod state;

use outrigger_core::Metadata;

/// A small map for the details of an error.
fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Metadata {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
