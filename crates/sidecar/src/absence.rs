//! Tries the app's port, and asks for the end once it has been closed for long enough.

use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::StopRequest;
use outrigger_blocks::app::AppChannel;
use outrigger_lifecycle::absence::Machine;
use outrigger_lifecycle::{Clock, Stop};
use tokio::sync::mpsc;
use tracing::info;

const SCOPE: &str = "dapr.runtime";

pub(crate) struct Watcher {
    pub app: Arc<dyn AppChannel>,
    pub limit: Duration,
    pub clock: Clock,
    pub end: mpsc::Sender<StopRequest>,
}

impl Watcher {
    pub(crate) async fn run(self, stop: Stop) {
        let mut machine = Machine::new(self.limit);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(machine.pause()) => {}
            }
            let open = self.app.accepts().await;
            if machine.seen(open, self.clock.now()) {
                info!(target: SCOPE, "the application has been away for {:?}; beginning shutdown", self.limit);
                self.end.send(StopRequest::AppGone).await.ok();
                return;
            }
        }
    }
}
