//! `outrigger history`: what was away, how long, why, and how it came back.
//!
//! Owns: the command line, what is asked for, which part of it is wanted.
//! Never: computes an outage; who keeps the history does. With `--state-dir` its files are read here, as the sidecar would:
//! also when it is gone.
//! Start at [`command`]. The text is made in [`show`], from the same object as `--format json` prints.

mod show;

use std::path::Path;
use std::time::{Duration, SystemTime};

use outrigger_core::duration::format_go;
use outrigger_core::json::Value;
use outrigger_telemetry::history::{Reader, report};

use crate::client::{self, Failure, Sidecar, flags_help, line};
use crate::print;
use crate::words::{Environment, Words, follow};

/// For reading a file of a day, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(8);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Changes that are asked for.
const LIMIT: usize = 500;

const KINDS: [&str; 7] = [
    "process",
    "phase",
    "gate",
    "component",
    "subscription",
    "breaker",
    "drain",
];
const FORMATS: [&str; 2] = ["text", "json"];

const HELP: &str = concat!(
    "\
Usage: outrigger history [--since DURATION] [--component NAME] [--kind KIND] [--changes] [--format FORMAT] [--port NUMBER]
       outrigger history --state-dir FOLDER [--app-id ID] [...]

Shows what a sidecar remembers: outages with their begin, length and reason and the calls that were refused meanwhile,
and how long components took to come back. Times are UTC. The sidecar must run with --state-dir; the history of one that
is gone is read from that folder.

  --since DURATION   how far back (default 24h)
  --component NAME   only this component, with its subscriptions
  --kind KIND        only process, phase, gate, component, subscription, breaker or drain
  --changes          every change too, line by line, the last 500
  --format FORMAT    text or json (default text)
  --state-dir FOLDER read the files of a sidecar, which need not run
  --app-id ID        whose, where the folder holds those of several
",
    flags_help!(),
    "
The exit code is 0, 1 when the sidecar keeps no history or refuses, 2 for a wrong command line, 3 when no sidecar answers.
"
);

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String]) -> u8 {
    follow(
        asked(arguments, &client::environment),
        HELP,
        |asked| match asked.read() {
            Ok(history) => {
                let history = asked.part.of(history);
                print::out(&if asked.is_json {
                    line(&history)
                } else {
                    show::text(&history, asked.shows_changes, LIMIT)
                });
                0
            }
            Err(failure) => failure.told(),
        },
    )
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    source: Source,
    since: Duration,
    part: Part,
    shows_changes: bool,
    is_json: bool,
}

/// Where the history is.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Sidecar(Sidecar),
    Folder {
        path: String,
        app_id: Option<String>,
    },
}

/// Which part of the history is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Part {
    component: Option<String>,
    kind: Option<String>,
}

fn asked(arguments: &[String], environment: Environment<'_>) -> Result<Option<Asked>, String> {
    let valued: Vec<&str> = [
        "since",
        "component",
        "kind",
        "format",
        "state-dir",
        "app-id",
    ]
    .into_iter()
    .chain(client::FLAGS)
    .collect();
    let words = Words::read(arguments, &valued, &["changes"])?;
    if words.help {
        return Ok(None);
    }
    words.no_plain()?;
    let component = words.last("component").map(str::to_owned);
    if component.as_ref().is_some_and(String::is_empty) {
        return Err("--component: the name is empty".to_owned());
    }
    let format = words.choice("format", &FORMATS)?;
    let app_id = words.last("app-id").map(str::to_owned);
    let source = match words.last("state-dir") {
        Some("") => return Err("--state-dir: the folder's name is empty".to_owned()),
        Some(path) => Source::Folder {
            path: path.to_owned(),
            app_id,
        },
        None if app_id.is_some() => return Err("--app-id: only with --state-dir".to_owned()),
        None => Source::Sidecar(Sidecar::named(&words, environment)?),
    };
    Ok(Some(Asked {
        source,
        since: words.duration("since")?.unwrap_or(DAY),
        part: Part {
            component,
            kind: words.choice("kind", &KINDS)?,
        },
        shows_changes: words.has("changes"),
        is_json: format.as_deref() == Some("json"),
    }))
}

impl Asked {
    fn read(&self) -> Result<Value, Failure> {
        match &self.source {
            Source::Sidecar(sidecar) => ask(sidecar, self.since),
            Source::Folder { path, app_id } => {
                read_files(Path::new(path), app_id.as_deref(), self.since).map_err(Failure::Answer)
            }
        }
    }
}

fn read_files(folder: &Path, app_id: Option<&str>, since: Duration) -> Result<Value, String> {
    let name = folder.display();
    let all = Reader::all(folder).map_err(|error| format!("cannot read {name}: {error}"))?;
    let known: Vec<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
    let known = known.join(", ");
    let (id, reader) = match (app_id, all.as_slice()) {
        (_, []) => return Err(format!("{name} holds no history")),
        (Some(wanted), all) => all.iter().find(|(id, _)| id == wanted).ok_or_else(|| {
            format!("{name} holds no history of {wanted}; it holds those of {known}")
        })?,
        (None, [only]) => only,
        (None, _) => {
            return Err(format!(
                "{name} holds several histories, choose one with --app-id: {known}"
            ));
        }
    };
    let changes = reader
        .changes()
        .map_err(|error| format!("cannot read {}: {error}", reader.path().display()))?;
    let now = SystemTime::now();
    Ok(report(changes, now.checked_sub(since)).value(id, now, LIMIT))
}

