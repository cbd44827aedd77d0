//! One policy after the other: what it says and where it came from, or why there is none.

use std::time::Duration;

use outrigger_config::diagnostic::Place;
use outrigger_config::resiliency::{PolicyNames, TotalTimeout};
use outrigger_resiliency::{Book, Default, Entry, Origin, Plan, RetryRule, Slot, Source};

use super::words;

/// What is to be known of one kind of policy.
#[derive(Debug)]
pub(super) struct Fact {
    /// For people.
    pub label: &'static str,
    /// For machines.
    pub key: &'static str,
    /// The policy's; absent where there is none, and where it has none.
    pub name: Option<String>,
    /// Absent where nothing applies.
    pub value: Option<String>,
    /// Where it came from, or why it is absent.
    pub why: String,
    /// The resource that says so.
    pub resource: Option<String>,
    pub place: Option<Place>,
}

/// The kinds of policy that a target names and that defaults exist for.
#[derive(Clone, Copy)]
enum Kind {
    Timeout,
    Retry,
    Breaker,
}

impl Kind {
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Timeout => ("time-out", "timeout", "Timeout"),
            Self::Retry => ("retry", "retry", "Retry"),
            Self::Breaker => ("circuit breaker", "circuitBreaker", "CircuitBreaker"),
        }
    }

    fn named(self, names: &PolicyNames) -> Option<&str> {
        match self {
            Self::Timeout => names.timeout.as_deref(),
            Self::Retry => names.retry.as_deref(),
            Self::Breaker => names.circuit_breaker.as_deref(),
        }
    }
}

/// Explains the policies of one target.
pub(super) struct Teller<'a> {
    pub book: &'a Book,
    pub plan: &'a Plan,
    /// The defaults that apply where no entry names the target.
    pub default: Default,
    /// It is not known of which type the component is: the name of the narrowest default is not either.
    pub is_of_any_type: bool,
    /// Which calls look at `matching`; absent where none does.
    pub matching: Option<&'static str>,
}

