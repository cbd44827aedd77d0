//! `outrigger resiliency explain`: which policies apply to a target, where each came from, what they add up to.

mod app;
mod component;
mod facts;
mod scenario;
mod show;
mod target;
mod warnings;
mod words;
mod worst;

use outrigger_config::Loaded;
use outrigger_config::diagnostic::Diagnostic;
use outrigger_config::resiliency::advise;
use outrigger_core::nearest::nearest;
use outrigger_resiliency::{Book, Flow};

use super::files::{Files, View};
use super::{JSON, Wrong, named_paths, or_default};
use crate::print;
use crate::words::Words;

const HELP: &str = "\
Usage: outrigger resiliency explain --app-id ID [flags] KIND NAME

Says which policies a sidecar of app ID applies to a target: time-out, retry, circuit breaker, total time, budget and the
retries that are built in; where each came from, or why there is none; how many attempts and how much time they add up
to when everything fails; and what is doubtful about them. Nothing is started or asked.

KIND is one of
  app         an app id, as the caller writes it, the name of an HTTPEndpoint or a URL
  actor       an actor type
  component   a component, as its Component resource or `--type` describes it

  --app-id ID            whose sidecar; judges `scopes`
  --namespace NAME       its namespace (default `default`; resources of every namespace count unless it is given)
  --resources-path PATH  a folder or a file; may be repeated; default: ./resources or ./components, where there is one
  --method PATH          of an app: the method that is called, such as /orders/1
  --verb VERB            with it, such as GET
  --direction WORD       of a component: inbound or outbound; default: both, where there are both
  --type TYPE            of a component that no Component resource defines, such as state.redis
  --json                 one JSON object

The exit code is 0, also with warnings, 1 when something cannot be read, 2 for a wrong command line.
";

/// The namespace of those who name none.
const DEFAULT_NAMESPACE: &str = "default";

/// What kind of target is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Subject {
    App,
    Actor,
    Component,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Actor => "actor",
            Self::Component => "component",
        }
    }
}

/// What is asked for.
#[derive(Debug)]
struct Asked {
    app_id: String,
    namespace: Option<String>,
    subject: Subject,
    name: String,
    /// Without slashes around it.
    method: Option<String>,
    verb: Option<String>,
    direction: Option<Flow>,
    type_name: Option<String>,
}

/// What the files say.
struct Known {
    paths: Vec<String>,
    files: Files,
    loaded: Loaded,
    book: Book,
    findings: Vec<Diagnostic>,
    own_namespace: String,
    notes: Vec<String>,
}

pub(super) fn command(arguments: &[String]) -> Result<u8, Wrong> {
    let wrong = |why| Wrong::Words(why, HELP);
    let known = [
        "app-id",
        "namespace",
        "resources-path",
        "components-path",
        "method",
        "verb",
        "direction",
        "type",
    ];
    let words = Words::read(arguments, &known, &[JSON]).map_err(wrong)?;
    if words.help {
        print::out(HELP);
        return Ok(0);
    }
    let asked = Asked::read(&words).map_err(wrong)?;
    let paths = or_default(named_paths(&words));
    let files = Files::read(&paths).map_err(Wrong::Files)?;
    let known = Known::of(&asked, paths, files);
    let told = target::tell(&known, &asked);
    print::out(&if words.has(JSON) {
        show::json(&known, &asked, &told)
    } else {
        show::text(&known, &asked, &told)
    });
    Ok(0)
}

impl Asked {
    fn read(words: &Words) -> Result<Self, String> {
        let (subject, name) = match words.plain.as_slice() {
            [subject, name] if !name.is_empty() => (subject, name),
            [_, _] => return Err("the name is empty".to_owned()),
            _ => return Err("expected a kind, app, actor or component, and a name".to_owned()),
        };
        let subject = match subject.as_str() {
            "app" => Subject::App,
            "actor" => Subject::Actor,
            "component" => Subject::Component,
            other => {
                return Err(format!(
                    "`{other}` is no kind of target: expected app, actor or component"
                ));
            }
        };
        let text = |name| words.last(name).map(str::to_owned);
        for (flag, of) in [
            ("method", Subject::App),
            ("verb", Subject::App),
            ("direction", Subject::Component),
            ("type", Subject::Component),
        ] {
            if subject != of && words.last(flag).is_some() {
                let (is, of) = (subject.name(), of.name());
                return Err(format!("--{flag} is for kind {of}, not for {is}"));
            }
        }
        let direction = match words.last("direction") {
            None => None,
            Some("inbound") => Some(Flow::Inbound),
            Some("outbound") => Some(Flow::Outbound),
            Some(other) => {
                return Err(format!(
                    "--direction: `{other}` is neither inbound nor outbound"
                ));
            }
        };
        let app_id = text("app-id").filter(|id| !id.is_empty());
        let is_part = |part: &&str| !part.is_empty();
        let method = words.last("method").map(|method| {
            method
                .split('/')
                .filter(is_part)
                .collect::<Vec<_>>()
                .join("/")
        });
        Ok(Self {
            app_id: app_id.ok_or("--app-id is missing: whose sidecar is meant?")?,
            namespace: text("namespace").filter(|name| !name.is_empty()),
            subject,
            name: name.clone(),
            method,
            verb: text("verb"),
            direction,
            type_name: text("type"),
        })
    }
}

