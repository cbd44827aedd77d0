//! `outrigger top`: one or several sidecars, live.
//!
//! Owns: the command line, one thread for each sidecar that asks it again and again, the loop that draws.
//! Never: decides what a frame looks like, which is [`screen`]; or what a key means, which is [`keys`].
//! Start at [`command`]. The terminal is taken and given back in [`terminal`].

mod keys;
mod screen;
mod terminal;
mod watch;

use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::client::{self, Failure, PATIENCE, Sidecar};
use crate::print;
use crate::status::model::Status;
use crate::status::{self, paint};
use crate::words::{Environment, Words, follow};
use screen::Look;
use terminal::{Ended, Event, Terminal};
use watch::Watched;

const INTERVAL: Duration = Duration::from_secs(1);
const SHORTEST: Duration = Duration::from_millis(100);
const MOST: usize = 100;
/// How long a key, a signal or an answer waits to be noticed.
const NOTICE: Duration = Duration::from_millis(50);
/// How often is drawn although nothing has happened: times grow.
const REDRAW: Duration = Duration::from_secs(1);

const HELP: &str = "\
Usage: outrigger top [--port NUMBER]... [--url URL]... [--interval DURATION] [--once]

Shows one or several sidecars, live: phase, gate, what is in hand, every component with its state, its last error and the
next try, subscriptions, circuit breakers, a drain and its deadline, and what happens per second. A sidecar that does not
answer is shown as such, and comes back by itself.

  --port NUMBER       a sidecar's HTTP port; may be repeated; default: DAPR_HTTP_PORT, else 3500 (also: --dapr-http-port)
  --address HOST      where the ports are; default 127.0.0.1
  --url URL           a sidecar anywhere: http://HOST:PORT; may be repeated
  --interval DURATION how often each is asked (default 1s)
  --once              print once and end; so does output that is no terminal
  --no-color          no colours; so does NO_COLOR in the environment

Keys: q, Esc or Ctrl-C end, Tab selects the next sidecar, arrows or j and k scroll, ? shows all keys.

