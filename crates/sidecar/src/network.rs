//! Looks from time to time whether our network namespace still has a network.

use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use outrigger_blocks::StopRequest;
use outrigger_lifecycle::network::{Change, Interface, Machine};
use outrigger_lifecycle::{Clock, Stop};
use outrigger_telemetry::Metrics;
use tokio::sync::mpsc;
use tracing::{error, info};

const SCOPE: &str = "dapr.runtime";

const LOOKS_EVERY: Duration = Duration::from_secs(1);

pub(crate) struct Watcher {
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    /// Told when the network is lost, if that is to be the end.
    pub end: Option<mpsc::Sender<StopRequest>>,
}

impl Watcher {
    pub(crate) async fn run(self, stop: Stop) {
        let mut machine = Machine::default();
        loop {
            // Those who cannot be listed now are taken to be what they were.
            let change = interfaces().and_then(|found| machine.seen(&found, self.clock.now()));
            if let Some(change) = change {
                self.tell(change);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOKS_EVERY) => {}
            }
        }
    }

    fn tell(&self, change: Change) {
        let lost = change == Change::Lost;
        self.metrics.network_lost.set([], f64::from(u8::from(lost)));
        if !lost {
            info!(target: SCOPE, event = "network", "there is a network again");
            return;
        }
        error!(target: SCOPE, event = "network", "NETWORK_NAMESPACE_LOST: only loopback is left. If another container owns our network namespace, it was restarted, and we have to be, too: see --exit-on-network-namespace-loss");
        if let Some(end) = &self.end {
            end.try_send(StopRequest::NetworkLost).ok();
        }
    }
}

/// One entry for each interface and address.
fn interfaces() -> Option<Vec<Interface>> {
    let found = getifaddrs().ok()?;
    let interfaces = found.map(|one| Interface {
        is_loopback: one.flags.contains(InterfaceFlags::IFF_LOOPBACK),
        is_up: one.flags.contains(InterfaceFlags::IFF_UP),
        name: one.interface_name,
    });
    Some(interfaces.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found() {
        let found = interfaces().unwrap();
        assert!(found.iter().any(|one| one.is_loopback), "{found:?}");
    }
}
