//! What is told, for people and for machines.

use std::fmt::Write as _;

use outrigger_config::diagnostic::{Diagnostic, Place};
use outrigger_core::json::Value;

use super::facts::Fact;
use super::scenario::Scenario;
use super::target::{Section, Told};
use super::worst::{End, Sum};
use super::{Asked, Known};
use crate::resiliency::found::{self, members, number};

/// Where the second column begins.
const COLUMN: usize = 18;

pub(super) fn text(known: &Known, asked: &Asked, told: &Told) -> String {
    let mut text = String::new();
    let read = match known.paths.as_slice() {
        [] => "no files: there is neither ./resources nor ./components".to_owned(),
        paths => format!("files in {}", paths.join(", ")),
    };
    writeln!(
        text,
        "App `{}`, namespace `{}`, {read}",
        asked.app_id, known.own_namespace
    )
    .ok();
    for note in told.notes.iter().chain(&known.notes) {
        writeln!(text, "note: {}", plain(note)).ok();
    }
    for section in &told.sections {
        self::section(&mut text, section);
    }
    text
}

fn section(text: &mut String, section: &Section) {
    writeln!(text, "\n{}", plain(&section.title)).ok();
    row(text, "covers", [section.meant.clone()]);
    let place = section.place.as_ref().map(located);
    row(
        text,
        "target",
        [Some(section.entry.clone()), place].into_iter().flatten(),
    );
    for fact in &section.facts {
        self::fact(text, fact, section.place.as_ref());
    }
    let label = match section.keys.len() {
        1 => "breaker's key",
        _ => "breakers' keys",
    };
    if !section.keys.is_empty() {
        row(text, label, section.keys.iter().cloned());
    }
    text.push_str("\n  What it adds up to\n");
    let width = section
        .scenarios
        .iter()
        .map(|one| one.label.chars().count())
        .max();
    for one in &section.scenarios {
        let mut label = one.label;
        for line in one.lines() {
            writeln!(text, "    {label:<0$}  {line}", width.unwrap_or_default()).ok();
            label = "";
        }
    }
    if let Some(pushback) = &section.pushback {
        writeln!(text, "    {pushback}").ok();
    }
    if !section.warnings.is_empty() {
        text.push('\n');
    }
    for one in &section.warnings {
        warning(text, one);
    }
}

fn row(text: &mut String, label: &str, lines: impl IntoIterator<Item = String>) {
    let mut label = label;
    for line in lines {
        writeln!(text, "  {label:<COLUMN$}{}", plain(&line)).ok();
        label = "";
    }
}

/// `entry` is told already.
fn fact(text: &mut String, fact: &Fact, entry: Option<&Place>) {
    let first = match (&fact.name, &fact.value) {
        (Some(name), Some(value)) => format!("{name}: {value}"),
        (None, Some(value)) => value.clone(),
        (Some(name), None) => format!("none ({name})"),
        (None, None) => "none".to_owned(),
    };
    let mut why = fact.why.clone();
    let place = fact.place.as_ref().filter(|place| Some(*place) != entry);
    if let (Some(place), Some(resource)) = (place, &fact.resource) {
        why.push_str(&format!(" (resource {resource}, {})", located(place)));
    }
    row(text, fact.label, [first, why]);
}

/// Names may hold anything; a line stays one.
fn plain(line: &str) -> String {
    let escaped = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    line.chars().map(escaped).collect()
}

fn located(place: &Place) -> String {
    format!("{}:{}", place.file, place.line)
}

fn warning(text: &mut String, told: &Diagnostic) {
    writeln!(
        text,
        "  {}[{}]: {}",
        told.severity.name(),
        told.code,
        told.message
    )
    .ok();
    if !told.place.file.is_empty() {
        writeln!(text, "    --> {}", told.place).ok();
    }
    if let Some(help) = &told.help {
        writeln!(text, "    help: {help}").ok();
    }
}

pub(super) fn json(known: &Known, asked: &Asked, told: &Told) -> String {
    let notes = told.notes.iter().chain(&known.notes).map(String::as_str);
    let value = members([
        ("appId", Some(Value::string(asked.app_id.as_str()))),
        (
            "namespace",
            Some(Value::string(known.own_namespace.as_str())),
        ),
        ("target", Some(Value::string(asked.subject.name()))),
        ("name", Some(Value::string(asked.name.as_str()))),
        ("notes", Some(found::texts(notes))),
        (
            "uses",
            Some(Value::Array(
                told.sections.iter().map(section_json).collect(),
            )),
        ),
    ]);
    found::line(&value)
}

fn section_json(section: &Section) -> Value {
    let kinds = section.kinds.iter().map(|kind| kind.keyword());
    let mut value = vec![
        ("title".to_owned(), Value::string(section.title.as_str())),
        ("direction".to_owned(), Value::string(section.flow.name())),
        ("kinds".to_owned(), found::texts(kinds)),
        ("entry".to_owned(), Value::string(section.entry.as_str())),
    ];
    if let Some(place) = &section.place {
        value.push(("file".to_owned(), Value::string(&*place.file)));
        value.push(("line".to_owned(), number(place.line)));
    }
    let facts = section
        .facts
        .iter()
        .map(|fact| (fact.key.to_owned(), fact_json(fact)));
    value.push(("policies".to_owned(), Value::Object(facts.collect())));
    value.push((
        "breakers".to_owned(),
        found::texts(section.keys.iter().map(String::as_str)),
    ));
    let cases = section.scenarios.iter().map(scenario_json);
    value.push(("worstCase".to_owned(), Value::Array(cases.collect())));
    if let Some(pushback) = &section.pushback {
        value.push(("pushback".to_owned(), Value::string(pushback.as_str())));
    }
    let warnings = section.warnings.iter().map(found::finding);
    value.push(("warnings".to_owned(), Value::Array(warnings.collect())));
    Value::Object(value)
}

fn fact_json(fact: &Fact) -> Value {
    let text = |text: &Option<String>| text.as_deref().map(Value::string);
    let place = fact.place.as_ref();
    members([
        ("name", text(&fact.name)),
        ("value", Some(text(&fact.value).unwrap_or(Value::Null))),
        ("why", Some(Value::string(fact.why.as_str()))),
        ("resource", text(&fact.resource)),
        ("file", place.map(|place| Value::string(&*place.file))),
        ("line", place.map(|place| number(place.line))),
    ])
}

fn scenario_json(scenario: &Scenario) -> Value {
    let [shortest, longest] = match scenario.range {
        Some([shortest, longest]) => [Some(sum_json(&shortest)), Some(sum_json(&longest))],
        None => [None, None],
    };
    members([
        ("case", Some(Value::string(scenario.key))),
        ("label", Some(Value::string(scenario.label))),
        ("usual", Some(sum_json(&scenario.usual))),
        ("shortestPauses", shortest),
        ("longestPauses", longest),
        (
            "withClosedBreaker",
            scenario.rejected.as_ref().map(sum_json),
        ),
    ])
}

/// Without an end, there are no numbers.
fn sum_json(sum: &Sum) -> Value {
    let ends = matches!(sum.end, End::Answer | End::Rejected);
    let end = match sum.end {
        End::Answer => "answer",
        End::Rejected => "rejected",
        End::Endless => "endless",
        End::Stuck => "stuck",
    };
    let seconds = (sum.time.as_secs_f64() * 1e6).round() / 1e6;
    members([
        ("end", Some(Value::string(end))),
        ("attempts", ends.then(|| number(sum.calls))),
        ("seconds", ends.then(|| number(seconds))),
    ])
}
