//! A sidecar's status as lines of a given width.
//!
//! Owns: what is said of a sidecar, in which order and words, and what is left out where there is little room.
//! Never: knows a terminal; lines are printed once by `outrigger status` and scrolled by `outrigger top`.
//! Start at [`lines`]. A state is a word and a sign; colour only repeats it.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::model::{Breaker, Component, Drain, Rates, Status, Subscription};
use crate::client::text::{cut, filled, ms, right, shortened, width};

pub(crate) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
pub(crate) const FAINT: Style = Style::new().add_modifier(Modifier::DIM);

/// How something does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Good,
    /// On its way, or on purpose.
    Waiting,
    Bad,
    /// Nobody but a person can help.
    Wrong,
    Unknown,
}

impl Mood {
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Self::Good => "+",
            Self::Waiting => "~",
            Self::Bad => "x",
            Self::Wrong => "!",
            Self::Unknown => " ",
        }
    }

    pub(crate) fn style(self) -> Style {
        match self {
            Self::Good => Style::new().fg(Color::Green),
            Self::Waiting => Style::new().fg(Color::Yellow),
            Self::Bad | Self::Wrong => Style::new().fg(Color::Red),
            Self::Unknown => Style::new(),
        }
    }

    pub(crate) fn of_phase(phase: &str) -> Self {
        match phase {
            "ready" => Self::Good,
            "starting" | "waiting_app" | "paused" | "draining" | "lingering" | "stopping" => {
                Self::Waiting
            }
            _ => Self::Unknown,
        }
    }

    pub(crate) fn of_gate(gate: &str) -> Self {
        match gate {
            "open" | "absent" => Self::Good,
            "closed" => Self::Bad,
            "wait_port" | "wait_ready" | "wait_health" | "discover" => Self::Waiting,
            _ => Self::Unknown,
        }
    }

    pub(crate) fn of_component(state: &str) -> Self {
        match state {
            "ready" => Self::Good,
            "pending" | "connecting" | "closing" => Self::Waiting,
            "unavailable" => Self::Bad,
            "rejected" => Self::Wrong,
            _ => Self::Unknown,
        }
    }

    fn of_subscription(state: &str) -> Self {
        match state {
            "active" => Self::Good,
            "idle" | "starting" | "closed" => Self::Waiting,
            "retrying" => Self::Bad,
            _ => Self::Unknown,
        }
    }

    fn of_breaker(state: &str) -> Self {
        match state {
            "closed" => Self::Good,
            "half-open" => Self::Waiting,
            "open" => Self::Bad,
            _ => Self::Unknown,
        }
    }
}

/// Everything that is known of a sidecar. No line is wider than `room`.
pub(crate) fn lines(status: &Status, rates: Option<&Rates>, room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![head(status, room)];
    lines.extend(labelled("phase", &phase(status), room));
    if let Some(drain) = &status.drain {
        lines.extend(labelled("drain", &draining(drain), room));
    }
    lines.extend(labelled("in hand", &in_hand(&status.inflight), room));
    lines.extend(traffic(status, rates, room));
    lines.extend(components(&status.components, room));
    lines.extend(breakers(&status.breakers, room));
    lines.into_iter().map(|line| clipped(line, room)).collect()
}

/// For rooms that not even the narrowest table fits into.
pub(crate) fn clipped(line: Line<'static>, room: usize) -> Line<'static> {
    if line.width() <= room {
        return line;
    }
    let mut left = room;
    let mut spans = Vec::new();
    for span in line.spans {
        let content = cut(&span.content, left);
        left -= width(&content).min(left);
        spans.push(Span::styled(content, span.style));
    }
    Line::from(spans)
}

fn in_hand(inflight: &[(String, u64)]) -> Vec<Part> {
    if inflight.is_empty() {
        return vec![("nothing".to_owned(), Style::new())];
    }
    let parts = inflight.iter();
    parts
        .map(|(what, count)| (format!("{what} {count}"), Style::new()))
        .collect()
}

fn head(status: &Status, room: usize) -> Line<'static> {
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        facts.extend(value.map(|value| format!("{name} {value}")));
    };
    fact("namespace", status.namespace.clone());
    fact("version", status.version.clone());
    fact("pid", status.pid.map(|pid| pid.to_string()));
    fact("up", status.uptime_ms.map(ms));
    let name = cut(&status.app_id, room);
    let mut used = width(&name);
    let mut spans = vec![Span::styled(name, BOLD)];
    for fact in facts {
        used += 2 + width(&fact);
        if used > room {
            break;
        }
        spans.push(Span::raw(format!("  {fact}")));
    }
    Line::from(spans)
}

