//! The app, over HTTP or over gRPC.
//!
//! Both take the same calls; they differ in how these look on the wire. The app's token goes with every call but the
//! health probe.

mod answers;
mod grpc;
mod http;
mod subscriptions;

use std::sync::Arc;
use std::time::Duration;

use outrigger_core::Secret;
use outrigger_telemetry::Metrics;
use outrigger_wire::Target;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use self::grpc::{GrpcApp, topic_event, verdict};
pub use self::http::{HttpApp, Protocol};
pub(crate) use self::http::{reply, title};

/// What both kinds of app need.
#[derive(Clone, Debug)]
pub struct Settings {
    pub target: Target,
    pub app_id: String,
    /// `APP_API_TOKEN`.
    pub token: Option<Secret>,
    pub metrics: Arc<Metrics>,
    /// `--app-max-concurrency`.
    pub max_concurrency: Option<u32>,
    /// Bytes of the head of an answer.
    pub max_head: usize,
    /// Bytes of a gRPC message.
    pub max_message: usize,
    /// For one health probe.
    pub probe_timeout: Duration,
    pub health_path: String,
    /// Path or service of the readiness question.
    pub ready: Option<String>,
    /// Path of the question whether the app is busy.
    pub busy_path: Option<String>,
    /// Path under which the app is told what happens to its sidecar.
    pub lifecycle_path: Option<String>,
}

const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
const READY_TIMEOUT: Duration = Duration::from_secs(1);
const PORT_TIMEOUT: Duration = Duration::from_millis(500);
/// Pauses between looks at the port of an app that may be on its way out.
const LEAVING: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(80),
];

/// At most so many calls to the app at a time; others wait.
#[derive(Clone, Debug)]
struct Turnstile(Option<Arc<Semaphore>>);

impl Turnstile {
    fn new(limit: Option<u32>) -> Self {
        Self(limit.map(|limit| {
            Arc::new(Semaphore::new(
                usize::try_from(limit).unwrap_or(Semaphore::MAX_PERMITS),
            ))
        }))
    }

    async fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone()?.acquire_owned().await.ok()
    }
}

/// How often a delivery that the app cannot have seen is made once more while the app is there.
const ONCE_MORE: usize = 2;

/// Whether the app's port accepts connections.
async fn accepts(target: &Target) -> bool {
    let connecting = tokio::net::TcpStream::connect((target.host.as_str(), target.port));
    matches!(
        tokio::time::timeout(PORT_TIMEOUT, connecting).await,
        Ok(Ok(_))
    )
}

/// Whether the app behind a connection that broke, or that could not be made, has gone. Its port tells: a connection may
/// break for any reason, and the kernel closes a dying process's sockets one after the other.
async fn has_gone(target: &Target) -> bool {
    for pause in LEAVING {
        tokio::time::sleep(pause).await;
        if !accepts(target).await {
            return true;
        }
    }
    false
}
