//! Dapr's gRPC API.
//!
//! Owns: the table of methods, what every call passes through, the reading of requests and the form of replies;
//! reflection and health; the server for other sidecars.
//! Never: decides what a call means; each verb is one call to `outrigger-blocks`. Calls of user services go to the proxy.
//! Start at [`Api::handle`], then `method`; verbs are in `verbs`.

mod health;
mod internal;
mod lifecycle;
mod method;
mod pipeline;
mod reflection;
mod verbs;

pub use internal::Internal;
pub use method::Rule;
pub use pipeline::{Api, ApiLog, Settings, Shape};
