//! Messages of Dapr's protocols, generated from the `.proto` files of this crate without `protoc`.
//!
//! Owns: the public API (`dapr::proto::runtime::v1`), the protocol between sidecars (`dapr::proto::internals::v1`), error
//! details, reflection and health services, the trace export format. `bytes` fields share the buffer they were read from.
//! Never: sends or receives anything; `outrigger-wire` frames messages, the edges and channels use them.

#![expect(clippy::all, clippy::pedantic, reason = "generated code")]
#![expect(missing_docs, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/all.rs"));

pub use prost::Message;

/// File descriptors by file name, for reflection.
pub mod descriptors {
    include!(concat!(env!("OUT_DIR"), "/descriptors.rs"));
}
