//! What the end-to-end tests share: the real binary as a process, apps and clients that speak to it.
//!
//! Owns: the built binary ([`binary`]), processes and their output ([`process`]), one sidecar with its ports and its
//! resources ([`sidecar`]), one with an app as a unit ([`unit`]), what the kernel says of processes, and namespaces
//! ([`system`]), resources as text ([`component`], [`policies`]), brokers ([`bus`]), scripted apps ([`app`], [`grpc_app`])
//! and peers ([`peers`]), clients for HTTP ([`http`]) and gRPC ([`grpc`]), load ([`load`], [`calls`]), terminals
//! ([`terminal`]), metrics ([`metrics`]), measured figures ([`figures`]); replicas that are restarted in turn ([`rolling`]).
//! Never: links a part of the sidecar; what is tested is the program that users get.
//! Start at [`Plan::start`]. A helper that fails panics: it has no caller but a test.
//! Tests: the files in `tests/`, by subject; rows of `lifecycle.md` §9 carry their numbers.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail the test that called it, and tell where"
)]

pub mod app;
pub mod binary;
pub mod bus;
pub mod calls;
pub mod component;
pub mod figures;
pub mod grpc;
pub mod grpc_app;
pub mod http;
pub mod load;
pub mod metrics;
pub mod peers;
pub mod policies;
pub mod process;
pub mod rolling;
pub mod sidecar;
pub mod system;
pub mod terminal;
pub mod unit;

pub use app::{App, Received, Reply};
pub use bus::Bus;
pub use calls::Calls;
pub use component::Component;
pub use figures::figure;
pub use grpc_app::{GrpcApp, GrpcReply};
pub use http::{Answer, Request};
pub use load::Load;
pub use peers::{Peer, Registry};
pub use process::Process;
pub use sidecar::{Plan, Sidecar};
pub use terminal::Terminal;
pub use unit::{Unit, UnitPlan};

use std::time::Duration;

/// Seconds, as bounds are written in the specification.
pub const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
