//! Dapr's HTTP API.
//!
//! Owns: the route table, what every request passes through, the reading of requests and the form of replies.
//! Never: decides what a request means; each verb is one call to `outrigger-blocks`.
//! Start at [`Api::handle`], then [`route`]; verbs are in `verbs`.
//!
//! A request that fits no route is an invocation: Dapr's API has no page that is not found.

mod cors;
mod path;
mod pipeline;
mod public;
mod query;
mod reply;
mod route;
mod verbs;

pub use cors::Origins;
pub use pipeline::{Api, ApiLog, Settings, Shape};
pub use public::{PreStop, PublicApi};
pub use route::Rule;
