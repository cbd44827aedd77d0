//! Log lines in Dapr's two forms.
//!
//! A line is written by a thread of its own behind a bounded queue: a reader of our output that stops reading costs
//! lines, which are counted, and never holds up a request. Fields are those of the event; `scope` is its target.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{Local, SecondsFormat};
use outrigger_core::json::{Style, encode_string};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that may wait to be written.
const QUEUE: usize = 4096;

#[derive(Clone, Debug)]
pub struct Settings {
    pub level: LevelFilter,
    pub json: bool,
    /// Ahead of each line.
    pub prefix: &'static str,
    /// In place of standard output.
    pub file: Option<PathBuf>,
    pub app_id: String,
    pub instance: String,
    pub version: String,
}

/// Starts the log of the process. To be called once.
///
/// # Errors
/// When the log file cannot be opened.
pub fn init(settings: Settings) -> std::io::Result<()> {
    let out: Box<dyn std::io::Write + Send> = match &settings.file {
        Some(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
        None => Box::new(std::io::stdout()),
    };
    let (lines, queue) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    std::thread::Builder::new()
        .name("log".to_owned())
        .stack_size(128 * 1024)
        .spawn(move || write_lines(out, &queue))?;
    SINK.set(Sink {
        lines: lines.clone(),
        dropped: dropped.clone(),
    })
    .ok();
    tracing::subscriber::set_global_default(Log {
        settings,
        lines,
        dropped,
    })
    .map_err(std::io::Error::other)
}

/// Waits until the lines so far are written, for a moment at most.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        let (done, wait) = sync_channel(1);
        if sink.lines.try_send(Line::Flush(done)).is_ok() {
            wait.recv_timeout(Duration::from_millis(500)).ok();
        }
    }
}

/// How many lines were lost to a slow reader.
pub fn dropped() -> u64 {
    SINK.get()
        .map_or(0, |sink| sink.dropped.load(Ordering::Relaxed))
}

struct Sink {
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

static SINK: OnceLock<Sink> = OnceLock::new();

enum Line {
    Text(Vec<u8>),
    Flush(SyncSender<()>),
}

fn write_lines(mut out: Box<dyn std::io::Write + Send>, queue: &Receiver<Line>) {
    while let Ok(line) = queue.recv() {
        match line {
            Line::Text(text) => {
                out.write_all(&text).ok();
                out.flush().ok();
            }
            Line::Flush(done) => {
                done.try_send(()).ok();
            }
        }
    }
}

struct Log {
    settings: Settings,
    lines: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries have a say only when something is wrong; spans are not ours (see `span`).
        let ours =
            metadata.target().starts_with("dapr") || metadata.target().starts_with("outrigger");
        metadata.is_event()
            && *metadata.level()
                <= if ours {
                    self.settings.level
                } else {
                    self.settings.level.min(LevelFilter::ERROR)
                }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.settings.level)
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = render(&self.settings, event.metadata(), fields);
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Line::Text(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[derive(Default)]
struct Fields {
    message: String,
    others: BTreeMap<&'static str, Datum>,
}

enum Datum {
    Text(String),
    /// Numbers and booleans: bare in JSON.
    Bare(String),
}

impl Fields {
    fn put(&mut self, field: &Field, datum: Datum) {
        match (field.name(), datum) {
            ("message", Datum::Text(text) | Datum::Bare(text)) => self.message = text,
            (name, datum) => {
                self.others.insert(name, datum);
            }
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, Datum::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Datum::Text(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Datum::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Datum::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Datum::Bare(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Datum::Bare(value.to_string()));
    }
}

fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn render(settings: &Settings, metadata: &Metadata<'_>, mut fields: Fields) -> Vec<u8> {
    let time = Local::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
    let level = match fields.others.remove("fatal") {
        Some(_) => "fatal",
        None => level_name(metadata.level()),
    };
    let text = |value: &str| Datum::Text(value.to_owned());
    fields.others.insert("app_id", text(&settings.app_id));
    fields.others.insert("instance", text(&settings.instance));
    // `outrigger_blocks::guard` and the like are ours; a reader knows Dapr's dotted names.
    fields
        .others
        .insert("scope", Datum::Text(metadata.target().replace("::", ".")));
    fields.others.insert("type", text("log"));
    fields.others.insert("ver", text(&settings.version));
    if settings.json {
        json_line(&time, level, fields)
    } else {
        text_line(settings.prefix, &time, level, fields)
    }
}

fn json_line(time: &str, level: &str, fields: Fields) -> Vec<u8> {
    let mut members: BTreeMap<&str, Datum> = fields.others;
    members.insert("time", Datum::Text(time.to_owned()));
    members.insert("level", Datum::Text(level.to_owned()));
    members.insert("msg", Datum::Text(fields.message));
    let mut out = Vec::with_capacity(256);
    for (name, datum) in &members {
        out.push(if out.is_empty() { b'{' } else { b',' });
        encode_string(&mut out, name, Style::Ours);
        out.push(b':');
        match datum {
            Datum::Text(text) => encode_string(&mut out, text, Style::Ours),
            Datum::Bare(text) => out.extend_from_slice(text.as_bytes()),
        }
    }
    out.extend_from_slice(b"}\n");
    out
}

fn text_line(prefix: &str, time: &str, level: &str, fields: Fields) -> Vec<u8> {
    let mut out = String::with_capacity(256);
    out.push_str(prefix);
    write!(out, "time={time:?} level={level} msg={:?}", fields.message).ok();
    for (name, datum) in &fields.others {
        let (Datum::Text(text) | Datum::Bare(text)) = datum;
        let bare = !text.is_empty()
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-._/@^+".contains(&b));
        if bare {
            write!(out, " {name}={text}")
        } else {
            write!(out, " {name}={text:?}")
        }
        .ok();
    }
    out.push('\n');
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(json: bool) -> String {
        let mut fields = Fields {
            message: "dapr initialized. Status: Running. Init Elapsed 5ms".into(),
            ..Fields::default()
        };
        fields.others.insert("attempt", Datum::Bare("3".into()));
        fields
            .others
            .insert("error", Datum::Text("no \"way\"".into()));
        let bytes = if json {
            json_line("T", "info", fields)
        } else {
            text_line("sidecar | ", "T", "info", fields)
        };
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_text_form_quotes_what_needs_quoting() {
        assert_eq!(
            line(false),
            "sidecar | time=\"T\" level=info msg=\"dapr initialized. Status: Running. Init Elapsed 5ms\" attempt=3 error=\"no \\\"way\\\"\"\n"
        );
    }

    #[test]
    fn the_json_form_is_one_object_a_line() {
        assert_eq!(
            line(true),
            "{\"attempt\":3,\"error\":\"no \\\"way\\\"\",\"level\":\"info\",\"msg\":\"dapr initialized. Status: Running. Init Elapsed 5ms\",\"time\":\"T\"}\n"
        );
    }
}
