//! Turns configuration text into checked values or diagnostics.
//!
//! Owns: YAML with positions ([`yaml`]), the resources ([`component`], [`subscription`], [`http_endpoint`],
//! [`resiliency`], [`configuration`]), what an app gets of them ([`load`]), how a component's values are resolved
//! ([`resolve`]), the offline check of everything at once ([`check`]), the command line ([`flags`]).
//! Never: opens a file, reads the environment or a clock on its own, starts anything. Texts, a lookup of environment
//! variables and a compiler of expressions are handed in.
//! Start at [`load::load`] and [`flags::parse`]. What is wrong is told as [`diagnostic::Diagnostic`]s, all at once.
//! Tests: in the modules; in `tests/` what a check prints, compared with files, files damaged at random, and random
//! Resiliency resources.

pub mod check;
pub mod component;
pub mod configuration;
mod dependency;
pub mod diagnostic;
mod expand;
mod expression;
pub mod fingerprint;
pub mod flags;
pub mod http_endpoint;
pub mod load;
mod read;
pub mod resiliency;
pub mod resolve;
mod resource;
pub mod subscription;
#[cfg(test)]
mod testing;
pub mod yaml;

pub use component::{ComponentResource, NamedValue, ValueSource};
pub use configuration::Configuration;
pub use diagnostic::{Diagnostic, Place, Severity};
pub use fingerprint::Fingerprint;
pub use flags::Options;
pub use http_endpoint::HttpEndpointResource;
pub use load::{Compile, Context, Loaded, Refused, Rejected, ResourceKind, SourceFile};
pub use resiliency::ResiliencyResource;
pub use subscription::SubscriptionResource;

/// Looks up an environment variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;
