//! The history of a sidecar: every change, kept in a small bounded file, and what can be read off it.
//!
//! [`store`] keeps it, so that it survives the death of the process; [`entry`] is its form, one JSON object a line;
//! [`report`] says when what was down, for how long and why.

pub mod entry;
pub mod report;
pub mod store;

pub use report::{Report, report};
pub use store::{Reader, Writer};
