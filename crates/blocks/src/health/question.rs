//! What is asked of health, read from a query. Wrong questions are told what is wrong with them.

use std::time::Duration;

use outrigger_core::ApiError;
use outrigger_core::duration::parse_go;

use super::judge::{Reading, Subject};
use crate::errors::health as told;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
const USUAL: Duration = Duration::from_secs(3);
const TARGETS: &str = "known are outbound, app, component:NAME, subscription:PUBSUB/TOPIC";

/// A query of `healthz`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Whether the sidecar is ready, as Dapr asks.
    Plain,
    Health(Question),
    /// Whether everything that is named is ready.
    Targets(Vec<Target>, Effort),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    pub subjects: Vec<Subject>,
    pub effort: Effort,
    pub reading: Reading,
}

/// How hard to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Ping now.
    pub live: bool,
    /// The answer comes within this time.
    pub budget: Duration,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            live: false,
            budget: USUAL,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    Outbound,
    App,
    Component(String),
    Subscription { pubsub: String, topic: String },
}

impl Target {
    /// As it was written.
    pub fn name(&self) -> String {
        match self {
            Self::Outbound => "outbound".to_owned(),
            Self::App => "app".to_owned(),
            Self::Component(name) => format!("component:{name}"),
            Self::Subscription { pubsub, topic } => format!("subscription:{pubsub}/{topic}"),
        }
    }

    fn parse(text: &str) -> Result<Self, ApiError> {
        let unknown = || told::unknown_target(text, TARGETS);
        match text.split_once(':') {
            None if text == "outbound" => Ok(Self::Outbound),
            None if text == "app" => Ok(Self::App),
            Some(("component", name)) if !name.is_empty() => Ok(Self::Component(name.to_owned())),
            Some(("subscription", both)) => match both.split_once('/') {
                Some((pubsub, topic)) if !pubsub.is_empty() && !topic.is_empty() => {
                    Ok(Self::Subscription {
                        pubsub: pubsub.to_owned(),
                        topic: topic.to_owned(),
                    })
                }
                _ => Err(unknown()),
            },
            _ => Err(unknown()),
        }
    }
}

/// Reads a query. What is not ours is left to itself, and a plain question stays Dapr's, whatever else is in it.
///
/// # Errors
/// With the parameter, its value, and what is expected.
pub fn parse(pairs: &[(&str, &str)]) -> Result<Asked, ApiError> {
    let is_wanted = flag(pairs, "components")?;
    let mut subjects = Vec::new();
    for word in list(pairs, "include") {
        let subject = subject(word)?;
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    if is_wanted && !subjects.contains(&Subject::Components) {
        subjects.insert(0, Subject::Components);
    }
    let targets: Vec<Target> = list(pairs, "for")
        .map(Target::parse)
        .collect::<Result<_, _>>()?;
    if !targets.is_empty() {
        if !subjects.is_empty() {
            return Err(told::not_alone());
        }
        return Ok(Asked::Targets(targets, effort(pairs)?));
    }
    if subjects.is_empty() {
        return Ok(Asked::Plain);
    }
    Ok(Asked::Health(Question {
        subjects,
        effort: effort(pairs)?,
        reading: Reading {
            verbose: flag(pairs, "verbose")?,
            ignore_optional: flag(pairs, "ignoreOptional")?,
        },
    }))
}

/// One word of `include`.
///
/// # Errors
/// When nothing of this name has a health.
pub fn subject(word: &str) -> Result<Subject, ApiError> {
    Subject::ALL
        .into_iter()
        .find(|subject| subject.name() == word)
        .ok_or_else(|| told::unknown_include(word, &Subject::ALL.map(Subject::name).join(", ")))
}

/// `live` and `timeout`.
///
/// # Errors
/// When one of them is not what it should be.
pub fn effort(pairs: &[(&str, &str)]) -> Result<Effort, ApiError> {
    let live = flag(pairs, "live")?;
    let budget = match first(pairs, "timeout") {
        None => USUAL,
        Some(text) => parse_go(text)
            .and_then(|duration| within(duration.clamped()))
            .ok_or_else(|| told::bad_parameter("timeout", text, BUDGET))?,
    };
    Ok(Effort { live, budget })
}

/// Words for what a time-out may be.
pub const BUDGET: &str = "a duration from 100ms to 10s";

/// A time-out, if it is one that may be asked for.
pub fn within(budget: Duration) -> Option<Duration> {
    (SHORTEST..=LONGEST).contains(&budget).then_some(budget)
}

fn first<'a>(pairs: &[(&str, &'a str)], name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| *value)
}

fn flag(pairs: &[(&str, &str)], name: &str) -> Result<bool, ApiError> {
    match first(pairs, name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(told::bad_parameter(name, other, "true or false")),
    }
}

