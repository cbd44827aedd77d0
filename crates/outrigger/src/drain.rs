//! `outrigger drain`: a sidecar finishes what is in hand and takes nothing new in, without ending.

use std::time::Duration;

use outrigger_core::duration::format_go;
use outrigger_core::json::Value;

use crate::client::{self, Answer, Failure, PATIENCE, Sidecar, flags_help, text};
use crate::print;
use crate::words::{Environment, Words, follow};

const PATH: &str = "/outrigger/v1/drain";
const TIMEOUT: Duration = Duration::from_secs(25);
/// Beyond the time that the sidecar gets: it answers when that is over.
const MARGIN: Duration = Duration::from_secs(10);

const HELP: &str = concat!(
    "\
Usage: outrigger drain [--wait] [--timeout DURATION] [--port NUMBER]
       outrigger drain --resume [--port NUMBER]

Tells a sidecar to take nothing new in and to finish what is in hand. It does not end, and goes on serving the app's own
calls. A drain that has begun is joined.

  --wait             until it is drained
  --timeout DURATION how long to wait for that (default 25s); the drain goes on when it is over
  --resume           end the drain, take work in again
",
    flags_help!(),
    "
The exit code is 0 when it is drained, without --wait when it has begun to, and when it has resumed; 1 when the time is
over, with what is still in hand, and when the sidecar refuses; 2 for a wrong command line; 3 when no sidecar answers.
"
);

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String]) -> u8 {
    follow(asked(arguments, &client::environment), HELP, |asked| {
        ask(&asked).unwrap_or_else(|failure| failure.told())
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    sidecar: Sidecar,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Begin { timeout: Option<Duration> },
    Wait { timeout: Duration },
    Resume,
}

fn asked(arguments: &[String], environment: Environment<'_>) -> Result<Option<Asked>, String> {
    let valued: Vec<&str> = std::iter::once("timeout").chain(client::FLAGS).collect();
    let words = Words::read(arguments, &valued, &["wait", "resume"])?;
    if words.help {
        return Ok(None);
    }
    words.no_plain()?;
    words.not_both("resume", "wait")?;
    words.not_both("resume", "timeout")?;
    let timeout = words.duration("timeout")?;
    let what = if words.has("resume") {
        What::Resume
    } else if words.has("wait") {
        What::Wait {
            timeout: timeout.unwrap_or(TIMEOUT),
        }
    } else {
        What::Begin { timeout }
    };
    Ok(Some(Asked {
        sidecar: Sidecar::named(&words, environment)?,
        what,
    }))
}

fn ask(asked: &Asked) -> Result<u8, Failure> {
    let sidecar = &asked.sidecar;
    match asked.what {
        What::Begin { timeout } => {
            let timeout = timeout.map_or_else(String::new, |timeout| {
                format!("&timeout={}", format_go(timeout))
            });
            let path = format!("{PATH}?wait=false{timeout}");
            let answer = sidecar.call("POST", &path, PATIENCE)?;
            let report = Report::of(&answer, &[200, 202], sidecar)?;
            print::out(&match report.is_drained {
                true => format!("{sidecar} is drained\n"),
                false => format!("{sidecar} drains; in hand: {}\n", report.in_hand()),
            });
            Ok(0)
        }
        What::Wait { timeout } => {
            let path = format!("{PATH}?wait=true&timeout={}", format_go(timeout));
            let answer = sidecar.call("POST", &path, timeout + MARGIN)?;
            let report = Report::of(&answer, &[200, 504], sidecar)?;
            if answer.status == 200 && report.is_drained {
                let took = report.took.map(|took| format!(" after {}", text::ms(took)));
                let took = took.unwrap_or_default();
                print::out(&format!("{sidecar} is drained{took}\n"));
                return Ok(0);
            }
            print::error(&format!(
                "{sidecar} is not drained after {}; in hand: {}; the drain goes on",
                text::duration(timeout),
                report.in_hand()
            ));
            Ok(1)
        }
        What::Resume => {
            let answer = sidecar.call("DELETE", PATH, PATIENCE)?;
            let report = Report::of(&answer, &[200], sidecar)?;
            let phase = report.phase.map(|phase| format!("; its phase is {phase}"));
            let phase = phase.unwrap_or_default();
            print::out(&format!("{sidecar} has resumed{phase}\n"));
            Ok(0)
        }
    }
}

/// What every answer of this call holds.
struct Report {
    phase: Option<String>,
    is_drained: bool,
    inflight: Vec<(String, u64)>,
    /// The app says that it is.
    is_busy: bool,
    took: Option<u64>,
}

impl Report {
    fn of(answer: &Answer, expected: &[u16], sidecar: &Sidecar) -> Result<Self, Failure> {
        let object = answer.object();
        let read = object.as_ref().and_then(Self::read);
        match read {
            Some(report) if expected.contains(&answer.status) => Ok(report),
            _ => Err(answer.failure(sidecar)),
        }
    }

    fn read(object: &Value) -> Option<Self> {
        Some(Self {
            phase: object.get("phase").and_then(Value::as_str).map(text::clean),
            is_drained: object.get("drained")?.as_bool()?,
            inflight: client::counts(object.get("inflight")),
            is_busy: object.get("busy").and_then(Value::as_bool) == Some(true),
            took: object.get("durationMs").and_then(client::number),
        })
    }

    fn in_hand(&self) -> String {
        let counts = text::counts(&self.inflight);
        if self.is_busy {
            counts + ", and the app says that it is busy"
        } else {
            counts
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<What>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Ok(asked(&arguments, &|_| None)?.map(|asked| asked.what))
    }

    #[test]
    fn flags_say_what_is_wanted() {
        let minute = Duration::from_secs(60);
        assert_eq!(read(""), Ok(Some(What::Begin { timeout: None })));
        assert_eq!(read("--wait"), Ok(Some(What::Wait { timeout: TIMEOUT })));
        assert_eq!(
            read("--wait --timeout=1m"),
            Ok(Some(What::Wait { timeout: minute }))
        );
        assert_eq!(
            read("--timeout 1m"),
            Ok(Some(What::Begin {
                timeout: Some(minute)
            }))
        );
        assert_eq!(read("--resume"), Ok(Some(What::Resume)));
        assert_eq!(
            read("--resume --wait"),
            Err("--resume and --wait exclude each other".to_owned())
        );
        assert_eq!(
            read("--wait --timeout -1s"),
            Err(
                "--timeout: `-1s` is no duration above zero and up to a year, such as 10s"
                    .to_owned()
            )
        );
        assert_eq!(
            read("--wiat"),
            Err("unknown flag: --wiat; did you mean `--wait`?".to_owned())
        );
    }
}
