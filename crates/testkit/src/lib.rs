//! What the tests of several crates share. A dev-dependency only.
//!
//! Owns: the conformance suites of every kind of component ([`suites`]), real servers that a test starts, kills and
//! freezes ([`servers`]), a TCP proxy that misbehaves on demand ([`proxy`]), free ports ([`ports`]) and waiting that
//! tells what it saw last ([`wait`]).
//! Never: knows a component, or is linked into the binary.
//! Start at [`suites`] when you write a component. A helper that fails panics: it has no caller but a test.
//! Tests: in each module; the suites are tested by every component that runs them.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail the test that called it, and tell where"
)]

pub mod ports;
mod private_dir;
mod process;
pub mod proxy;
pub mod servers;
pub mod suites;
pub mod wait;

pub use private_dir::PrivateDir;