/// The words of a list; several lists are one.
fn list<'a>(pairs: &'a [(&str, &str)], name: &'a str) -> impl Iterator<Item = &'a str> {
    pairs
        .iter()
        .filter(move |(key, _)| *key == name)
        .flat_map(|(_, value)| value.split(','))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(query: &str) -> Result<Asked, ApiError> {
        let pairs: Vec<(&str, &str)> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        parse(&pairs)
    }

    fn question(query: &str) -> Question {
        match ask(query) {
            Ok(Asked::Health(question)) => question,
            other => panic!("{query}: {other:?}"),
        }
    }

    #[test]
    fn daprs_own_question_stays_daprs() {
        for query in [
            "",
            "appid=x",
            "components=false",
            "timeout=soon&live=maybe&verbose=x",
        ] {
            assert_eq!(ask(query), Ok(Asked::Plain), "{query}");
        }
    }

    #[test]
    fn components_is_short_for_an_include_and_nothing_is_asked_twice() {
        let usual = Question {
            subjects: vec![Subject::Components],
            effort: Effort {
                live: false,
                budget: Duration::from_secs(3),
            },
            reading: Reading::default(),
        };
        assert_eq!(question("components=true"), usual);
        assert_eq!(question("include=components"), usual);
        assert_eq!(
            question("components=true&include=components&include=components"),
            usual
        );
        assert_eq!(
            question("include=app,components&include=nameresolution").subjects,
            [Subject::App, Subject::Components, Subject::NameResolution]
        );
        let asked =
            question("components=true&live=true&timeout=100ms&verbose=true&ignoreOptional=true");
        assert_eq!(
            asked.effort,
            Effort {
                live: true,
                budget: Duration::from_millis(100)
            }
        );
        assert_eq!(
            asked.reading,
            Reading {
                verbose: true,
                ignore_optional: true
            }
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_name_and_value() {
        for (query, code, text) in [
            (
                "components=yes",
                "ERR_HEALTH_PARAMETER_INVALID",
                r#"components: "yes" is not true or false"#,
            ),
            (
                "components",
                "ERR_HEALTH_PARAMETER_INVALID",
                r#"components: """#,
            ),
            ("include=", "ERR_HEALTH_INCLUDE_UNKNOWN", r#"include: "" "#),
            (
                "include=components,queues",
                "ERR_HEALTH_INCLUDE_UNKNOWN",
                r#""queues" is not known; known are components, app"#,
            ),
            (
                "components=true&live=1",
                "ERR_HEALTH_PARAMETER_INVALID",
                r#"live: "1""#,
            ),
            (
                "components=true&timeout=99ms",
                "ERR_HEALTH_PARAMETER_INVALID",
                r#"timeout: "99ms" is not a duration from 100ms to 10s"#,
            ),
            (
                "components=true&timeout=10001ms",
                "ERR_HEALTH_PARAMETER_INVALID",
                "timeout",
            ),
            (
                "components=true&timeout=-3s",
                "ERR_HEALTH_PARAMETER_INVALID",
                "timeout",
            ),
            (
                "for=app&timeout=never",
                "ERR_HEALTH_PARAMETER_INVALID",
                "timeout",
            ),
            (
                "for=app&components=true",
                "ERR_HEALTH_PARAMETER_INVALID",
                "cannot be combined",
            ),
            ("for=", "ERR_HEALTH_TARGET_UNKNOWN", r#"for: """#),
            ("for=inbound", "ERR_HEALTH_TARGET_UNKNOWN", "inbound"),
            ("for=component:", "ERR_HEALTH_TARGET_UNKNOWN", "component:"),
            (
                "for=subscription:orders",
                "ERR_HEALTH_TARGET_UNKNOWN",
                "subscription:PUBSUB/TOPIC",
            ),
        ] {
            let error = ask(query).unwrap_err();
            assert_eq!((error.http, &*error.tag), (400, code), "{query}");
            assert!(error.message.contains(text), "{query}: {}", error.message);
        }
    }

    #[test]
    fn targets_are_read_as_they_are_named() {
        let named = "outbound,app,component:orders,subscription:orders/new/eu";
        let Ok(Asked::Targets(targets, effort)) = ask(&format!("for={named}&live=true")) else {
            panic!("targets")
        };
        let names: Vec<String> = targets.iter().map(Target::name).collect();
        assert_eq!(names.join(","), named);
        assert!(effort.live);
    }

    proptest! {
        #[test]
        fn no_query_panics_and_every_budget_is_bounded(
            pairs in proptest::collection::vec(
                (
                    proptest::sample::select(vec!["components", "include", "for", "live", "timeout", "verbose", "ignoreOptional", "x"]),
                    "(true|false|components|app|app,actors|component:a|1s|5m|[ -~]{0,12})",
                ),
                0..6,
            ),
        ) {
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
            match parse(&pairs) {
                Ok(Asked::Health(question)) => {
                    prop_assert!(within(question.effort.budget).is_some());
                    prop_assert!(!question.subjects.is_empty());
                }
                Ok(Asked::Targets(targets, effort)) => {
                    prop_assert!(within(effort.budget).is_some() && !targets.is_empty());
                }
                Ok(Asked::Plain) => {}
                Err(error) => prop_assert_eq!(error.http, 400),
            }
        }
    }
}