impl Teller<'_> {
    /// Time-out, retry, breaker, total time, budget.
    pub(super) fn facts(&self) -> Vec<Fact> {
        let plan = self.plan;
        let timeout = plan.timeout.as_ref();
        let mut facts = vec![
            self.fact(Kind::Timeout, timeout, |limit: &Duration| {
                format!("{} for each attempt", words::duration(*limit))
            }),
            self.fact(Kind::Retry, plan.retry.as_ref(), |rule| self.retry(rule)),
            self.fact(Kind::Breaker, plan.breaker.as_ref(), |rule| {
                words::breaker(rule)
            }),
        ];
        facts.extend(self.total());
        facts.extend(self.budget());
        if plan.precise {
            facts.push(Fact {
                label: "statuses",
                key: "errors",
                name: None,
                value: Some(
                    "rejections 503 or UNAVAILABLE, time-outs 504 or DEADLINE_EXCEEDED".to_owned(),
                ),
                why: "`errors: precise`".to_owned(),
                resource: None,
                place: None,
            });
        }
        facts
    }

    fn retry(&self, rule: &RetryRule) -> String {
        let mut text = words::retry(&rule.retry);
        if !rule.retry.is_any() {
            return text;
        }
        match (
            words::matching(&rule.retry.http, &rule.retry.grpc),
            self.matching,
        ) {
            (None, _) => text.push_str("; after every failure"),
            (Some(codes), Some("")) => {
                text.push_str(&format!("; after {codes}, and without a status"))
            }
            (Some(codes), Some(which)) => {
                text.push_str(&format!("; {which} after {codes}, and without a status"))
            }
            (Some(_), None) => {
                text.push_str("; after every failure, because `matching` is not looked at here");
            }
        }
        if rule.marks {
            text.push_str("; retries carry their number");
        }
        text
    }

    fn fact<T>(
        &self,
        kind: Kind,
        slot: Option<&Slot<T>>,
        value: impl FnOnce(&T) -> String,
    ) -> Fact {
        let (label, key, _) = kind.words();
        match slot {
            Some(slot) => Fact {
                label,
                key,
                name: Some(slot.name.to_string()),
                value: Some(value(&slot.rule)),
                why: self.origin(&slot.origin),
                resource: resource(&slot.source),
                place: slot.source.place.clone(),
            },
            None => {
                let (name, why, source) = self.absent(kind);
                Fact {
                    label,
                    key,
                    name,
                    value: None,
                    why,
                    resource: source.and_then(resource),
                    place: source.and_then(|source| source.place.clone()),
                }
            }
        }
    }

    fn origin(&self, origin: &Origin) -> String {
        match origin {
            Origin::Target(_) => "named by the entry".to_owned(),
            Origin::Default => "a default, by its name".to_owned(),
            Origin::BuiltIn => "built in".to_owned(),
        }
    }

    fn default_names(&self, keyword: &str) -> Vec<String> {
        let mut names = self.default.names(keyword);
        if let (true, Default::Component(kind, _), Some(first)) =
            (self.is_of_any_type, self.default, names.first_mut())
        {
            *first = first.replacen(kind.keyword(), "<Type>", 1);
        }
        names
    }

    /// A name that is in the way, the reason, and where that stands.
    fn absent(&self, kind: Kind) -> (Option<String>, String, Option<&Source>) {
        let (_, _, keyword) = kind.words();
        let Some(entry) = &self.plan.entry else {
            let names = self.default_names(keyword);
            let off = names
                .iter()
                .find_map(|name| Some((name, self.book.timeout(name)?)))
                .filter(|_| matches!(kind, Kind::Timeout));
            return match off {
                Some((name, (_, source))) => {
                    let why = "this default is not positive, which means none".to_owned();
                    (Some(name.clone()), why, Some(source))
                }
                None => {
                    let why = format!("there is no {}", words::either(&names));
                    (None, why, None)
                }
            };
        };
        let Some(name) = kind.named(&entry.names) else {
            let why = "the entry names none".to_owned();
            return (None, why, Some(&entry.source));
        };
        match self.book.timeout(name) {
            Some((_, source)) if matches!(kind, Kind::Timeout) => {
                let why = "it is not positive, which means none".to_owned();
                (Some(name.to_owned()), why, Some(source))
            }
            _ => {
                let why = "named by the entry, but nothing defines it".to_owned();
                (Some(name.to_owned()), why, Some(&entry.source))
            }
        }
    }

    fn total(&self) -> Option<Fact> {
        let limit = self.plan.total?;
        let entry = self.plan.entry.as_deref();
        let of_entry = entry.and_then(|entry| {
            let name = match entry.names.total_timeout.as_ref()? {
                TotalTimeout::Limit(_) => None,
                // A time-out that is none leaves it to the retry policy.
                TotalTimeout::Named(name) => {
                    self.book.timeout(name)?.0?;
                    Some(name.clone())
                }
            };
            Some((name, entry))
        });
        Some(self.by_entry_or_retry(
            ("total time", "totalTimeout"),
            format!(
                "{} for all attempts and pauses together",
                words::duration(limit)
            ),
            of_entry,
        ))
    }

    fn budget(&self) -> Option<Fact> {
        let budget = self.plan.budget.as_ref()?;
        let entry = self.plan.entry.as_deref();
        let of_entry = entry.filter(|entry| entry.names.budget.is_some());
        Some(self.by_entry_or_retry(
            ("retry budget", "budget"),
            words::budget(budget),
            of_entry.map(|entry| (None, entry)),
        ))
    }

    fn by_entry_or_retry(
        &self,
        (label, key): (&'static str, &'static str),
        value: String,
        of_entry: Option<(Option<String>, &Entry)>,
    ) -> Fact {
        let retry = self.plan.retry.as_ref();
        let source = match of_entry {
            Some((_, entry)) => Some(&*entry.source),
            None => retry.map(|slot| &*slot.source),
        };
        let why = match (&of_entry, retry) {
            (None, Some(slot)) => format!("retry policy {}", slot.name),
            _ => "the entry says so".to_owned(),
        };
        Fact {
            label,
            key,
            name: of_entry.and_then(|(name, _)| name),
            value: Some(value),
            why,
            resource: source.and_then(resource),
            place: source.and_then(|source| source.place.clone()),
        }
    }
}

/// The retry that is built in, or what became of it.
pub(super) fn built_in(slot: Result<&Slot<RetryRule>, String>, what: &str) -> Fact {
    let (label, key) = ("built-in retry", "builtInRetry");
    match slot {
        Ok(slot) => Fact {
            label,
            key,
            name: Some(slot.name.to_string()),
            value: Some(format!("{}; {what}", words::retry(&slot.rule.retry))),
            why: match &slot.source.place {
                Some(_) => "built in, with other values".to_owned(),
                None => "built in, and on where no entry names the target".to_owned(),
            },
            resource: resource(&slot.source),
            place: slot.source.place.clone(),
        },
        Err(why) => Fact {
            label,
            key,
            name: None,
            value: None,
            why,
            resource: None,
            place: None,
        },
    }
}

fn resource(source: &Source) -> Option<String> {
    (!source.resource.is_empty()).then(|| source.resource.clone())
}