fn ask(sidecar: &Sidecar, since: Duration) -> Result<Value, Failure> {
    let since = format_go(since);
    let path = format!("/outrigger/v1/history?since={since}&limit={LIMIT}");
    let answer = sidecar.get(&path, PATIENCE)?;
    if answer.status == 404 && answer.error_code().as_deref() == Some("ERR_HISTORY_OFF") {
        return Err(Failure::Answer(format!(
            "the sidecar at {sidecar} says: {}",
            answer.message()
        )));
    }
    let history = answer.expected(sidecar)?;
    let is_list = |name| {
        history
            .get(name)
            .is_some_and(|list| list.as_array().is_some())
    };
    if is_list("outages") && is_list("changes") {
        Ok(history)
    } else {
        Err(Failure::Answer(format!(
            "what listens at {sidecar} answers with something that is no history"
        )))
    }
}

impl Part {
    fn of(&self, history: Value) -> Value {
        let Value::Object(mut members) = history else {
            return history;
        };
        for (name, value) in &mut members {
            let Value::Array(list) = value else { continue };
            match name.as_str() {
                "changes" | "outages" => list.retain(|one| self.has(one)),
                "recovery" => list.retain(|one| self.has_recovery(one)),
                _ => {}
            }
        }
        Value::Object(members)
    }

    /// Subscriptions are told as `component/topic`.
    fn has(&self, one: &Value) -> bool {
        let text = |name| one.get(name).and_then(Value::as_str);
        let is_kind = |kind: &String| text("kind") == Some(kind);
        let is_of = |name: &String| {
            let rest = text("subject").and_then(|subject| subject.strip_prefix(name.as_str()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.kind.as_ref().is_none_or(is_kind) && self.component.as_ref().is_none_or(is_of)
    }

    fn has_recovery(&self, one: &Value) -> bool {
        let name = one.get("component").and_then(Value::as_str);
        let is_it = |wanted: &String| name == Some(wanted);
        self.kind.as_ref().is_none_or(|kind| kind == "component")
            && self.component.as_ref().is_none_or(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::json::parse_all;

    fn read(line: &str) -> Result<Option<Asked>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        asked(&arguments, &|_| None)
    }

    #[test]
    fn flags_say_which_part_is_wanted() {
        let asked = read("--since 1h --component a --kind gate --changes --format json");
        let asked = asked.unwrap().unwrap();
        assert_eq!(asked.since, Duration::from_secs(3_600));
        assert!(asked.shows_changes && asked.is_json);
        assert_eq!(read("").unwrap().unwrap().since, DAY);
        let source = read("--state-dir /var/lib/o --app-id a")
            .unwrap()
            .unwrap()
            .source;
        let path = "/var/lib/o".to_owned();
        let app_id = Some("a".to_owned());
        assert_eq!(source, Source::Folder { path, app_id });
        assert!(read("--app-id a").is_err());
        for (line, why) in [
            (
                "--kind gates",
                "--kind: `gates` is not known; known are process, phase, gate, component, subscription, breaker, drain",
            ),
            (
                "--since -1h",
                "--since: `-1h` is no duration above zero and up to a year, such as 10s",
            ),
            ("--component=", "--component: the name is empty"),
            (
                "--format yaml",
                "--format: `yaml` is not known; known are text, json",
            ),
        ] {
            assert_eq!(read(line), Err(why.to_owned()));
        }
    }

    #[test]
    fn a_component_has_its_subscriptions_but_not_its_namesakes() {
        let history = parse_all(
            br#"{"appId":"a","changes":[
                {"kind":"component","subject":"bus"},{"kind":"subscription","subject":"bus/new"},
                {"kind":"component","subject":"bus2"},{"kind":"phase"}],
              "outages":[{"kind":"gate"}],
              "recovery":[{"component":"bus"},{"component":"bus2"}]}"#,
        )
        .unwrap();
        let part = |component: Option<&str>, kind: Option<&str>| {
            let part = Part {
                component: component.map(str::to_owned),
                kind: kind.map(str::to_owned),
            };
            let part = part.of(history.clone());
            let count = |name| part.get(name).unwrap().as_array().unwrap().len();
            [count("changes"), count("outages"), count("recovery")]
        };
        assert_eq!(part(None, None), [4, 1, 2]);
        assert_eq!(part(Some("bus"), None), [2, 0, 1]);
        assert_eq!(part(Some("bus"), Some("subscription")), [1, 0, 0]);
        assert_eq!(part(None, Some("component")), [2, 0, 2]);
        assert_eq!(part(None, Some("gate")), [0, 1, 0]);
    }
}
