//! What lives, in which state it is, and how it ends.
//!
//! Owns: [`Scope`], the only place where tasks are started; the pure machines of a component's
//! [`connection`], of a [`subscription`] and of the [`gate`] in front of the app; of an app that is our [`child`], or whose
//! [`absence`] means something; of the [`network`] namespace; the process's [`phase`] and its [`drain`].
//! Never: knows a component, a protocol or a port. The machines read no clock and start nothing.

pub mod absence;
pub mod child;
pub mod connection;
pub mod drain;
pub mod gate;
pub mod network;
pub mod phase;
mod scope;
pub mod subscription;
pub mod succession;

pub use outrigger_policy::{Backoff, Moment};
pub use scope::{Clock, Scope, Stop};
