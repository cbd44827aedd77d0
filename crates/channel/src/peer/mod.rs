//! The protocol between sidecars, `dapr.proto.internals.v1`.
//!
//! [`PeerPool`] calls, [`PeerServer`] answers, [`codec`] knows the bytes. Both directions stream: the first message
//! carries everything but the body, which follows in numbered pieces; a small body travels in the first message.

mod client;
pub mod codec;
mod pieces;
mod server;

pub(crate) use client::target_of;
pub use client::{PeerPool, PeerSettings, Stamp};
pub use server::{Access, PeerServer};

pub(crate) const CALL_LOCAL: &str = "/dapr.proto.internals.v1.ServiceInvocation/CallLocal";
pub(crate) const CALL_LOCAL_STREAM: &str =
    "/dapr.proto.internals.v1.ServiceInvocation/CallLocalStream";
