//! One frame: what is known, put onto a screen of a given size.
//!
//! Owns: the parts of the screen and who gives way where it is small.
//! Never: reads a clock, a terminal or an answer; the same readings make the same frame.
//! Start at [`draw`]. The lines about one sidecar come from [`view`]; golden screens are in `tests/golden`.

use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::keys::{Extent, View};
use super::watch::Watched;
use crate::client::text::{cut, duration, filled, right, width};
use crate::status::view::{self, BOLD, FAINT, Mood, clipped};

const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);
const RED: Style = Style::new().fg(Color::Red);

const KEYS: [(&str, &str); 7] = [
    ("q, Esc, Ctrl-C", "end"),
    ("Tab, Shift-Tab", "the next sidecar, the one before"),
    ("Right, Left", "the same; so do l and h"),
    ("Down, Up", "scroll by a line; so do j and k"),
    ("PgDn, PgUp", "scroll by a page; so does Space"),
    ("Home, End", "to the top, to the bottom; so do g and G"),
    ("?", "this help, and back; so does Esc"),
];

const SIGNS: [(&str, &str); 4] = [
    ("+", "works"),
    ("~", "on its way, or off on purpose"),
    ("x", "away; it is tried again"),
    ("!", "wrong; somebody must put it right"),
];

/// How a frame is to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Look {
    pub(super) has_color: bool,
    pub(super) interval: Duration,
}

/// Draws everything; how much there is to scroll.
pub(super) fn draw(
    buffer: &mut Buffer,
    readings: &[Watched],
    keys: &View,
    look: Look,
    now: Instant,
) -> Extent {
    let area = buffer.area;
    let room = usize::from(area.width);
    let mut sheet = Sheet { buffer, area };
    let (title, mut rest) = split(area, 1);
    sheet.lines(title, &[self::title(readings, look, room)]);
    if readings.len() > 1 && !keys.shows_help {
        let all = overview(readings, Some(keys.selected), room, now);
        // A third of the screen at most, but always the selected one.
        let most = (usize::from(rest.height) / 3).max(2);
        let (part, below) = split(rest, all.len().min(most));
        sheet.lines(part, &around(all, keys.selected, usize::from(part.height)));
        rest = split(below, usize::from(below.height > 8)).1;
    }
    let footer = usize::from(rest.height > 3);
    let (body, foot) = split(rest, usize::from(rest.height) - footer);
    let lines = match readings.get(keys.selected) {
        _ if keys.shows_help => help(room),
        Some(reading) => detail(reading, room, now),
        None => Vec::new(),
    };
    let extent = Extent {
        lines: lines.len(),
        page: usize::from(body.height),
    };
    let most = extent.lines.saturating_sub(extent.page);
    let scrolled = match keys.shows_help {
        true => 0,
        false => keys.scrolled.min(most),
    };
    sheet.lines(body, lines.get(scrolled..).unwrap_or_default());
    sheet.lines(foot, &[self::foot(extent, scrolled, readings.len(), room)]);
    if !look.has_color {
        for cell in &mut sheet.buffer.content {
            cell.fg = Color::Reset;
            cell.bg = Color::Reset;
        }
    }
    extent
}

/// The same for an output that is written once and scrolls by itself.
pub(super) fn once(readings: &[Watched], room: usize, now: Instant) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    if readings.len() > 1 {
        lines.extend(overview(readings, None, room, now));
    }
    for reading in readings {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.extend(detail(reading, room, now));
    }
    lines
}

/// The upper lines of an area, and the others.
fn split(area: Rect, height: usize) -> (Rect, Rect) {
    let height = u16::try_from(height).unwrap_or(u16::MAX).min(area.height);
    let upper = Rect { height, ..area };
    let lower = Rect {
        y: area.y.saturating_add(height),
        height: area.height - height,
        ..area
    };
    (upper, lower)
}

/// What is drawn on. Nothing is written beyond its area.
struct Sheet<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
}

impl Sheet<'_> {
    fn lines(&mut self, area: Rect, lines: &[Line<'_>]) {
        let area = area.intersection(self.area);
        for (y, line) in (area.y..area.bottom()).zip(lines) {
            self.buffer.set_line(area.x, y, line, area.width);
        }
    }
}