type Part = (String, Style);

fn phase(status: &Status) -> Vec<Part> {
    let since = |state: &str, since: Option<u64>| match since {
        Some(since) => format!("{state} for {}", ms(since)),
        None => state.to_owned(),
    };
    let mut parts = vec![(
        since(&status.phase, status.phase_since_ms),
        Mood::of_phase(&status.phase).style(),
    )];
    if let Some(gate) = &status.gate {
        parts.push((
            format!("gate {}", since(gate, status.gate_since_ms)),
            Mood::of_gate(gate).style(),
        ));
    }
    if let Some(app) = &status.app {
        let protocol = app.protocol.as_deref().unwrap_or("an app");
        parts.push(match app.port {
            Some(port) => (format!("app {protocol} on {port}"), Style::new()),
            None => ("no app".to_owned(), Style::new()),
        });
    }
    parts
}

fn draining(drain: &Drain) -> Vec<Part> {
    let plain = |text: String| (text, Style::new());
    let id = drain.id.as_deref().unwrap_or_default();
    let cause = drain.cause.as_deref();
    let by = cause.map_or_else(String::new, |cause| format!("by {cause}"));
    let mut parts = vec![plain(format!("{id} {by}").trim().to_owned())];
    parts.retain(|(text, _)| !text.is_empty());
    parts.push(if drain.drained {
        ("drained".to_owned(), Mood::Good.style())
    } else {
        ("not drained yet".to_owned(), Mood::Waiting.style())
    });
    parts.extend(drain.for_ms.map(|time| plain(format!("for {}", ms(time)))));
    parts.push(plain(match drain.deadline_ms {
        Some(left) => format!("{} left", ms(left)),
        None => "no deadline".to_owned(),
    }));
    if let Some(busy) = drain.busy {
        let not = if busy { "" } else { "not " };
        parts.push(plain(format!("app {not}busy")));
    }
    parts.push(plain(if drain.exits {
        "then it ends".to_owned()
    } else {
        "it does not end".to_owned()
    }));
    parts
}

fn traffic(status: &Status, rates: Option<&Rates>, room: usize) -> Vec<Line<'static>> {
    let part = |name: &str, value: String| (format!("{name} {value}"), Style::new());
    if let Some(rates) = rates.filter(|rates| !rates.all().is_empty()) {
        let parts = rates.all().iter();
        let parts: Vec<Part> = parts
            .map(|(name, rate)| part(name, per_second(*rate)))
            .collect();
        return labelled("per second", &parts, room);
    }
    let counters = status.counters.all();
    if counters.is_empty() {
        return Vec::new();
    }
    let parts: Vec<Part> = counters
        .iter()
        .map(|(name, count)| part(name, count.to_string()))
        .collect();
    labelled("so far", &parts, room)
}

/// `0`, `<0.1`, `0.4`, `12`.
pub(crate) fn per_second(rate: f64) -> String {
    let text = if rate < 9.95 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    };
    match text.strip_suffix(".0") {
        Some("0") if rate > 0.0 => "<0.1".to_owned(),
        Some(whole) => whole.to_owned(),
        None => text,
    }
}

/// A name, and as many lines of parts as they need.
fn labelled(label: &str, parts: &[Part], room: usize) -> Vec<Line<'static>> {
    const LABEL: usize = 12;
    let mut lines = Vec::new();
    let mut spans = vec![Span::styled(cut(&filled(label, LABEL), room), FAINT)];
    let mut used = LABEL;
    for (text, style) in parts {
        let gap = if used > LABEL { 3 } else { 0 };
        if used + gap + width(text) > room && used > LABEL {
            let indent = Span::raw(" ".repeat(LABEL));
            lines.push(Line::from(std::mem::replace(&mut spans, vec![indent])));
            used = LABEL;
        } else if gap > 0 {
            spans.push(Span::raw(" ".repeat(gap)));
            used += gap;
        }
        let text = cut(text, room.saturating_sub(used));
        used += width(&text);
        spans.push(Span::styled(text, *style));
    }
    lines.push(Line::from(spans));
    lines
}

