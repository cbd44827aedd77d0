//! Calls out of the sidecar.
//!
//! Owns: the two ways to speak to the app ([`app`]), the protocol between sidecars ([`peer`]), gRPC proxying
//! ([`proxy`]), calls to external HTTP endpoints ([`endpoints`]), the export of spans ([`export`]).
//! Never: decides what an answer means for a caller or a message; `outrigger-blocks` does, through its traits.
//! Start at [`app::HttpApp`] for the usual app, at [`peer::PeerPool`] for a call to another sidecar.

pub mod app;
pub mod endpoints;
pub mod export;
pub mod peer;
pub mod proxy;
mod pushback;
pub mod trace;
mod url;
pub mod webhook;
