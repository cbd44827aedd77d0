//! Real servers that belong to one test.
//!
//! Each has a folder, ports and processes of its own and keeps its data from one start to the next, so that a test can
//! kill it and see what survived. All of it ends on drop, and with the test process. A server that is not installed
//! fails the test with a sentence about what to install: a test that is skipped tests nothing.

mod rabbit;
mod rabbit_cluster;
mod redis;
mod sentinel;

use outrigger_component_api::async_trait;

pub use rabbit::{Rabbit, RabbitServer};
pub use rabbit_cluster::RabbitCluster;
pub use redis::{Redis, RedisServer};
pub use sentinel::Sentinel;

/// What a test may do to a server.
#[async_trait(?Send)]
pub trait Server: Send + Sync {
    /// `127.0.0.1:6379`; the same after every start.
    fn address(&self) -> String;

    /// Returns when the server answers, with the data it had. Does nothing while it runs.
    async fn start(&self);

    /// SIGTERM: the server ends in its own way. Returns when it is gone.
    async fn stop(&self);

    /// SIGKILL. Returns when it is gone.
    async fn kill(&self);

    /// SIGSTOP: connections stay, nothing answers.
    fn pause(&self);

    /// SIGCONT.
    fn resume(&self);
}