/// How wide the columns of a table are; zero for one that is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Columns {
    name: usize,
    kind: usize,
    state: usize,
    since: usize,
    next: usize,
}

const GAP: usize = 2;
/// Ahead of what is said of a row below it.
const DETAIL: usize = 4;
const STATE: usize = "unavailable".len();
const SINCE: usize = "59m59s".len();
const NEXT: usize = "NEXT PROBE".len();

impl Columns {
    /// `widest`: the name and the type that need most.
    fn within(room: usize, widest: (usize, usize)) -> Self {
        // Sign, gap, then columns with a gap ahead of all but the first.
        let fixed = 2 + GAP + STATE;
        let mut columns = Self {
            name: 0,
            kind: 0,
            state: STATE,
            since: 0,
            next: 0,
        };
        let mut left = room.saturating_sub(fixed);
        let mut take = |column: &mut usize, wanted: usize, keep: usize| {
            if left >= wanted + GAP + keep {
                *column = wanted;
                left -= wanted + GAP;
            }
        };
        // Names come first; then what is short, then types, which want much room.
        take(&mut columns.since, SINCE, 10);
        take(&mut columns.next, NEXT, 16);
        let (name, kind) = (widest.0.max(9), widest.1.max(4));
        if left >= 16 + GAP + 12 {
            let fair = (left - GAP) / 2;
            columns.kind = kind.min(fair.max(left.saturating_sub(GAP + name)));
            left -= columns.kind + GAP;
        }
        columns.name = name.min(left);
        columns
    }

    fn row(&self, cells: Cells<'_>) -> Line<'static> {
        let mut spans = vec![
            Span::styled(cells.mood.sign(), cells.mood.style()),
            Span::raw(" "),
            Span::styled(filled(cells.name, self.name), cells.style),
        ];
        let gap = " ".repeat(GAP);
        let columns = [
            (filled(cells.kind, self.kind), cells.style),
            (
                filled(cells.state, self.state),
                cells.mood.style().patch(cells.style),
            ),
            (right(cells.since, self.since), cells.style),
            (cut(cells.next, self.next), cells.style),
        ];
        for (text, style) in columns.into_iter().filter(|(text, _)| !text.is_empty()) {
            spans.push(Span::raw(gap.clone()));
            spans.push(Span::styled(text, style));
        }
        Line::from(spans)
    }
}

struct Cells<'a> {
    mood: Mood,
    name: &'a str,
    kind: &'a str,
    state: &'a str,
    since: &'a str,
    next: &'a str,
    style: Style,
}

fn components(components: &[Component], room: usize) -> Vec<Line<'static>> {
    if components.is_empty() {
        return vec![Line::default(), Line::raw(cut("no components", room))];
    }
    let kind = |one: &Component| one.kind.clone().unwrap_or_default();
    let names = components.iter().flat_map(|one| {
        let topics = one.subscriptions.iter().map(|one| 2 + width(&one.topic));
        topics.chain([width(&one.name)])
    });
    let widest = (
        names.max().unwrap_or(0),
        components
            .iter()
            .map(|one| width(&kind(one)))
            .max()
            .unwrap_or(0),
    );
    let columns = Columns::within(room, widest);
    let mut lines = vec![
        Line::default(),
        columns.row(Cells {
            mood: Mood::Unknown,
            name: "COMPONENT",
            kind: "TYPE",
            state: "STATE",
            since: "SINCE",
            next: "NEXT TRY",
            style: FAINT,
        }),
    ];
    for one in components {
        lines.push(columns.row(Cells {
            mood: Mood::of_component(&one.state),
            name: &one.name,
            kind: &kind(one),
            state: &one.state,
            since: &one.since_ms.map(ms).unwrap_or_default(),
            next: &one.next_retry_ms.map(soon).unwrap_or_default(),
            style: Style::new(),
        }));
        lines.extend(trouble(one, room));
        if let Some(revision) = &one.pending_revision {
            let state = revision.state.as_deref().unwrap_or("pending");
            let message = revision.message.as_deref().unwrap_or_default();
            let text = format!("changed resource {state}: {message}");
            lines.push(indented(DETAIL, text.trim_end_matches([' ', ':']), room));
        }
        for one in &one.subscriptions {
            lines.extend(subscription(one, columns, room));
        }
    }
    lines
}

