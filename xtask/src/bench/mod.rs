//! Speed and size, beside the bars that they must pass.
//!
//! Owns: the command `bench`, the order of the rounds.
//! Never: counts its own work: load generator, app and sidecars are processes of their own.
//! Start at [`command`]. One round is in [`round`], the figures are listed in [`figures`], the table is in [`table`].

mod figures;
mod round;
mod table;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cargo;
use crate::scene::Names;
use crate::sidecar::Subject;
use crate::words::Words;
use figures::Samples;

/// How long each part of a round takes.
struct Timing {
    warm: Duration,
    paced: Duration,
    flat: Duration,
    settle: Duration,
    starts: usize,
}

const THOROUGH: Timing = Timing {
    warm: Duration::from_millis(500),
    paced: Duration::from_secs(5),
    flat: Duration::from_secs(3),
    settle: Duration::from_secs(3),
    starts: 5,
};

const QUICK: Timing = Timing {
    warm: Duration::from_millis(300),
    paced: Duration::from_secs(2),
    flat: Duration::from_secs(1),
    settle: Duration::from_secs(1),
    starts: 3,
};

pub(crate) fn command(mut words: Words) -> Result<()> {
    let quick = words.flag("--quick");
    let runs = words.value("--runs")?.unwrap_or(if quick { 3 } else { 5 });
    let names = words.value("--names")?.unwrap_or(Names::Mdns);
    let against = words.file("--against")?;
    let binary = words.file("--binary")?;
    words.finish()?;
    ensure!(runs > 0, "no runs, no figures");
    let binary = match binary {
        Some(path) => path,
        None => cargo::build_release()?,
    };
    let mut subjects = vec![Subject::outrigger(&binary)];
    if let Some(path) = against {
        subjects.push(Subject::compatible(&path));
    }
    let timing = if quick { &QUICK } else { &THOROUGH };
    let samples = rounds(&subjects, runs, names, timing)?;
    crate::say(&table::text(&subjects, runs, &samples))
}

/// All rounds, the subjects in turns, so that whatever the machine does beside strikes them alike.
fn rounds(
    subjects: &[Subject],
    runs: usize,
    names: Names,
    timing: &Timing,
) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> = subjects.iter().map(|_| Samples::default()).collect();
    for run in 1..=runs {
        for (subject, samples) in subjects.iter().zip(&mut samples) {
            crate::progress(&format!("round {run} of {runs}: {}", subject.name));
            round::run(subject, names, timing, samples)?;
        }
    }
    Ok(samples)
}
