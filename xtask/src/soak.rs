//! The soak's command line.
//!
//! Owns: what users may say, the choice of a seed, the building of the binary and of the program that does the work.
//! Never: starts a server or a sidecar; `tests/soak` does. Start at [`command`].

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

use crate::cargo;
use crate::progress;
use crate::words::Words;

/// By which the soak learns which binary it is about.
const BINARY: &str = "OUTRIGGER_E2E_BINARY";

pub(crate) fn command(mut words: Words) -> Result<()> {
    let seed = words.value("--seed")?;
    let seed: u32 = match seed {
        Some(seed) => seed,
        // Short, because people type it again.
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos() % 1_000_000,
    };
    let release = words.flag("--release");
    let binary = words.file("--binary")?;
    let mut work = vec![format!("seed={seed}")];
    if words.flag("--rolling") {
        work.insert(0, "rolling".to_owned());
        let messages: u32 = words.value("--messages")?.unwrap_or(1000);
        let replicas: u32 = words.value("--replicas")?.unwrap_or(10);
        work.extend([
            format!("messages={messages}"),
            format!("replicas={replicas}"),
        ]);
    } else {
        work.insert(0, "soak".to_owned());
        let minutes: f64 = words.value("--minutes")?.unwrap_or(30.0);
        ensure!(
            (0.1..=10_000.0).contains(&minutes),
            "`--minutes` is between 0.1 and 10000"
        );
        let rate: u32 = words.value("--rate")?.unwrap_or(60);
        let out: Option<PathBuf> = words.value("--out")?;
        let out = match out {
            Some(out) => std::path::absolute(out)?,
            None => cargo::target_folder()?.join(format!("soak/seed-{seed}.json")),
        };
        work.extend([
            format!("seconds={:.0}", minutes * 60.0),
            format!("rate={rate}"),
            format!("out={}", out.display()),
        ]);
    }
    words.finish()?;

    // One after the other: built together they would get each other's features, and the binary would be another.
    if binary.is_none() {
        cargo::build("outrigger", release)?;
    }
    cargo::build("outrigger-soak", release)?;
    let folder = cargo::target_folder()?.join(if release { "release" } else { "debug" });
    let binary = binary.unwrap_or_else(|| folder.join("outrigger"));
    progress(&format!("seed {seed}"));
    let status = Command::new(folder.join("outrigger-soak"))
        .args(work)
        .env(BINARY, binary)
        .status()?;
    ensure!(
        status.success(),
        "not all was well; `--seed {seed}` gives the same faults again"
    );
    Ok(())
}