fn soon(left: u64) -> String {
    match left {
        0 => "now".to_owned(),
        left => format!("in {}", ms(left)),
    }
}

/// Why a component is not ready, and what is known besides: on one line if that is enough.
fn trouble(one: &Component, room: usize) -> Vec<Line<'static>> {
    if one.state == "ready" {
        return Vec::new();
    }
    let mut facts = Vec::new();
    facts.extend(one.class.clone());
    let attempt = one.attempt.filter(|attempt| *attempt > 1);
    facts.extend(attempt.map(|attempt| format!("attempt {attempt}")));
    facts.extend(one.last_ok_ms.map(|ago| format!("last ok {} ago", ms(ago))));
    if one.optional {
        facts.push("optional".to_owned());
    }
    let facts = facts.join(", ");
    let message = one.message.clone().unwrap_or_default();
    let both = format!("{facts}: {message}");
    let texts = if facts.is_empty() || message.is_empty() {
        vec![facts + &message]
    } else if DETAIL + width(&both) <= room {
        vec![both]
    } else {
        vec![facts, message]
    };
    texts
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| indented(DETAIL, text, room))
        .collect()
}

fn subscription(one: &Subscription, columns: Columns, room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![columns.row(Cells {
        mood: Mood::of_subscription(&one.state),
        name: &format!("> {}", one.topic),
        kind: if columns.kind > 0 { "topic" } else { "" },
        state: &one.state,
        since: &one.since_ms.map(ms).unwrap_or_default(),
        next: "",
        style: Style::new(),
    })];
    if let Some(error) = &one.error {
        let attempt = one.attempt.filter(|attempt| *attempt > 1);
        let attempt = attempt.map_or_else(String::new, |attempt| format!("attempt {attempt}: "));
        lines.push(indented(DETAIL + 2, &format!("{attempt}{error}"), room));
    }
    lines
}

fn breakers(breakers: &[Breaker], room: usize) -> Vec<Line<'static>> {
    if breakers.is_empty() {
        return Vec::new();
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let widest = |of: &dyn Fn(&Breaker) -> String| {
        let widths = breakers.iter().map(|one| width(&of(one)));
        widths.max().unwrap_or(0)
    };
    let columns = Columns::within(
        room,
        (
            widest(&|one| text(&one.target)).max("BREAKER OF".len()),
            widest(&|one| text(&one.name)),
        ),
    );
    let mut lines = vec![
        Line::default(),
        columns.row(Cells {
            mood: Mood::Unknown,
            name: "BREAKER OF",
            kind: "NAME",
            state: "STATE",
            since: "SINCE",
            next: "NEXT PROBE",
            style: FAINT,
        }),
    ];
    for one in breakers {
        lines.push(columns.row(Cells {
            mood: Mood::of_breaker(&one.state),
            name: &text(&one.target),
            kind: &text(&one.name),
            state: &one.state,
            since: &one.for_ms.map(ms).unwrap_or_default(),
            next: &one.next_probe_ms.map(soon).unwrap_or_default(),
            style: Style::new(),
        }));
        lines.extend(
            one.last_error
                .as_ref()
                .map(|error| indented(DETAIL, error, room)),
        );
    }
    lines
}

fn indented(indent: usize, text: &str, room: usize) -> Line<'static> {
    let indent = indent.min(room);
    let text = shortened(text, room - indent);
    Line::raw(" ".repeat(indent) + &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_rates_are_not_none() {
        for (rate, text) in [
            (0.0, "0"),
            (0.01, "<0.1"),
            (0.44, "0.4"),
            (4.0, "4"),
            (9.94, "9.9"),
            (9.96, "10"),
            (1234.5, "1234"),
        ] {
            assert_eq!(per_second(rate), text);
        }
    }
}
