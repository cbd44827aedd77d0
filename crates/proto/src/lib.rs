//! Messages of Dapr's protocols, generated from the `.proto` files of this crate without `protoc`.
//!
//! Owns: the public API (`dapr::proto::runtime::v1`), the protocol between sidecars (`dapr::proto::internals::v1`), error
//! details, reflection and health services, our own (`outrigger::v1`), the trace export format. `bytes` fields share the buffer they were read from.
//! Never: sends or receives anything; `outrigger-wire` frames messages, the edges and channels use them.

#![expect(clippy::all, clippy::pedantic, reason = "generated code")]
#![expect(missing_docs, reason = "generated code")]

include!(concat!(env!("OUT_DIR"), "/all.rs"));

mod values;

pub use prost::Message;
pub use values::{structure, value};

/// File descriptors and what they define, for reflection.
pub mod descriptors {
    /// A `.proto` file, compiled.
    #[derive(Clone, Copy, Debug)]
    pub struct File {
        pub name: &'static str,
        pub bytes: &'static [u8],
        /// Files that it imports.
        pub needs: &'static [&'static str],
    }

    include!(concat!(env!("OUT_DIR"), "/descriptors.rs"));
}
