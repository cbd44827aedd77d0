//! The assembly: everything that makes building blocks, edges and components into a running sidecar.
//!
//! Owns: the order of the start and of the end, listeners, the loading of resources, a supervisor for each component,
//! the gate in front of the app, signals.
//! Never: decides when to retry, to ping or to open the gate; the machines of `outrigger-lifecycle` do.
//! Start at [`run`]; a component's life is in `components::supervisor`.

mod absence;
mod app;
mod companion;
mod components;
mod configured;
mod demands;
mod discovery;
mod drain;
mod events;
mod faults;
mod files;
mod host;
mod life;
mod listeners;
mod network;
mod phases;
mod policies;
mod reload;
mod servers;
mod sidecar;
mod signals;
mod subscriptions;
mod summary;
mod telemetry;
mod vital;
mod watch;

pub use companion::Companion;
pub use components::compile_rule;
pub use files::{Unreadable, read_configuration, read_resources};
pub use life::BUG;
pub use sidecar::{Start, Versions, run};
