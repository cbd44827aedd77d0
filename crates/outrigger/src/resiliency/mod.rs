//! `outrigger resiliency`: what policies say and do, without a sidecar or a network.
//!
//! Owns: both commands, their arguments, which files they read.
//! Never: decides which policy applies; that is `outrigger_resiliency::Book`, which a running sidecar asks too.
//! Start at [`command`]. Tests: in the modules, and in `tests/` with the finished binary.

mod explain;
mod files;
mod found;
mod validate;

use crate::run::default_folder;
use crate::words::Words;
use crate::{SYNTAX, print};

const HELP: &str = "\
Usage:
  outrigger resiliency validate [PATH]... [flags]                        say everything that is wrong or doubtful
  outrigger resiliency explain --app-id ID KIND NAME [flags]             say which policies apply to a target, and why

Both read Resiliency resources offline: no sidecar, network, environment variable or secret is needed.
`outrigger resiliency validate --help` and `outrigger resiliency explain --help` say more.
";

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String]) -> u8 {
    match arguments.split_first() {
        Some((word, rest)) => match word.as_str() {
            "validate" => ended(validate::command(rest)),
            "explain" => ended(explain::command(rest)),
            "help" | "--help" | "-help" | "-h" => {
                print::out(HELP);
                0
            }
            other => ended(Err(Wrong::Words(
                format!("unknown command `resiliency {other}`"),
                HELP,
            ))),
        },
        None => {
            print::err(HELP);
            SYNTAX
        }
    }
}

/// Why a command could not do its work.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    /// The command line cannot be followed; with what would be right.
    Words(String, &'static str),
    /// Something cannot be read.
    Files(String),
}

fn ended(result: Result<u8, Wrong>) -> u8 {
    match result {
        Ok(code) => code,
        Err(Wrong::Files(why)) => {
            print::error(&why);
            1
        }
        Err(Wrong::Words(why, help)) => {
            print::error(&why);
            print::err(&format!("\n{help}"));
            SYNTAX
        }
    }
}

/// The switch of both commands.
const JSON: &str = "json";

/// The folders and files that flags name.
fn named_paths(words: &Words) -> Vec<String> {
    let both = ["resources-path", "components-path"];
    words.all(&both).map(str::to_owned).collect()
}

/// `paths`, or the folder that `outrigger run` takes where none is given; empty where there is none either.
fn or_default(paths: Vec<String>) -> Vec<String> {
    if paths.is_empty() {
        default_folder().map(str::to_owned).into_iter().collect()
    } else {
        paths
    }
}
