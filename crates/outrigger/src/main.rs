//! The binary: one name, several commands.
//!
//! Owns: the command line's first word, the allocator, the runtime's threads, the exit code.
//! Never: knows what a sidecar does; that is `outrigger-sidecar`.
//! Start at [`main`]. Called `daprd`, it is a sidecar whatever its arguments are.

mod catalog;
mod check;
mod client;
mod drain;
mod history;
mod print;
mod resiliency;
mod run;
mod sidecar;
mod status;
mod top;
mod wait;
mod words;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A command line that cannot be followed.
const SYNTAX: u8 = 2;

const HELP: &str = "\
Outrigger, a drop-in replacement for Dapr's sidecar

Usage:
  outrigger sidecar --app-id ID [flags]        run a sidecar, with daprd's flags (also when called `daprd`)
  outrigger run [flags] -- COMMAND [ARGS...]   run a sidecar and an app as one unit
  outrigger check PATH... [--config FILE]      read resources offline and say everything that is wrong with them
  outrigger resiliency validate [PATH]...      say offline what is wrong or doubtful in Resiliency resources
  outrigger resiliency explain KIND NAME       say which policies apply to a target, why, and what they add up to

  outrigger wait [--for TARGET,...]            wait until a sidecar is ready, or a part of it
  outrigger status                             show what a running sidecar does, and how its components are
  outrigger top [--port N]...                  the same for one or several sidecars, live
  outrigger history [--since 24h]              show what was away, how long and why
  outrigger drain [--wait]                     let a sidecar finish what is in hand, without ending it

  outrigger version                            print the versions

Each command but the last says more with `--help`.
";

fn main() -> ExitCode {
    let began = Instant::now();
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let arguments = match texts(words) {
        Ok(arguments) => arguments,
        Err(why) => {
            print::error(&why);
            return ExitCode::from(SYNTAX);
        }
    };
    ExitCode::from(command(&name, &arguments, began))
}

fn command(name: &OsString, arguments: &[String], began: Instant) -> u8 {
    if Path::new(name)
        .file_stem()
        .is_some_and(|stem| stem == "daprd")
    {
        return sidecar::command(arguments, began);
    }
    match arguments.split_first() {
        Some((word, rest)) => match word.as_str() {
            "sidecar" => sidecar::command(rest, began),
            "run" => run::command(rest, began),
            run::BECOME_APP => run::become_app(rest),
            "check" => check::command(rest),
            "resiliency" => resiliency::command(rest),
            "wait" => wait::command(rest),
            "status" => status::command(rest),
            "top" => top::command(rest),
            "history" => history::command(rest),
            "drain" => drain::command(rest),
            "version" | "--version" | "-v" => {
                print::out(&sidecar::versions_text());
                0
            }
            "help" | "--help" | "-h" => {
                print::out(HELP);
                0
            }
            other => {
                print::error(&format!("unknown command `{other}`"));
                print::err(&format!("\n{HELP}"));
                SYNTAX
            }
        },
        None => {
            print::err(HELP);
            SYNTAX
        }
    }
}

fn texts(words: impl Iterator<Item = OsString>) -> Result<Vec<String>, String> {
    words
        .map(|word| {
            word.into_string()
                .map_err(|word| format!("argument {word:?} is no UTF-8"))
        })
        .collect()
}
