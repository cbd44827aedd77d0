//! Until a sidecar is ready: `outrigger wait`, and `--wait` of daprd's command line.
//!
//! Owns: how often is asked, what an answer means, what is said when the time is over.
//! Never: decides what is ready; that is the sidecar's.
//! Start at [`command`].

use std::time::{Duration, Instant};

use outrigger_core::json::Value;

use crate::client::{self, Answer, Failure, PATIENCE, Sidecar, escaped, flags_help, text};
use crate::words::{Environment, Words, follow};
use crate::{SYNTAX, print};

const EVERY: Duration = Duration::from_millis(100);
/// Of daprd's `--wait`, for one answer.
const SHORT: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(60);

const HELP: &str = concat!(
    "\
Usage: outrigger wait [--for TARGET,...] [--timeout DURATION] [--port NUMBER]

Waits until a sidecar is ready, or a named part of it is. Asks ten times a second, also while there is no sidecar yet.

TARGET is one of
  outbound                    calls to the sidecar are served; this is the default
  app                         the app gets work
  component:NAME              the component serves
  subscription:PUBSUB/TOPIC   the app gets the messages of a topic

  --for TARGET,...   everything that must be ready; may be repeated
  --timeout DURATION how long to wait (default 60s)
",
    flags_help!(),
    "
The exit code is 0 when everything is ready, 1 when the time is over, with what is missing and why, 2 for a wrong command
line or a target that the sidecar does not know.
"
);

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String]) -> u8 {
    follow(asked(arguments, &client::environment), HELP, |asked| {
        until_ready(&asked)
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    sidecar: Sidecar,
    targets: String,
    timeout: Duration,
}

fn asked(arguments: &[String], environment: Environment<'_>) -> Result<Option<Asked>, String> {
    let valued: Vec<&str> = ["for", "timeout"]
        .into_iter()
        .chain(client::FLAGS)
        .collect();
    let words = Words::read(arguments, &valued, &[])?;
    if words.help {
        return Ok(None);
    }
    words.no_plain()?;
    let targets: Vec<&str> = words
        .all(&["for"])
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .collect();
    if targets.iter().any(|target| target.is_empty()) {
        return Err("--for: a target is empty".to_owned());
    }
    let targets = if targets.is_empty() {
        "outbound".to_owned()
    } else {
        targets.join(",")
    };
    Ok(Some(Asked {
        sidecar: Sidecar::named(&words, environment)?,
        targets,
        timeout: words.duration("timeout")?.unwrap_or(TIMEOUT),
    }))
}

/// What one answer means.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Ready,
    /// The sidecar says so, of these targets.
    Missing(Vec<String>),
    /// It is asked for what does not exist.
    Unknown(String),
    /// Nobody who knows was there to ask.
    Nobody(String),
    /// No answer came in the time there was.
    Late(String),
}

fn judge(answer: Result<Answer, Failure>, sidecar: &Sidecar) -> Told {
    let answer = match answer {
        Ok(answer) => answer,
        Err(Failure::Late(why)) => return Told::Late(why),
        Err(failure) => return Told::Nobody(failure.text().to_owned()),
    };
    let code = answer.error_code().unwrap_or_default();
    match answer.status {
        204 => Told::Ready,
        400 if code.starts_with("ERR_HEALTH_") => Told::Unknown(answer.message()),
        500 if code == "ERR_HEALTH_NOT_READY" => Told::Missing(missing(&answer.message())),
        _ => Told::Nobody(answer.failure(sidecar).text().to_owned()),
    }
}

/// `dapr is not ready: [app component:orders]`. Without a list, the whole text.
fn missing(message: &str) -> Vec<String> {
    let list = message.split_once('[').map(|(_, rest)| rest);
    match list.and_then(|rest| rest.rsplit_once(']')) {
        Some((list, _)) => list.split_whitespace().map(str::to_owned).collect(),
        None => vec![message.to_owned()],
    }
}

fn until_ready(asked: &Asked) -> u8 {
    let sidecar = &asked.sidecar;
    let path = format!("/v1.0/healthz?for={}", escaped(&asked.targets));
    let deadline = Instant::now() + asked.timeout;
    let mut last = None;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match judge(sidecar.get(&path, left.min(PATIENCE)), sidecar) {
            Told::Ready => return 0,
            Told::Unknown(why) => {
                print::error(&why);
                return SYNTAX;
            }
            // The deadline cut the question short: what was known before says more.
            Told::Late(_) if left < PATIENCE && last.is_some() => {}
            told => last = Some(told),
        }
        std::thread::park_timeout(EVERY.min(deadline.saturating_duration_since(Instant::now())));
    }
    let waited = text::duration(asked.timeout);
    match last {
        Some(Told::Missing(targets)) => {
            let health = sidecar.get("/v1.0/healthz/components", SHORT);
            let health = health.ok().and_then(|answer| answer.object());
            print::error(&format!("{sidecar} is not ready after {waited}"));
            print::err(&reasons(&targets, health.as_ref()));
        }
        Some(Told::Nobody(why) | Told::Late(why)) => {
            print::error(&format!("gave up after {waited}: {why}"))
        }
        _ => print::error(&format!("gave up after {waited}")),
    }
    1
}

