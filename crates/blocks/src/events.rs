//! Changes as CloudEvents, for those who want to hear of them: the stream, the webhook, the app.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use futures_util::stream::{once, unfold};
use outrigger_core::BodyError;
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_core::json::{Numbers, Style, Value, encode};
use outrigger_lifecycle::connection::State;
use outrigger_lifecycle::phase::Phase;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::history::entry::{self, time_text};
use outrigger_telemetry::journal::{Change, Kind};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use uuid::Uuid;

use crate::Blocks;
use crate::component::AnyHandle;

/// Something is written to a stream at least this often, so that both sides know that the other is there.
const STILL_HERE: Duration = Duration::from_secs(15);

/// `dev.outrigger.component.state_changed`.
pub fn type_of(change: &Change) -> String {
    let what = match change.kind {
        Kind::Phase => "phase_changed".to_owned(),
        Kind::Gate => "gate_changed".to_owned(),
        Kind::Drain => format!("drain.{}", change.to),
        Kind::Process | Kind::Component | Kind::Subscription | Kind::Breaker => {
            format!("{}.state_changed", change.kind.name())
        }
    };
    format!("dev.outrigger.{what}")
}

/// A CloudEvent 1.0 in JSON.
pub fn event(change: &Change, app_id: &str, namespace: &str) -> Vec<u8> {
    let subject = (!change.subject.is_empty()).then(|| Value::string(change.subject.as_str()));
    let members = [
        ("specversion", Some(Value::string("1.0"))),
        ("id", Some(Value::String(Uuid::new_v4().to_string()))),
        (
            "source",
            Some(Value::String(format!("/outrigger/{namespace}/{app_id}"))),
        ),
        ("type", Some(Value::String(type_of(change)))),
        ("time", Some(Value::String(time_text(change.at)))),
        ("subject", subject),
        ("datacontenttype", Some(Value::string("application/json"))),
        ("data", Some(entry::value(change))),
    ];
    let present = members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    encode(
        &Value::Object(present.collect()),
        Style::Ours,
        Numbers::Exact,
    )
}

impl Blocks {
    /// Every change from now on, as server-sent events whose data are CloudEvents. Ends with the sidecar.
    pub fn listen(&self) -> impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
        let listener = Listener {
            changes: self.metrics.journal.listen(),
            phase: self.health.phase.clone(),
            metrics: self.metrics.clone(),
            app_id: self.app_id.to_string(),
            namespace: self.namespace.to_string(),
        };
        // A first line, so that whoever listens knows that nothing is missed from here on.
        let hello = Bytes::from_static(b": listening\n\n");
        let rest = unfold(listener, |mut listener| async move {
            let piece = listener.next().await?;
            Some((Ok(Bytes::from(piece)), listener))
        });
        once(async { Ok(hello) }).chain(rest)
    }

    /// Takes in how many calls each component has refused, so that the history knows before it is there again.
    pub fn count_refused(&self) {
        let journal = &self.metrics.journal;
        let names = self.invoke.resolver.handle().map(AnyHandle::Names);
        for handle in self.registry.table().all.iter().chain(&names) {
            // While it is ready there is nothing to tell; what was refused just before is told with the change.
            if handle.status().state != State::Ready {
                journal.refused(handle.name().as_str(), take_refused(handle));
            }
        }
    }

    /// Every change that is kept, and the counts as they are now.
    ///
    /// # Errors
    /// When none are, or the files cannot be read.
    pub async fn read_history(&self) -> Result<Vec<Change>, ApiError> {
        let failed =
            |http, code, tag, message| Err(ApiError::legacy(http, code, tag, "common", message));
        let reader = match self.history.clone() {
            Ok(reader) => reader,
            Err(why) => {
                let message = format!("no history is kept: {why}");
                return failed(404, GrpcCode::NotFound, "ERR_HISTORY_OFF", message);
            }
        };
        let name = reader.path().display().to_string();
        // Files are read elsewhere than on the threads that serve calls.
        let read = tokio::task::spawn_blocking(move || reader.changes()).await;
        match read {
            Ok(Ok(mut changes)) => {
                self.count_refused();
                changes.extend(self.metrics.journal.tallies_now());
                Ok(changes)
            }
            Ok(Err(why)) => failed(
                500,
                GrpcCode::Internal,
                "ERR_HISTORY",
                format!("cannot read {name}: {why}"),
            ),
            Err(why) => failed(
                500,
                GrpcCode::Internal,
                "ERR_HISTORY",
                format!("cannot read {name}: {why}"),
            ),
        }
    }
}