impl Known {
    fn of(asked: &Asked, paths: Vec<String>, files: Files) -> Self {
        let view = View {
            app_id: asked.app_id.clone(),
            namespace: asked.namespace.clone(),
        };
        let loaded = files.load(&view);
        let mut notes: Vec<String> = files
            .unreadable()
            .map(|told| format!("{} cannot be read: {}", told.place, told.message))
            .collect();
        for refused in &loaded.refused_resiliencies {
            notes.push(format!(
                "Resiliency resource `{}` ({}:{}) is refused, so nothing in it applies; `outrigger resiliency validate` says why",
                refused.name, refused.place.file, refused.place.line
            ));
        }
        let mut findings = loaded.diagnostics.clone();
        findings.extend(advise(&loaded.resiliencies));
        Self {
            book: Book::new(&loaded.resiliencies),
            own_namespace: asked
                .namespace
                .clone()
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            paths,
            files,
            loaded,
            findings,
            notes,
        }
    }

    /// The type of a component: of one that this app gets, or else of any of that name.
    fn type_of(&self, name: &str) -> Option<&str> {
        let own = self.loaded.components.iter();
        let own = own
            .filter(|one| one.name.as_str() == name)
            .map(|one| one.type_name.as_str());
        let any = self.files.of_kind("Component");
        let any = any
            .filter(|one| one.name == name)
            .map(|one| one.type_name.as_str());
        own.chain(any).find(|type_name| !type_name.is_empty())
    }

    fn close_component(&self, name: &str) -> Option<String> {
        let names = self.files.of_kind("Component").map(|one| one.name.as_str());
        let close = nearest(name, names)?;
        Some(format!(
            "there is a Component that is called `{close}`: is that what you mean?"
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A policy or a target, with values that nobody should write.
    fn fields() -> impl Strategy<Value = String> {
        let key = prop::sample::select(vec![
            "policy",
            "duration",
            "maxRetries",
            "maxInterval",
            "maxElapsedTime",
            "totalTimeout",
            "jitter",
            "budget",
            "timeout",
            "retry",
            "circuitBreaker",
            "circuitBreakerScope",
            "trip",
            "interval",
            "inbound",
            "outbound",
        ]);
        let value = prop_oneof![
            "[-0-9]{0,20}(ms|s|h|m)?",
            prop::sample::select(vec![
                "exponential",
                "p",
                "q",
                "both",
                "'nosuch > 1'",
                "{ratio: 0}",
                "{timeout: p, retry: q, circuitBreaker: p}",
                "[1, 2]",
                "'1e308s'",
                "off",
            ])
            .prop_map(str::to_owned),
        ];
        prop::collection::btree_map(key, value, 0..5).prop_map(|fields| {
            let fields: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{key}: {value}"))
                .collect();
            format!("{{{}}}", fields.join(", "))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn nothing_that_is_asked_or_read_panics(
            policies in prop::collection::vec(fields(), 4),
            targets in prop::collection::vec(fields(), 3),
            timeout in "[-0-9]{1,19}(ms|s)?",
            subject in prop::sample::select(vec!["app", "actor", "component"]),
            name in prop_oneof![Just("t".to_owned()), "\\PC{1,12}", Just("http://x".to_owned())],
            rubbish in "\\PC{0,40}",
        ) {
            let text = format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {{name: r}}\nspec:\n  policies:\n    timeouts: {{p: {timeout}, DefaultTimeoutPolicy: {timeout}}}\n    retries: {{q: {}, DefaultRetryPolicy: {}}}\n    circuitBreakers: {{p: {}, DefaultCircuitBreakerPolicy: {}}}\n  targets:\n    apps: {{t: {}}}\n    actors: {{t: {}}}\n    components: {{t: {}}}\n",
                policies[0], policies[1], policies[2], policies[3], targets[0], targets[1], targets[2],
            );
            let words = Words {
                plain: vec![subject.to_owned(), name],
                flags: vec![("app-id".to_owned(), "a".to_owned())],
                ..Words::default()
            };
            let asked = Asked::read(&words).unwrap();
            for text in [text, rubbish] {
                let files = Files::of(vec![("r.yaml".to_owned(), text)], Vec::new());
                let known = Known::of(&asked, vec!["r.yaml".to_owned()], files);
                let told = target::tell(&known, &asked);
                show::text(&known, &asked, &told);
                show::json(&known, &asked, &told);
            }
        }
    }
}
