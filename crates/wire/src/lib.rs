//! Bytes on connections.
//!
//! Owns: listeners, the HTTP/1.1 connection in both directions, HTTP/2 as a carrier of HTTP and of gRPC, the framing of
//! gRPC messages and statuses, TLS towards apps and endpoints.
//! Never: knows a route, a building block, a component or a policy.
//!
//! HTTP/1.1 is our own because two things are asked of it that libraries do not offer together: the exact bytes that
//! clients of Dapr's Go server see (lower-case chunk sizes, title-case headers, its error texts), and a connection that
//! costs one task and no channel per request. HTTP/2 is the `h2` crate, used directly.
//! Start at [`http1::serve`], [`http2::serve`], [`grpc::serve`]; clients are [`http1::Client`] and [`grpc::Channel`].

pub mod grpc;
pub mod http1;
pub mod http2;
mod io;
pub mod listen;
pub mod tls;

pub use io::{Connected, Rewind, Target};
