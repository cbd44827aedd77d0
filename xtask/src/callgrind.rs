//! Instructions per request, which repeat on a noisy machine where seconds do not.
//!
//! Owns: the command `callgrind`, the figures kept in `xtask/instructions.txt`, what counts as worse.
//! Never: measures time. Counts are taken by difference: one run with few requests, one with many, so that the start and
//! the end of the process cancel out.
//! Start at [`command`].

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo;
use crate::load::{Amount, Job, Protocol};
use crate::scene::{Call, Names, Scene};
use crate::sidecar::{Sidecar, Subject};
use crate::words::Words;

const FEW: u64 = 200;
const MANY: u64 = 10_200;
/// Per cent by which a figure may grow. Counts of one binary differ by less: what is left of its start, and of timers.
const TOLERANCE: f64 = 3.0;
/// How long a sidecar under valgrind may take to end.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Which of two sidecars is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Calling,
    Called,
}

/// Under which policies calls are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policies {
    None,
    /// A time-out, a retry and a breaker for whatever is called.
    All,
}

const CALLS: [(&str, Call, Side, Policies); 8] = [
    ("state-get", Call::StateGet, Side::Calling, Policies::None),
    ("state-set", Call::StateSet, Side::Calling, Policies::None),
    ("publish", Call::Publish, Side::Calling, Policies::None),
    ("invoke-calling", HTTP, Side::Calling, Policies::None),
    ("invoke-called", HTTP, Side::Called, Policies::None),
    (
        "state-get-policies",
        Call::StateGet,
        Side::Calling,
        Policies::All,
    ),
    (
        "publish-policies",
        Call::Publish,
        Side::Calling,
        Policies::All,
    ),
    (
        "invoke-calling-policies",
        HTTP,
        Side::Calling,
        Policies::All,
    ),
];
const HTTP: Call = Call::Invoke(Protocol::Http);

const HEADER: &str = "\
# Instructions per request of the release binary, one worker thread, one connection, 1 KB bodies.
# Written by `cargo xtask callgrind --update`. They depend on the compiler as well: update after changing it.
";

type Figures = BTreeMap<String, u64>;

pub(crate) fn command(mut words: Words) -> Result<()> {
    let update = words.flag("--update");
    let binary = words.file("--binary")?;
    words.finish()?;
    require_valgrind()?;
    let binary = match binary {
        Some(path) => path,
        None => cargo::build_release()?,
    };
    let now = count_all(&binary)?;
    let path = cargo::root().join("xtask/instructions.txt");
    if update {
        std::fs::write(&path, to_text(&now))?;
        return crate::say(&to_text(&now));
    }
    let text = std::fs::read_to_string(&path);
    let text = text
        .with_context(|| format!("no figures in `{}`; `--update` writes them", path.display()))?;
    let comparison = Comparison::new(&from_text(&text)?, &now);
    crate::say(&comparison.text)?;
    ensure!(
        comparison.worse.is_empty(),
        "worse than before: {}",
        comparison.worse.join(", ")
    );
    Ok(())
}

fn require_valgrind() -> Result<()> {
    match Command::new("valgrind").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!(
            "valgrind is missing: `apt-get install valgrind`, `dnf install valgrind` or `pacman -S valgrind`"
        ),
    }
}

fn count_all(binary: &Path) -> Result<Figures> {
    let mut figures = Figures::new();
    for (name, call, side, policies) in CALLS {
        crate::progress(&format!("counting {name}"));
        let few = count(binary, call, side, policies, FEW)?;
        let many = count(binary, call, side, policies, MANY)?;
        let difference = many
            .checked_sub(few)
            .context("many requests took less than few")?;
        figures.insert(name.to_owned(), difference / (MANY - FEW));
    }
    Ok(figures)
}

