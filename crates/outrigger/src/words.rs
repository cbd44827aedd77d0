//! What stands on a command line: flags with one dash or two, `--flag value` or `--flag=value`, and other words.
//!
//! Owns: the reading of words, durations and choices, with errors that name the flag.
//! Never: knows a command; each says which flags it has.
//! Start at [`Words::read`] and [`follow`].

use std::time::Duration;

use outrigger_core::duration::parse_go;
use outrigger_core::nearest::nearest;

use crate::{SYNTAX, print};

/// A variable of the environment.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// No wait and no look back is longer, on purpose.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3_600);

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Without dashes.
    pub(crate) plain: Vec<String>,
    /// With a value, in order.
    pub(crate) flags: Vec<(String, String)>,
    /// Without one.
    pub(crate) switches: Vec<String>,
    pub(crate) help: bool,
}

impl Words {
    /// `valued`: the flags that have a value; `switches`: those that have none.
    pub(crate) fn read(
        arguments: &[String],
        valued: &[&str],
        switches: &[&str],
    ) -> Result<Self, String> {
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
            if valued.contains(&name) {
                let value = given
                    .or_else(|| words.next().cloned())
                    .ok_or_else(|| format!("flag needs an argument: --{name}"))?;
                read.flags.push((name.to_owned(), value));
            } else if name == "help" || name == "h" {
                read.help = true;
            } else if !switches.contains(&name) {
                let known = valued.iter().chain(switches).copied();
                let meant = nearest(name, known)
                    .map(|meant| format!("; did you mean `--{meant}`?"))
                    .unwrap_or_default();
                return Err(format!("unknown flag: --{name}{meant}"));
            } else if let Some(value) = given {
                return Err(format!("--{name} takes no value, but has `{value}`"));
            } else {
                read.switches.push(name.to_owned());
            }
        }
        Ok(read)
    }

    pub(crate) fn has(&self, switch: &str) -> bool {
        self.switches.iter().any(|given| given == switch)
    }

    /// Of a flag that is given twice, the last value.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        let mut flags = self.flags.iter().rev();
        flags.find_map(|(flag, value)| (flag == name).then_some(value.as_str()))
    }

    /// Every value of these flags, in order.
    pub(crate) fn all<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a str> {
        let named = |flag: &str| names.contains(&flag);
        let flags = self.flags.iter().filter(move |(flag, _)| named(flag));
        flags.map(|(_, value)| value.as_str())
    }

    /// For commands without other words.
    pub(crate) fn no_plain(&self) -> Result<(), String> {
        match self.plain.first() {
            Some(word) => Err(format!("`{word}` is no flag, and nothing else is expected")),
            None => Ok(()),
        }
    }

    /// Of two flags that contradict each other, one at most.
    pub(crate) fn not_both(&self, one: &str, other: &str) -> Result<(), String> {
        let given = |name| self.last(name).is_some() || self.has(name);
        if given(one) && given(other) {
            return Err(format!("--{one} and --{other} exclude each other"));
        }
        Ok(())
    }

    /// A flag's duration, which is above zero.
    pub(crate) fn duration(&self, name: &str) -> Result<Option<Duration>, String> {
        let Some(text) = self.last(name) else {
            return Ok(None);
        };
        let read = parse_go(text).and_then(outrigger_core::duration::GoDuration::positive);
        match read {
            Some(duration) if duration <= LONGEST => Ok(Some(duration)),
            Some(_) => Err(format!(
                "--{name}: `{text}` is too long; a year is the longest"
            )),
            None => Err(format!(
                "--{name}: `{text}` is no duration above zero and up to a year, such as 10s"
            )),
        }
    }

    /// One of several words that a flag may have.
    pub(crate) fn choice(&self, name: &str, known: &[&str]) -> Result<Option<String>, String> {
        match self.last(name) {
            None => Ok(None),
            Some(word) if known.contains(&word) => Ok(Some(word.to_owned())),
            Some(word) => Err(format!(
                "--{name}: `{word}` is not known; known are {}",
                known.join(", ")
            )),
        }
    }
}

/// Does what a command line asks for, shows help, or says what is wrong; the exit code.
pub(crate) fn follow<T>(
    asked: Result<Option<T>, String>,
    help: &str,
    run: impl FnOnce(T) -> u8,
) -> u8 {
    match asked {
        Ok(Some(asked)) => run(asked),
        Ok(None) => {
            print::out(help);
            0
        }
        Err(why) => {
            print::error(&why);
            print::err(&format!("\n{help}"));
            SYNTAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn read(line: &str) -> Result<Words, String> {
        Words::read(&words(line), &["app-id", "timeout", "format"], &["json"])
    }

    #[test]
    fn words_and_flags_may_be_mixed() {
        let read = read("app --app-id=a b -app-id c --json -- --odd").unwrap();
        assert_eq!(read.plain, ["app", "b", "--odd"]);
        assert_eq!(read.last("app-id"), Some("c"));
        assert_eq!(read.all(&["app-id"]).collect::<Vec<_>>(), ["a", "c"]);
        assert!(read.has("json") && !read.help);
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let wrong = |line: &str| read(line).unwrap_err();
        assert_eq!(wrong("--app-id"), "flag needs an argument: --app-id");
        assert_eq!(
            wrong("--jsn"),
            "unknown flag: --jsn; did you mean `--json`?"
        );
        assert_eq!(wrong("--zzzzzz"), "unknown flag: --zzzzzz");
        assert_eq!(wrong("--json=no"), "--json takes no value, but has `no`");
    }

    #[test]
    fn durations_are_above_zero_and_within_reason() {
        let duration = |text: &str| {
            read(&format!("--timeout {text}"))
                .unwrap()
                .duration("timeout")
        };
        assert_eq!(duration("1m30s"), Ok(Some(Duration::from_secs(90))));
        for bad in ["0s", "-5s", "60", "soon", "2540400h0m1s"] {
            let why = duration(bad).unwrap_err();
            assert!(why.starts_with(&format!("--timeout: `{bad}` is")), "{why}");
        }
        assert_eq!(read("").unwrap().duration("timeout"), Ok(None));
    }

    #[test]
    fn a_choice_is_one_of_those_that_are_known() {
        let choice = |line: &str| read(line).unwrap().choice("format", &["text", "json"]);
        assert_eq!(choice("--format json"), Ok(Some("json".to_owned())));
        assert_eq!(
            choice("--format xml"),
            Err("--format: `xml` is not known; known are text, json".to_owned())
        );
    }
}
