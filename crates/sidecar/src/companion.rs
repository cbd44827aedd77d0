//! What runs beside the sidecar, as one unit with it.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

/// An app that lives and ends with the sidecar.
#[async_trait]
pub trait Companion: Send {
    /// Whether it is started at once, and not only when its calls are served.
    fn starts_at_once(&self) -> bool;

    /// Starts it, unless that was done before. The ports of our API are given.
    ///
    /// # Errors
    /// Why it cannot be started.
    async fn start(&mut self, http_port: u16, grpc_port: u16) -> Result<(), String>;

    /// True from its end until it is started again. A part of it that still answers does not count.
    fn away(&self) -> watch::Receiver<bool>;

    /// Waits for an end of its own after which it is not started again; its exit code. It may have come already. Never ends
    /// before it was started.
    ///
    /// # Cancel safety
    /// Can be asked again.
    async fn ended(&mut self) -> u8;

    /// The end of everything has begun; from now on it is not started again.
    fn ending(&mut self);

    /// Tells it to end and waits for that; it is killed when it takes longer than `limit`, with everything that it started.
    ///
    /// # Cancel safety
    /// Can be asked again, with less time.
    async fn stop(&mut self, limit: Duration);

    /// After its end: what that adds to our exit code, 0 when it did as it was told.
    fn verdict(&self) -> u8;
}