/// The instructions of a sidecar that starts, answers `requests` and ends.
fn count(binary: &Path, call: Call, side: Side, policies: Policies, requests: u64) -> Result<u64> {
    let scene = Scene::new("callgrind", Names::Mdns)?;
    if policies == Policies::All {
        scene.add_policies()?;
    }
    let file = scene.path().join("callgrind.out");
    let counted = under_valgrind(binary, &file);
    match call {
        Call::Invoke(protocol) => {
            let app = scene.echo(protocol)?;
            let other = Subject::outrigger(binary);
            let (calling, called) = match side {
                Side::Calling => scene.pair(&counted, &other, &app)?,
                Side::Called => scene.pair(&other, &counted, &app)?,
            };
            load(&scene, call, &calling, requests)?;
            let counted = if side == Side::Calling {
                calling
            } else {
                called
            };
            counted.process.end(END_LIMIT)?;
        }
        _ => {
            let mut sidecar = scene.sidecar(&counted)?;
            sidecar.wait()?;
            scene.load(&scene.job(Call::StateSet, &sidecar))?;
            load(&scene, call, &sidecar, requests)?;
            sidecar.process.end(END_LIMIT)?;
        }
    }
    total(&std::fs::read_to_string(&file).context("callgrind wrote nothing")?)
}

fn under_valgrind(binary: &Path, file: &Path) -> Subject {
    let words = vec![
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", file.display()),
        binary.display().to_string(),
        "sidecar".to_owned(),
        "--worker-threads=1".to_owned(),
    ];
    Subject {
        name: "valgrind".to_owned(),
        program: "valgrind".into(),
        words,
    }
}

fn load(scene: &Scene, call: Call, sidecar: &Sidecar, requests: u64) -> Result<()> {
    let amount = Amount::Requests(requests);
    let job = scene.job(call, sidecar);
    scene.load(&Job { amount, ..job }).map(|_| ())
}

/// The count in callgrind's file.
fn total(text: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| {
        line.strip_prefix("totals:")
            .or_else(|| line.strip_prefix("summary:"))
    });
    Ok(line
        .context("callgrind's file has no total")?
        .trim()
        .parse()?)
}

struct Comparison {
    text: String,
    worse: Vec<String>,
}

impl Comparison {
    fn new(before: &Figures, now: &Figures) -> Self {
        let mut comparison = Comparison {
            text: String::new(),
            worse: Vec::new(),
        };
        for (name, &now) in now {
            match before.get(name) {
                Some(&before) => comparison.add(name, before, now),
                None => comparison
                    .text
                    .push_str(&format!("{name:16} {now:>10}  new; `--update` keeps it\n")),
            }
        }
        comparison
    }

    fn add(&mut self, name: &str, before: u64, now: u64) {
        let change = (now as f64 / before as f64 - 1.0) * 100.0;
        let verdict = if change > TOLERANCE {
            self.worse.push(name.to_owned());
            "WORSE"
        } else if change < -TOLERANCE {
            "better; `--update` keeps it"
        } else {
            "as before"
        };
        self.text.push_str(&format!(
            "{name:16} {now:>10} {change:>+7.2} %  {verdict}\n"
        ));
    }
}

fn to_text(figures: &Figures) -> String {
    let lines = figures
        .iter()
        .map(|(name, count)| format!("{name} {count}\n"));
    format!("{HEADER}{}", lines.collect::<String>())
}

fn from_text(text: &str) -> Result<Figures> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, count) = line
                .split_once(' ')
                .with_context(|| format!("`{line}` has no count"))?;
            Ok((name.to_owned(), count.trim().parse()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(count: u64) -> Figures {
        Figures::from([("state-get".to_owned(), count)])
    }

    #[test]
    fn figures_survive_their_file() {
        assert_eq!(from_text(&to_text(&figures(7))).unwrap(), figures(7));
        assert!(from_text("state-get").is_err());
    }

    #[test]
    fn more_than_the_tolerance_is_worse() {
        assert_eq!(
            Comparison::new(&figures(1000), &figures(1040)).worse,
            ["state-get"]
        );
        assert!(
            Comparison::new(&figures(1000), &figures(1020))
                .worse
                .is_empty()
        );
        assert!(
            Comparison::new(&figures(1000), &figures(500))
                .text
                .contains("better")
        );
        assert!(
            Comparison::new(&Figures::new(), &figures(500))
                .text
                .contains("new")
        );
    }

    #[test]
    fn the_total_is_found() {
        assert_eq!(total("events: Ir\nsummary: 12\nfn=x\n1 12\n").unwrap(), 12);
        assert_eq!(total("events: Ir\ntotals: 34\n").unwrap(), 34);
        assert!(total("events: Ir\n").is_err());
    }
}
