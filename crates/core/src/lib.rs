//! The words that every other crate speaks.
//!
//! Owns: names, durations and quantities as Dapr writes them, metadata, error codes with their HTTP and
//! gRPC form, JSON with Go's habits, W3C trace contexts, the CloudEvents envelope, bodies.
//! Never: starts a task, opens a file, reads a clock it was not given, logs.
//! Start at [`error`] for what a caller is told, [`cloud_event`] for what lies in a broker.

pub mod body;
pub mod cloud_event;
pub mod duration;
pub mod error;
pub mod error_code;
pub mod json;
pub mod metadata;
pub mod name;
pub mod nearest;
pub mod quantity;
pub mod secret;
pub mod shown;
pub mod topic_access;
pub mod trace;

pub use body::{Body, BodyError};
pub use error::{ApiError, Detail, GrpcCode};
pub use metadata::Metadata;
pub use name::{AppId, ComponentName, Namespace, TopicName};
pub use secret::Secret;
