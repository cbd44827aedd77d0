//! Spans: what a request did, for whoever collects traces.
//!
//! Three ways to live with tracing: *off* (sampling rate 0: no code at all), *passive* (no exporter: a context that came
//! is passed on unchanged, none is invented), *active* (an exporter: every request is a span of its own). Attributes are
//! computed only for spans that are sampled.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use outrigger_core::trace::TraceContext;
use tokio::sync::mpsc;

/// Finished spans that may wait for the exporter; more are dropped.
const QUEUE: usize = 2048;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    pub context: TraceContext,
    pub parent: Option<[u8; 8]>,
    pub name: String,
    pub kind: Kind,
    pub start_nanos: u64,
    pub end_nanos: u64,
    pub attributes: Vec<(Cow<'static, str>, String)>,
    pub events: Vec<Event>,
    /// Set for a failure.
    pub error: Option<String>,
}

/// Something that happened within a span.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub name: &'static str,
    pub nanos: u64,
    pub attributes: Vec<(&'static str, String)>,
}

/// Makes spans. Clones are one tracer.
#[derive(Clone, Debug)]
pub struct Tracer {
    mode: Arc<ArcSwap<Mode>>,
}

#[derive(Clone, Debug)]
enum Mode {
    Off,
    Passive,
    Active(Arc<Active>),
}

#[derive(Debug)]
struct Active {
    /// Traces whose id lies below are sampled.
    threshold: u64,
    finished: mpsc::Sender<Finished>,
}

/// A span under way. Ends when it is finished; one that is dropped is forgotten.
#[derive(Debug)]
pub struct Span {
    context: TraceContext,
    recording: Option<Box<Recording>>,
}

#[derive(Debug)]
struct Recording {
    span: Finished,
    active: Arc<Active>,
}

impl Tracer {
    pub fn off() -> Self {
        Self::in_mode(Mode::Off)
    }

    pub fn passive() -> Self {
        Self::in_mode(Mode::Passive)
    }

    fn in_mode(mode: Mode) -> Self {
        Self {
            mode: Arc::new(ArcSwap::from_pointee(mode)),
        }
    }

    /// From now on it makes spans as another one does. Those under way end as they began; the queue of an active one
    /// closes with the last of them.
    pub fn become_like(&self, other: &Self) {
        self.mode.store(other.mode.load_full());
    }

    /// Samples this share of the traces that begin here; others follow their parent. Returns the queue to export from.
    pub fn active(rate: f64) -> (Self, mpsc::Receiver<Finished>) {
        let (finished, queue) = mpsc::channel(QUEUE);
        let threshold = if rate >= 1.0 {
            u64::MAX
        } else {
            (rate.max(0.0) * (u64::MAX as f64)) as u64
        };
        let active = Active {
            threshold,
            finished,
        };
        (Self::in_mode(Mode::Active(Arc::new(active))), queue)
    }

    pub fn is_on(&self) -> bool {
        !matches!(**self.mode.load(), Mode::Off)
    }

    pub fn is_active(&self) -> bool {
        matches!(**self.mode.load(), Mode::Active(_))
    }

    /// Begins a span below `parent`, or a trace of its own. `name` is asked for only if the span is recorded.
    pub fn start(
        &self,
        parent: Option<&TraceContext>,
        kind: Kind,
        name: impl FnOnce() -> String,
    ) -> Span {
        let mode = self.mode.load();
        let Mode::Active(active) = &**mode else {
            return Span {
                context: parent.cloned().unwrap_or_default(),
                recording: None,
            };
        };
        let context = match parent {
            Some(parent) => parent.child(),
            None => {
                let mut root = TraceContext::root(false);
                let low = root
                    .trace_id
                    .iter()
                    .rev()
                    .take(8)
                    .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
                root.flags = u8::from(low <= active.threshold && active.threshold > 0);
                root
            }
        };
        let recording = context.is_sampled().then(|| {
            let span = Finished {
                context: context.clone(),
                parent: parent.map(|parent| parent.span_id),
                name: name(),
                kind,
                start_nanos: now(),
                end_nanos: 0,
                attributes: Vec::new(),
                events: Vec::new(),
                error: None,
            };
            Box::new(Recording {
                span,
                active: active.clone(),
            })
        });
        Span { context, recording }
    }
}