fn title(readings: &[Watched], look: Look, room: usize) -> Line<'static> {
    const KEYS: &str = "? help  q quit ";
    let what = match readings {
        [one] => one.at.clone(),
        many => format!("{} sidecars", many.len()),
    };
    let left = format!(
        " outrigger top   {what}   every {}",
        duration(look.interval)
    );
    let space = room.saturating_sub(width(KEYS) + 2);
    let text = if width(&left) <= space {
        filled(&left, room - width(KEYS)) + KEYS
    } else {
        filled(&left, room)
    };
    Line::styled(text, REVERSED)
}

fn foot(extent: Extent, scrolled: usize, sidecars: usize, room: usize) -> Line<'static> {
    let mut parts = Vec::new();
    if extent.lines > extent.page {
        parts.push(format!(
            "lines {} to {} of {}",
            scrolled + 1,
            (scrolled + extent.page).min(extent.lines),
            extent.lines
        ));
        parts.push("j k scroll".to_owned());
    }
    if sidecars > 1 {
        parts.push("Tab next sidecar".to_owned());
    }
    Line::styled(cut(&parts.join("   "), room), FAINT)
}

/// The head of a list and the part of it that a line is in.
fn around(mut all: Vec<Line<'static>>, selected: usize, height: usize) -> Vec<Line<'static>> {
    if all.len() <= height || all.is_empty() {
        return all;
    }
    let rows = all.split_off(1);
    let most = height.saturating_sub(1);
    let first = (selected + 1).saturating_sub(most);
    all.extend(rows.into_iter().skip(first).take(most));
    all
}

/// A column of the overview.
struct Column {
    head: &'static str,
    width: usize,
    is_number: bool,
    /// The least important one is left out first.
    weight: usize,
}

const COLUMNS: [Column; 6] = [
    column("PHASE", "waiting_app".len(), false, 6),
    column("GATE", "wait_health".len(), false, 4),
    column("READY", 5, true, 5),
    column("IN HAND", 7, true, 3),
    column("HTTP/S", 6, true, 2),
    column("GRPC/S", 6, true, 1),
];

const fn column(head: &'static str, width: usize, is_number: bool, weight: usize) -> Column {
    Column {
        head,
        width,
        is_number,
        weight,
    }
}

const GAP: usize = 2;

/// One line for each sidecar, below a head.
fn overview(
    readings: &[Watched],
    selected: Option<usize>,
    room: usize,
    now: Instant,
) -> Vec<Line<'static>> {
    const SIGNS: usize = 4;
    let widest = |of: &dyn Fn(&Watched) -> usize| readings.iter().map(of).max().unwrap_or(0);
    let mut name = widest(&|one| one.name().map_or(0, width)).clamp("SIDECAR".len(), 30);
    let mut at = widest(&|one| width(&one.at)).min(30);
    let mut shown: Vec<&Column> = COLUMNS.iter().collect();
    let taken = |shown: &[&Column]| -> usize {
        SIGNS + shown.iter().map(|one| GAP + one.width).sum::<usize>()
    };
    // Two columns stay until the address has gone, too.
    while taken(&shown) + name + GAP + at > room && shown.len() > 2 {
        let least = shown.iter().map(|one| one.weight).min();
        shown.retain(|one| Some(one.weight) != least);
    }
    if taken(&shown) + name + GAP + at > room {
        // Those without a name are known by their address then.
        name = name.max(at);
        at = 0;
    }
    while taken(&shown) + name > room && !shown.is_empty() {
        let least = shown.iter().map(|one| one.weight).min();
        shown.retain(|one| Some(one.weight) != least);
    }
    name = name.min(room.saturating_sub(SIGNS));
    let begin = |signs: String, text: &str, place: &str| {
        let mut begin = signs + &filled(text, name);
        if at > 0 {
            begin.push_str(&" ".repeat(GAP));
            begin.push_str(&filled(place, at));
        }
        begin
    };
    let cell = |one: &Column, text: &str| {
        let cell = match one.is_number {
            true => right(text, one.width),
            false => filled(text, one.width),
        };
        " ".repeat(GAP) + &cell
    };
    let mut head = begin(" ".repeat(SIGNS), "SIDECAR", "AT");
    for one in &shown {
        head.push_str(&cell(one, one.head));
    }
    let mut lines = vec![Line::styled(head, FAINT)];
    for (number, reading) in readings.iter().enumerate() {
        let is_selected = selected == Some(number);
        let mood = reading.mood();
        let mark = if is_selected { ">" } else { " " };
        let style = if is_selected { BOLD } else { Style::new() };
        let signs = format!("{mark} {} ", mood.sign());
        let unknown = if at > 0 { "" } else { reading.at.as_str() };
        let name = reading.name().unwrap_or(unknown);
        let mut spans = vec![Span::styled(begin(signs, name, &reading.at), style)];
        if let Some((time, why)) = reading.trouble(now) {
            let used: usize = spans.iter().map(Span::width).sum();
            let text = format!("  unreachable for {}: {why}", duration(time));
            spans.push(Span::styled(cut(&text, room.saturating_sub(used)), RED));
        } else {
            for one in &shown {
                let (text, mood) = fact(reading, one.head);
                spans.push(Span::styled(cell(one, &text), mood.style().patch(style)));
            }
        }
        lines.push(Line::from(spans));
    }
    lines.into_iter().map(|line| clipped(line, room)).collect()
}

