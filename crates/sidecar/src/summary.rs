//! One line that says how everything is: when the start has settled, and once a minute while something is not as it should be.

use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::{AnyHandle, Blocks};
use outrigger_core::shown::shown;
use outrigger_lifecycle::Stop;
use outrigger_lifecycle::connection::State;
use outrigger_lifecycle::subscription;
use tracing::{info, warn};

const SCOPE: &str = "dapr.runtime";
const EVERY: Duration = Duration::from_secs(60);

/// What is not as it should be, each with its reason.
#[derive(Debug, Default)]
struct Summary {
    ready: usize,
    ailing: Vec<String>,
}

impl Summary {
    fn of(blocks: &Blocks) -> Self {
        let table = blocks.registry.table();
        let mut summary = Self::default();
        for handle in &table.all {
            let (info, status) = (handle.info(), handle.status());
            let is_dormant = status.state == State::Pending && handle.proofs().is_dormant();
            if matches!(handle, AnyHandle::Names(_)) || is_dormant {
                continue;
            }
            if status.state == State::Ready {
                summary.ready += 1;
                continue;
            }
            let why = status.failure.as_ref().map_or_else(String::new, |failure| {
                format!(": {}", shown(&failure.message))
            });
            summary
                .ailing
                .push(format!("{} {}{why}", info.name, status.state));
        }
        for rejected in &table.rejected {
            let why = shown(&rejected.reason);
            summary
                .ailing
                .push(format!("{} rejected: {why}", rejected.name));
        }
        for listed in blocks.subscriptions.list() {
            if listed.status.state == subscription::State::Retrying {
                let why = listed
                    .status
                    .error
                    .as_deref()
                    .map(shown)
                    .unwrap_or_default();
                let (pubsub, topic) = (&listed.plan.pubsub, &listed.plan.topic);
                summary
                    .ailing
                    .push(format!("{pubsub}/{topic} retrying: {why}"));
            }
        }
        summary
    }
}

/// The line of the start.
pub(crate) fn tell(blocks: &Blocks) {
    let summary = Summary::of(blocks);
    if summary.ailing.is_empty() {
        info!(target: SCOPE, event = "summary", ready = summary.ready, "every component is ready");
    } else {
        degraded(&summary);
    }
}

fn degraded(summary: &Summary) {
    warn!(target: SCOPE, event = "summary", ready = summary.ready, not_ready = summary.ailing.len(), "not everything is as it should be: [{}]", summary.ailing.join("; "));
}

/// The lines after it.
pub(crate) async fn watch(blocks: Arc<Blocks>, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let summary = Summary::of(&blocks);
        if !summary.ailing.is_empty() {
            degraded(&summary);
        }
    }
}