/// One line for each target that is not ready.
fn reasons(targets: &[String], health: Option<&Value>) -> String {
    let why = |target: &String| health.and_then(|health| reason(target, health));
    let rows: Vec<[String; 2]> = targets
        .iter()
        .map(|target| [target.clone(), why(target).unwrap_or_default()])
        .collect();
    let all = text::table(["", ""], [false, false], &rows);
    // There is no head.
    all.split_once('\n')
        .map_or(String::new(), |(_, rows)| rows.to_owned())
}

/// Why one is not ready, by what the sidecar tells of all components.
fn reason(target: &str, health: &Value) -> Option<String> {
    let text = |value: &Value, name: &str| value.get(name)?.as_str().map(text::clean);
    let component = |name: &str| {
        let all = health.get("componentsHealth")?.as_array()?;
        all.iter()
            .find(|one| one.get("componentName").and_then(Value::as_str) == Some(name))
    };
    let of_component = |value: &Value| {
        let state = text(value, "state").or_else(|| text(value, "errorCode"))?;
        Some(match (text(value, "class"), text(value, "message")) {
            (Some(class), Some(message)) => format!("{state}, {class}: {message}"),
            (None, Some(message)) => format!("{state}: {message}"),
            (Some(class), None) => format!("{state}, {class}"),
            (None, None) => state,
        })
    };
    match target.split_once(':') {
        None if target == "outbound" => Some(format!("the phase is {}", text(health, "phase")?)),
        None if target == "app" => Some(format!("the app's gate is {}", text(health, "gate")?)),
        Some(("component", name)) => of_component(component(name)?),
        Some(("subscription", names)) => {
            let (pubsub, topic) = names.split_once('/')?;
            let component = component(pubsub)?;
            if text(component, "state").is_some_and(|state| state != "ready") {
                return Some(format!("{pubsub} is {}", of_component(component)?));
            }
            let all = component.get("subscriptions")?.as_array()?;
            let one = all
                .iter()
                .find(|one| one.get("topic").and_then(Value::as_str) == Some(topic))?;
            let state = text(one, "state")?;
            Some(match text(one, "error") {
                Some(error) => format!("{state}: {error}"),
                None => state,
            })
        }
        _ => None,
    }
}

/// daprd's `--wait`: 0 when a sidecar on this machine serves calls, 1 when the time is over.
pub(crate) fn until_served(port: u16, timeout: Duration) -> u8 {
    let deadline = Instant::now() + timeout;
    let sidecar = Sidecar::local(port);
    loop {
        let why = match sidecar.get("/v1.0/healthz/outbound", SHORT) {
            Ok(answer) if answer.is_success() => return 0,
            Ok(answer) => format!("status {}", answer.status),
            Err(failure) => failure.text().to_owned(),
        };
        if Instant::now() + EVERY >= deadline {
            print::error(&format!(
                "no sidecar at {sidecar} serves calls after {} s: {why}",
                timeout.as_secs_f64()
            ));
            return 1;
        }
        std::thread::park_timeout(EVERY);
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
    fn targets_may_be_listed_and_repeated() {
        let targets = |line: &str| read(line).map(|asked| asked.unwrap().targets);
        assert_eq!(targets(""), Ok("outbound".to_owned()));
        assert_eq!(
            targets("--for outbound,app --for=component:a"),
            Ok("outbound,app,component:a".to_owned())
        );
        assert_eq!(
            targets("--for app,,outbound"),
            Err("--for: a target is empty".to_owned())
        );
        assert_eq!(
            targets("outbound"),
            Err("`outbound` is no flag, and nothing else is expected".to_owned())
        );
        assert_eq!(read("--help"), Ok(None));
    }

    #[test]
    fn reasons_are_found_for_every_kind_of_target() {
        let health = parse_all(
            br#"{"phase":"starting","gate":"wait_port","componentsHealth":[
                {"componentName":"orders","state":"unavailable","class":"TRANSIENT","message":"connection refused"},
                {"componentName":"bus","state":"ready","subscriptions":[{"topic":"a/b","state":"retrying","error":"no queue"}]}]}"#,
        )
        .unwrap();
        let targets = [
            "outbound",
            "app",
            "component:orders",
            "subscription:orders/new",
            "subscription:bus/a/b",
            "component:new",
        ]
        .map(str::to_owned);
        assert_eq!(
            reasons(&targets, Some(&health)),
            "  outbound                 the phase is starting
  app                      the app's gate is wait_port
  component:orders         unavailable, TRANSIENT: connection refused
  subscription:orders/new  orders is unavailable, TRANSIENT: connection refused
  subscription:bus/a/b     retrying: no queue
  component:new
"
        );
        assert_eq!(reasons(&targets[..1], None), "  outbound\n");
    }

    #[test]
    fn the_list_of_what_is_missing_is_read() {
        assert_eq!(
            missing("dapr is not ready: [app component:a]"),
            ["app", "component:a"]
        );
        assert_eq!(missing("odd"), ["odd"]);
    }
}
