//! HTTP/1.1, both directions.
//!
//! [`serve`] runs one server connection: keep-alive, pipelining, chunked bodies both ways, `Expect: 100-continue`, and
//! the hand-over to HTTP/2 by prior knowledge or by `Upgrade: h2c`. [`Client`] keeps connections to one target.
//! Wire habits are those of Go's `net/http`, which clients of Dapr see.
//! Tests: below each module, fuzz-like ones in `chunked` and `head`, and the recorded connection scenes of `tests/e2e`.

mod chunked;
mod client;
mod h2c;
mod head;
mod server;
mod write;

pub use client::{Client, ClientError};
pub use server::{Hangup, ServerSettings, Streamed, serve};

/// Heads longer than this many fields are refused.
const MAX_FIELDS: usize = 256;