The exit code is 0, 1 when a sidecar refuses, 2 for a wrong command line, 3 when one does not answer; live, it is 0.
";

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String]) -> u8 {
    follow(asked(arguments, &client::environment), HELP, |asked| {
        if asked.is_once {
            return once(&asked);
        }
        let is_dumb = client::environment("TERM").is_some_and(|name| name == "dumb");
        if is_dumb || !std::io::stdout().is_terminal() {
            print::err(
                "note: this output cannot be written over, so it is printed once; --once says so\n",
            );
            return once(&asked);
        }
        live(&asked).unwrap_or_else(|why| {
            print::error(&why);
            1
        })
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Asked {
    sidecars: Vec<Sidecar>,
    interval: Duration,
    is_once: bool,
    has_color: bool,
}

fn asked(arguments: &[String], environment: Environment<'_>) -> Result<Option<Asked>, String> {
    let valued: Vec<&str> = std::iter::once("interval").chain(client::FLAGS).collect();
    let words = Words::read(arguments, &valued, &["once", "no-color"])?;
    if words.help {
        return Ok(None);
    }
    words.no_plain()?;
    let interval = words.duration("interval")?.unwrap_or(INTERVAL);
    if interval < SHORTEST {
        return Err("--interval: 100ms is the shortest".to_owned());
    }
    let sidecars = Sidecar::all(&words, environment)?;
    if sidecars.len() > MOST {
        return Err(format!("--port and --url name more than {MOST} sidecars"));
    }
    Ok(Some(Asked {
        sidecars,
        interval,
        is_once: words.has("once"),
        has_color: paint::has_color(&words, environment),
    }))
}

/// Asks each once, all at the same time.
fn once(asked: &Asked) -> u8 {
    let answers: Vec<Result<Status, Failure>> = std::thread::scope(|scope| {
        let asking: Vec<_> = asked
            .sidecars
            .iter()
            .map(|sidecar| scope.spawn(|| read(sidecar)))
            .collect();
        asking
            .into_iter()
            .filter_map(|one| one.join().ok())
            .collect()
    });
    if let [Err(failure)] = answers.as_slice() {
        return failure.told();
    }
    let codes = answers
        .iter()
        .map(|answer| answer.as_ref().err().map_or(0, Failure::code));
    let code = codes.max().unwrap_or(0);
    let now = Instant::now();
    let mut readings: Vec<Watched> = asked.sidecars.iter().map(Watched::new).collect();
    for (reading, answer) in readings.iter_mut().zip(answers) {
        reading.told(answer, now);
    }
    let screen = paint::Screen::of_stdout(asked.has_color);
    print::out(&screen.text(&screen::once(&readings, screen.width, now)));
    code
}

fn read(sidecar: &Sidecar) -> Result<Status, Failure> {
    status::read(sidecar, PATIENCE).map(|(_, status)| status)
}

type Told = (usize, Result<Status, Failure>);

/// Draws until somebody has seen enough.
fn live(asked: &Asked) -> Result<u8, String> {
    let mut terminal = Terminal::take()?;
    let (tell, told) = sync_channel(asked.sidecars.len());
    for (number, sidecar) in asked.sidecars.iter().enumerate() {
        watch(number, sidecar.clone(), asked.interval, tell.clone())?;
    }
    drop(tell);
    let ended = draw_on(&mut terminal, &told, asked);
    // What is told from here on must find the usual screen.
    drop(terminal);
    match ended? {
        Ended::ByKey => Ok(0),
        Ended::BySignal(signal) => Ok(128_u8.saturating_add(signal)),
        Ended::Broken => Ok(1),
    }
}

/// Asks one sidecar for as long as somebody listens.
fn watch(
    number: usize,
    sidecar: Sidecar,
    interval: Duration,
    tell: SyncSender<Told>,
) -> Result<(), String> {
    let thread = std::thread::Builder::new().name(format!("watch {number}"));
    let watching = move || {
        loop {
            let began = Instant::now();
            if tell.send((number, read(&sidecar))).is_err() {
                return;
            }
            let rest = interval.saturating_sub(began.elapsed());
            std::thread::park_timeout(rest.max(SHORTEST));
        }
    };
    match thread.spawn(watching) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot start a thread: {error}")),
    }
}

fn draw_on(terminal: &mut Terminal, told: &Receiver<Told>, asked: &Asked) -> Result<Ended, String> {
    let look = Look {
        has_color: asked.has_color,
        interval: asked.interval,
    };
    let mut readings: Vec<Watched> = asked.sidecars.iter().map(Watched::new).collect();
    let mut keys = keys::View::new(readings.len());
    let mut drawn: Option<Instant> = None;
    loop {
        for (number, answer) in told.try_iter() {
            if let Some(reading) = readings.get_mut(number) {
                reading.told(answer, Instant::now());
            }
            drawn = None;
        }
        if drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
            let now = Instant::now();
            terminal.draw(|buffer| {
                let extent = screen::draw(buffer, &readings, &keys, look, now);
                keys.fit(extent);
            })?;
            drawn = Some(now);
        }
        match terminal.wait(NOTICE)? {
            Some(Event::End(ended)) => return Ok(ended),
            Some(Event::Resized) => drawn = None,
            Some(Event::Key(key)) => {
                if keys.pressed(key) {
                    return Ok(Ended::ByKey);
                }
                drawn = None;
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Asked>, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        asked(&arguments, &|_| None)
    }

    #[test]
    fn several_sidecars_may_be_named_each_once() {
        let names = |line: &str| -> Vec<String> {
            let asked = read(line).unwrap().unwrap();
            asked.sidecars.iter().map(Sidecar::to_string).collect()
        };
        assert_eq!(names(""), ["127.0.0.1:3500"]);
        assert_eq!(
            names("--port 1 --url http://h:2 --dapr-http-port 3 --port 1"),
            ["127.0.0.1:1", "h:2", "127.0.0.1:3"]
        );
        assert_eq!(names("--address h --port 1 --port 2"), ["h:1", "h:2"]);
    }

    #[test]
    fn absurd_intervals_are_refused() {
        assert_eq!(
            read("--interval 5s").unwrap().unwrap().interval,
            Duration::from_secs(5)
        );
        for (line, why) in [
            ("--interval 1ms", "--interval: 100ms is the shortest"),
            (
                "--interval -1s",
                "--interval: `-1s` is no duration above zero and up to a year, such as 10s",
            ),
            (
                "--interval 9999999h",
                "--interval: `9999999h` is no duration above zero and up to a year, such as 10s",
            ),
            (
                "--interval 99999h",
                "--interval: `99999h` is too long; a year is the longest",
            ),
        ] {
            assert_eq!(read(line), Err(why.to_owned()));
        }
    }
}
