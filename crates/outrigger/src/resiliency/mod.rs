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

/// What stands on a command line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    /// Without dashes.
    plain: Vec<String>,
    flags: Vec<(String, String)>,
    json: bool,
    help: bool,
}

impl Words {
    /// `known`: the flags that have a value.
    fn read(arguments: &[String], known: &[&str]) -> Result<Self, String> {
        let mut read = Self::default();
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                read.plain.extend(words.by_ref().cloned());
                break;
            }
            let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
                read.plain.push(word.clone());
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match (name, &given) {
                ("help" | "h", None) => read.help = true,
                ("json", None) => read.json = true,
                _ if known.contains(&name) => {
                    let value = given
                        .or_else(|| words.next().cloned())
                        .ok_or_else(|| format!("flag needs an argument: --{name}"))?;
                    read.flags.push((name.to_owned(), value));
                }
                _ => return Err(format!("unknown flag: --{name}")),
            }
        }
        Ok(read)
    }

    /// Of a flag that is given twice, the last value.
    fn last(&self, name: &str) -> Option<&str> {
        let mut flags = self.flags.iter().rev();
        flags.find_map(|(flag, value)| (flag == name).then_some(value.as_str()))
    }

    /// The folders and files of flags.
    fn paths(&self) -> Vec<String> {
        let is_path = |flag: &str| matches!(flag, "resources-path" | "components-path");
        self.flags
            .iter()
            .filter(|(flag, _)| is_path(flag))
            .map(|(_, path)| path.clone())
            .collect()
    }
}

/// `paths`, or the folder that `outrigger run` takes where none is given; empty where there is none either.
fn or_default(paths: Vec<String>) -> Vec<String> {
    if paths.is_empty() {
        default_folder().map(str::to_owned).into_iter().collect()
    } else {
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_and_flags_may_be_mixed() {
        let read = Words::read(
            &words("app --app-id=a b -app-id c --json -- --odd"),
            &["app-id"],
        )
        .unwrap();
        assert_eq!(read.plain, ["app", "b", "--odd"]);
        assert_eq!(read.last("app-id"), Some("c"));
        assert!(read.json && !read.help);
        assert_eq!(
            Words::read(&words("--app-id"), &["app-id"]),
            Err("flag needs an argument: --app-id".to_owned())
        );
        assert_eq!(
            Words::read(&words("--jsn"), &["app-id"]),
            Err("unknown flag: --jsn".to_owned())
        );
    }
}
