//! The repository's own commands, run as `cargo xtask NAME`.
//!
//! Owns: the bench ([`bench`]), the counting of instructions ([`callgrind`]), the start of the soak ([`soak`]), the rules of
//! the house ([`tidy`]).
//! Never: linked into the product, or linked to it. What is measured is the finished binary, seen from outside, with a
//! load generator ([`load`]) and an echo app ([`echo`]) that share no code with it.
//! Start at [`main`]. `load` and `echo` are commands too: the bench starts this program again for each.

mod bench;
mod callgrind;
mod cargo;
mod echo;
mod http1;
mod load;
mod process;
mod scene;
mod sidecar;
mod soak;
mod tidy;
mod words;

use std::io::Write;
use std::process::ExitCode;

use words::Words;

const HELP: &str = "\
Usage:
  cargo xtask bench [--against PATH] [--runs N] [--quick] [--binary PATH] [--names mdns|sqlite]
      speed and size of the release binary; with --against, of another daprd-compatible binary in turns
  cargo xtask callgrind [--update] [--binary PATH]
      instructions per request, compared with xtask/instructions.txt; --update writes that file
  cargo xtask soak [--minutes 30] [--seed N] [--rate 60] [--out FILE] [--release] [--binary PATH]
      messages, state and calls while sidecars, apps, brokers, stores and their links fail at random; whatever is lost,
      odd, dead or growing is told, and is a failure. The same seed gives the same faults
  cargo xtask soak --rolling [--messages 1000] [--replicas 10] [--seed N] [--release] [--binary PATH]
      messages of five seconds while a random replica is stopped every ten; each is done exactly once
  cargo xtask tidy
      the rules of the house: dependencies between crates, sources, file sizes
";

fn main() -> ExitCode {
    let mut words = Words::new(std::env::args().skip(1));
    let outcome = match words.next().as_deref() {
        Some("bench") => bench::command(words),
        Some("callgrind") => callgrind::command(words),
        Some("soak") => soak::command(words),
        Some("tidy") => tidy::command(words),
        Some("load") => load::command(words),
        Some("echo") => echo::command(words),
        None | Some("help" | "--help" | "-h") => say(HELP),
        Some(other) => Err(anyhow::anyhow!("unknown command `{other}`\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a result.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Tells whoever watches, apart from the result. A closed standard error is no reason to stop.
fn progress(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}
