//! Tries the app's port, and asks for the end once it has been closed for long enough.

use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::StopRequest;
use outrigger_blocks::app::AppChannel;
use outrigger_lifecycle::absence::Machine;
use outrigger_lifecycle::gate::State;
use outrigger_lifecycle::{Clock, Stop};
use tokio::sync::{mpsc, watch};
use tracing::info;

const SCOPE: &str = "dapr.runtime";

pub(crate) struct Watcher {
    pub app: Arc<dyn AppChannel>,
    pub gate: watch::Receiver<State>,
    pub limit: Duration,
    pub clock: Clock,
    pub end: mpsc::Sender<StopRequest>,
}

impl Watcher {
    pub(crate) async fn run(mut self, stop: Stop) {
        let mut machine = Machine::new(self.limit);
        loop {
            let noticed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // An app with a short life may have been met by the gate alone.
                Ok(()) = self.gate.changed() => *self.gate.borrow_and_update() != State::WaitPort,
                () = tokio::time::sleep(machine.pause()) => false,
            };
            let open = noticed || self.app.accepts().await;
            if machine.seen(open, self.clock.now()) {
                info!(target: SCOPE, "the application has been away for {:?}; beginning shutdown", self.limit);
                self.end.send(StopRequest::AppGone).await.ok();
                return;
            }
        }
    }
}
