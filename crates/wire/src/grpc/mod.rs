//! gRPC on the `h2` crate: framing, statuses, and both roles.
//!
//! A message is a slice of the buffer that it arrived in. What is not for us is relayed frame by frame without being
//! decoded. Texts and codes of refusals are those of Go's gRPC, which Dapr's clients see.

mod attempt;
mod client;
mod flow;
mod frame;
mod relay;
#[cfg(test)]
mod scene;
mod server;
mod status;

pub use attempt::{Attempt, Committed, Failure, Replayed};
pub use client::{Call, CallError, Channel, Replies};
pub use frame::{FrameError, MessageReader, Messages, encode, framed};
pub use relay::{Ended, relay};
pub use server::{Exchange, Gone, Reply, ServerSettings, decode, serve};
pub use status::{Status, is_reserved, percent_decode};