impl Span {
    /// A context that is passed on as it came.
    pub fn passing(context: TraceContext) -> Self {
        Self {
            context,
            recording: None,
        }
    }

    /// What goes out to whoever is called next.
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    pub fn is_recording(&self) -> bool {
        self.recording.is_some()
    }

    pub fn rename(&mut self, name: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.recording {
            recording.span.name = name();
        }
    }

    pub fn attribute(&mut self, name: &'static str, value: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.recording {
            recording
                .span
                .attributes
                .push((Cow::Borrowed(name), value()));
        }
    }

    /// An attribute that is named like a field of the request.
    pub fn copied(&mut self, name: &str, value: String) {
        if let Some(recording) = &mut self.recording {
            recording
                .span
                .attributes
                .push((Cow::Owned(name.to_owned()), value));
        }
    }

    /// Something that happened at a moment.
    pub fn event(
        &mut self,
        name: &'static str,
        at: SystemTime,
        attributes: Vec<(&'static str, String)>,
    ) {
        if let Some(recording) = &mut self.recording {
            recording.span.events.push(Event {
                name,
                nanos: nanos(at),
                attributes,
            });
        }
    }

    pub fn fail(&mut self, message: impl FnOnce() -> String) {
        if let Some(recording) = &mut self.recording {
            recording.span.error = Some(message());
        }
    }

    /// Ends the span and hands it to the exporter; if that is behind, the span is lost.
    pub fn finish(self) {
        if let Some(mut recording) = self.recording {
            recording.span.end_nanos = now();
            recording.active.finished.try_send(recording.span).ok();
        }
    }
}

fn now() -> u64 {
    nanos(SystemTime::now())
}

fn nanos(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> TraceContext {
        TraceContext::root(sampled)
    }

    #[test]
    fn without_an_exporter_a_context_passes_unchanged() {
        let came = parent(true);
        assert_eq!(
            Tracer::passive()
                .start(Some(&came), Kind::Client, String::new)
                .context(),
            &came
        );
        assert!(
            !Tracer::passive()
                .start(None, Kind::Client, String::new)
                .context()
                .is_valid()
        );
    }

    #[test]
    fn with_an_exporter_spans_are_children_that_follow_their_parents_sampling() {
        let (tracer, mut queue) = Tracer::active(0.0);
        let came = parent(true);
        let mut span = tracer.start(Some(&came), Kind::Server, || "x".into());
        assert_eq!(span.context().trace_id, came.trace_id);
        assert_ne!(span.context().span_id, came.span_id);
        span.attribute("dapr.api", || "GET /".into());
        span.finish();
        let finished = queue.try_recv().unwrap();
        assert_eq!(
            (finished.name.as_str(), finished.parent),
            ("x", Some(came.span_id))
        );
        assert!(
            !tracer
                .start(Some(&parent(false)), Kind::Server, String::new)
                .is_recording()
        );
        assert!(
            !tracer.start(None, Kind::Server, String::new).is_recording(),
            "nothing that begins here is sampled"
        );
    }

    #[test]
    fn a_tracer_that_changes_ends_spans_as_they_began() {
        let (tracer, mut queue) = Tracer::active(1.0);
        let held = tracer.clone();
        let span = held.start(None, Kind::Server, || "x".into());
        tracer.become_like(&Tracer::off());
        assert!(!held.is_on());
        span.finish();
        assert!(queue.try_recv().is_ok());
        assert_eq!(
            queue.try_recv().unwrap_err(),
            mpsc::error::TryRecvError::Disconnected
        );
    }

    #[test]
    fn a_rate_of_one_samples_everything() {
        let (tracer, _queue) = Tracer::active(1.0);
        assert!((0..100).all(|_| tracer.start(None, Kind::Server, String::new).is_recording()));
    }
}