fn take_refused(handle: &AnyHandle) -> u64 {
    match handle {
        AnyHandle::State(handle) => handle.take_refused(),
        AnyHandle::PubSub(handle) => handle.take_refused(),
        AnyHandle::Secrets(handle) => handle.take_refused(),
        AnyHandle::Names(handle) => handle.take_refused(),
    }
}

struct Listener {
    changes: Receiver<Arc<Change>>,
    phase: watch::Receiver<Phase>,
    metrics: Arc<Metrics>,
    app_id: String,
    namespace: String,
}

impl Listener {
    /// The next piece; none when the sidecar ends.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let is_over = |phase: &Phase| *phase == Phase::Stopping;
        let silent = tokio::time::sleep(STILL_HERE);
        tokio::pin!(silent);
        loop {
            tokio::select! {
                biased;
                change = self.changes.recv() => match change {
                    Ok(change) if change.is_tally() => {}
                    Ok(change) => {
                        let mut text = format!("event: {}\ndata: ", type_of(&change)).into_bytes();
                        text.extend(event(&change, &self.app_id, &self.namespace));
                        text.extend_from_slice(b"\n\n");
                        return Some(text);
                    }
                    Err(RecvError::Lagged(missed)) => {
                        self.metrics.events_dropped.add([], missed);
                        return Some(format!(": {missed} events were missed\n\n").into_bytes());
                    }
                    Err(RecvError::Closed) => return None,
                },
                _ = self.phase.wait_for(is_over) => return None,
                () = &mut silent => return Some(b": still here\n\n".to_vec()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use outrigger_core::json::parse_all;
    use outrigger_telemetry::journal::Told;
    use outrigger_telemetry::metrics::Settings;

    use super::*;

    fn change(kind: Kind, subject: &str, to: &str) -> Change {
        Change {
            at: SystemTime::now(),
            kind,
            subject: subject.to_owned(),
            from: String::new(),
            to: to.to_owned(),
            after: None,
            cause: None,
            class: None,
            refused: None,
        }
    }

    #[test]
    fn each_kind_has_its_type_and_every_attribute_that_is_demanded() {
        for (kind, to, expected) in [
            (
                Kind::Component,
                "ready",
                "dev.outrigger.component.state_changed",
            ),
            (Kind::Phase, "ready", "dev.outrigger.phase_changed"),
            (Kind::Gate, "open", "dev.outrigger.gate_changed"),
            (Kind::Drain, "started", "dev.outrigger.drain.started"),
            (Kind::Drain, "finished", "dev.outrigger.drain.finished"),
        ] {
            let bytes = event(&change(kind, "orders", to), "app", "default");
            let value = parse_all(&bytes).unwrap();
            let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap().to_owned();
            assert_eq!(text("type"), expected);
            assert_eq!(
                (text("specversion"), text("source")),
                ("1.0".into(), "/outrigger/default/app".into())
            );
            assert!(!text("id").is_empty() && text("time").ends_with('Z'));
            assert_eq!(
                value
                    .get("data")
                    .and_then(|data| data.get("to"))
                    .and_then(Value::as_str),
                Some(to)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_told_changes_and_no_mere_counts() {
        let metrics = Arc::new(Metrics::new(Settings::new("app")));
        let (_phases, phase) = watch::channel(Phase::Ready);
        let mut listener = Listener {
            changes: metrics.journal.listen(),
            phase,
            metrics: metrics.clone(),
            app_id: "app".to_owned(),
            namespace: "default".to_owned(),
        };
        let journal = &metrics.journal;
        journal.refused("orders", 3);
        journal.tell_tallies(true);
        journal.change(Kind::Gate, "", "open", Told::default());
        let piece = String::from_utf8(listener.next().await.unwrap()).unwrap();
        assert!(
            piece.starts_with("event: dev.outrigger.gate_changed\n"),
            "{piece}"
        );
        journal.refused("orders", 1);
        journal.tell_tallies(true);
        let piece = listener.next().await.unwrap();
        assert_eq!(piece, b": still here\n\n");
    }
}
