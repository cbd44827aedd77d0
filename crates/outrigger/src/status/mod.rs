//! `outrigger status`: what a running sidecar does, on one screen.
//!
//! Start at [`command`]. What is told is read in [`model`], put into words in [`view`] and coloured in [`paint`];
//! `outrigger top` shows the same, live.

pub(crate) mod model;
pub(crate) mod paint;
pub(crate) mod view;

use std::time::Duration;

use outrigger_core::json::Value;

use crate::client::{self, Failure, PATIENCE, Sidecar, flags_help, line};
use crate::print;
use crate::words::{Environment, Words, follow};
use model::Status;

const HELP: &str = concat!(
    "\
Usage: outrigger status [--format FORMAT] [--port NUMBER]

Shows the phase of a sidecar, the app's gate, what is in hand, every component with its state, its last error and the next
try, subscriptions and circuit breakers, and what was counted since its start. `outrigger top` shows the same, live.

  --format FORMAT    text or json (default text)
  --no-color         no colours; so does NO_COLOR in the environment, and output that is no terminal
",
    flags_help!(),
    "
The exit code is 0, 1 when the sidecar refuses, 2 for a wrong command line, 3 when no sidecar answers.
"
);

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String]) -> u8 {
    follow(
        asked(arguments, &client::environment),
        HELP,
        |asked| match read(&asked.sidecar, PATIENCE) {
            Ok((value, _)) if asked.is_json => {
                print::out(&line(&value));
                0
            }
            Ok((_, status)) => {
                let screen = paint::Screen::of_stdout(asked.has_color);
                print::out(&screen.text(&view::lines(&status, None, screen.width)));
                0
            }
            Err(failure) => failure.told(),
        },
    )
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    sidecar: Sidecar,
    is_json: bool,
    has_color: bool,
}

fn asked(arguments: &[String], environment: Environment<'_>) -> Result<Option<Asked>, String> {
    let valued: Vec<&str> = std::iter::once("format").chain(client::FLAGS).collect();
    let words = Words::read(arguments, &valued, &["no-color"])?;
    if words.help {
        return Ok(None);
    }
    words.no_plain()?;
    let format = words.choice("format", &["text", "json"])?;
    Ok(Some(Asked {
        sidecar: Sidecar::named(&words, environment)?,
        is_json: format.as_deref() == Some("json"),
        has_color: paint::has_color(&words, environment),
    }))
}

/// Asks a sidecar; what it said, and what that means.
pub(crate) fn read(sidecar: &Sidecar, limit: Duration) -> Result<(Value, Status), Failure> {
    let answer = sidecar.get("/outrigger/v1/status", limit)?;
    let value = answer.expected(sidecar)?;
    match Status::read(&value) {
        Some(status) => Ok((value, status)),
        None => Err(Failure::Answer(format!(
            "what listens at {sidecar} answers with something that is no status"
        ))),
    }
}