/// What stands in a column of the overview.
fn fact(reading: &Watched, column: &str) -> (String, Mood) {
    let plain = |text: String| (text, Mood::Unknown);
    let Some(status) = &reading.last else {
        return plain(match column {
            "PHASE" => "asking".to_owned(),
            _ => String::new(),
        });
    };
    let rate = |name: &str| {
        let rate = reading.rates.as_ref().and_then(|rates| rates.of(name));
        plain(rate.map(view::per_second).unwrap_or_default())
    };
    match column {
        "PHASE" => (status.phase.clone(), Mood::of_phase(&status.phase)),
        "GATE" => {
            let gate = status.gate.clone().unwrap_or_default();
            let mood = Mood::of_gate(&gate);
            (gate, mood)
        }
        "READY" => match reading.ready() {
            Some((ready, all)) if ready < all => (format!("{ready}/{all}"), Mood::Bad),
            Some((ready, all)) => plain(format!("{ready}/{all}")),
            None => plain(String::new()),
        },
        "IN HAND" => {
            let counts = status.inflight.iter().map(|(_, count)| *count);
            plain(counts.fold(0, u64::saturating_add).to_string())
        }
        "HTTP/S" => rate("http"),
        "GRPC/S" => rate("grpc"),
        _ => plain(String::new()),
    }
}

/// Everything about one sidecar.
fn detail(reading: &Watched, room: usize, now: Instant) -> Vec<Line<'static>> {
    let known = reading
        .last
        .as_ref()
        .map(|status| view::lines(status, reading.rates.as_ref(), room));
    match (reading.trouble(now), known) {
        (None, Some(lines)) => lines,
        (None, None) => vec![Line::raw(cut(&format!("asking {}", reading.at), room))],
        (Some((time, why)), known) => {
            let text = format!(
                "{} is unreachable for {}: {why}",
                reading.at,
                duration(time)
            );
            let mut lines = vec![Line::styled(cut(&text, room), RED)];
            if let Some(known) = known {
                lines.push(Line::raw(cut("Below is what it said last.", room)));
                lines.push(Line::default());
                let faint = |line: Line<'static>| line.patch_style(FAINT);
                lines.extend(known.into_iter().map(faint));
            }
            lines
        }
    }
}

fn help(room: usize) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled("Keys", BOLD)];
    let row = |(what, meaning): &(&str, &str), space: usize| {
        Line::raw(cut(&format!("  {}{meaning}", filled(what, space)), room))
    };
    lines.extend(KEYS.iter().map(|one| row(one, 17)));
    lines.push(Line::default());
    lines.push(Line::styled("Signs", BOLD));
    lines.extend(SIGNS.iter().map(|one| row(one, 4)));
    lines
}

#[cfg(test)]
mod tests;
