//! From arguments to a command.

use outrigger_core::duration::parse_go;
use outrigger_core::nearest::nearest;
use outrigger_core::shown::shown;

use super::command::{Command, FlagFault, ParseError, Parsed};
use super::draft::Draft;
use super::go;
use super::help;

use super::table::{Accepted, FLAGS, Flag, Set};
use crate::Lookup;

/// Parses a command line, without the program's name in front. `environment` is asked for the variables of our own flags
/// and for those that daprd reads.
///
/// # Errors
/// Every flag and variable that cannot be used.
pub fn parse(arguments: &[String], environment: Lookup<'_>) -> Result<Parsed, ParseError> {
    let mut parser = Parser {
        draft: Draft::default(),
        faults: Vec::new(),
        warnings: Vec::new(),
        help: false,
    };
    for flag in FLAGS.iter().filter(|flag| !flag.default.is_empty()) {
        parser.apply(flag, flag.default, flag.name);
    }
    parser.variables(environment);
    parser.arguments(arguments);
    parser.finish(environment)
}

struct Parser {
    draft: Draft,
    faults: Vec<FlagFault>,
    warnings: Vec<String>,
    help: bool,
}

/// Why a value does not fit a flag.
enum Misfit {
    /// Not even of the right form.
    Syntax(&'static str),
    Value(&'static str),
}

impl Parser {
    /// A flag on the command line wins over its variable, so variables come first.
    fn variables(&mut self, environment: Lookup<'_>) {
        for flag in FLAGS {
            let Some(variable) = flag.variable() else {
                continue;
            };
            if let Some(value) = environment(&variable).filter(|value| !value.is_empty()) {
                self.draft.given.insert(flag.name);
                self.apply(flag, &value, &variable);
            }
        }
    }

    /// Dapr: pflag, with a single dash in front of a word taken as two. Arguments that are no flags are ignored.
    fn arguments(&mut self, arguments: &[String]) {
        let mut given_lists: Vec<&'static str> = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(dashed) = argument
                .strip_prefix('-')
                .filter(|dashed| !dashed.is_empty())
            else {
                continue;
            };
            if dashed == "-" {
                break;
            }
            let body = dashed.strip_prefix('-').unwrap_or(dashed);
            if !dashed.starts_with('-') && body.chars().count() == 1 {
                match body {
                    "h" => self.help = true,
                    _ => self.syntax(
                        argument,
                        format!("unknown flag: {argument}"),
                        nearest(body, names()),
                    ),
                }
                continue;
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            if name.is_empty() || name.starts_with('-') {
                self.syntax(argument, format!("bad flag syntax: {argument}"), None);
                continue;
            }
            let Some(flag) = FLAGS.iter().find(|flag| flag.name == name) else {
                match name {
                    "help" => self.help = true,
                    _ => self.syntax(
                        &format!("--{name}"),
                        format!("unknown flag: --{name}"),
                        nearest(name, names()),
                    ),
                }
                continue;
            };
            let value = match (value, flag.set) {
                (Some(value), _) => value,
                (None, Set::Switch(_)) => "true",
                (None, _) => match rest.next() {
                    Some(value) => value.as_str(),
                    None => {
                        self.syntax(
                            &format!("--{name}"),
                            format!("flag needs an argument: --{name}"),
                            None,
                        );
                        continue;
                    }
                },
            };
            if let Some(instead) = flag.deprecated {
                self.warnings
                    .push(format!("flag --{name} is deprecated; use {instead}"));
            }
            if let Set::List(slot) = flag.set
                && !given_lists.contains(&flag.name)
            {
                slot(&mut self.draft).clear();
                given_lists.push(flag.name);
            }
            self.draft.given.insert(flag.name);
            self.apply(flag, value, &format!("--{name}"));
        }
    }

    fn syntax(&mut self, flag: &str, message: String, nearest: Option<&'static str>) {
        self.faults.push(FlagFault {
            flag: flag.to_owned(),
            message,
            nearest,
            is_syntax: true,
        });
    }

    /// Hands a value over; `written` is how the flag or variable was named.
    fn apply(&mut self, flag: &Flag, value: &str, written: &str) {
        let (expected, is_syntax) = match put(&mut self.draft, flag, value) {
            Ok(()) => return,
            Err(Misfit::Syntax(expected)) => (expected, written.starts_with("--")),
            Err(Misfit::Value(expected)) => (expected, false),
        };
        // A password may be what is wrong with it.
        let value = shown(value);
        let message = format!("{value:?} is no value for {written}, expected {expected}");
        self.faults.push(FlagFault {
            flag: written.to_owned(),
            message,
            nearest: None,
            is_syntax,
        });
    }

    fn finish(self, environment: Lookup<'_>) -> Result<Parsed, ParseError> {
        let Self {
            draft,
            mut faults,
            mut warnings,
            help,
        } = self;
        let simple = if help {
            Some(Command::Help(help::help()))
        } else if faults.iter().any(|fault| fault.is_syntax) {
            None
        } else if draft.version {
            Some(Command::Version)
        } else if draft.build_info {
            Some(Command::BuildInfo)
        } else if draft.wait && faults.is_empty() {
            Some(Command::Wait {
                http_port: draft.api.http_port,
                timeout: draft.wait_timeout,
            })
        } else {
            None
        };
        if let Some(command) = simple {
            return Ok(Parsed { command, warnings });
        }
        if draft.wait {
            return Err(ParseError { faults });
        }
        match draft.finish(environment) {
            Ok((options, doubts)) if faults.is_empty() => {
                warnings.extend(doubts);
                Ok(Parsed {
                    command: Command::Run(Box::new(options)),
                    warnings,
                })
            }
            Ok(_) => Err(ParseError { faults }),
            Err(conflicts) => {
                faults.extend(conflicts.into_iter().map(|(name, message)| FlagFault {
                    flag: format!("--{name}"),
                    message,
                    nearest: None,
                    is_syntax: false,
                }));
                Err(ParseError { faults })
            }
        }
    }
}

fn put(draft: &mut Draft, flag: &Flag, value: &str) -> Result<(), Misfit> {
    let judge = |accepted: Accepted| accepted.map_err(Misfit::Value);
    match flag.set {
        Set::Text(set) => judge(set(draft, value)),
        Set::Switch(set) => {
            set(
                draft,
                go::boolean(value).ok_or(Misfit::Syntax("true or false"))?,
            );
            Ok(())
        }
        Set::Number(set) => judge(set(
            draft,
            go::integer(value).ok_or(Misfit::Syntax("a whole number"))?,
        )),
        Set::Count(set) => {
            let count = go::integer(value).and_then(|number| u32::try_from(number).ok());
            judge(set(
                draft,
                count.ok_or(Misfit::Syntax("a whole number that is not negative"))?,
            ))
        }
        Set::Duration(set) => judge(set(
            draft,
            parse_go(value).ok_or(Misfit::Syntax("a duration such as 5s or 250ms"))?,
        )),
        Set::List(slot) => {
            let items = go::list(value).ok_or(Misfit::Syntax("values separated by commas"))?;
            slot(draft).extend(items);
            Ok(())
        }
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    FLAGS
        .iter()
        .filter(|flag| !flag.is_hidden)
        .map(|flag| flag.name)
}
