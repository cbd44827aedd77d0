//! `outrigger resiliency validate`: whatever a sidecar would only warn about, or take without a word, is a fault.

use std::collections::BTreeSet;

use outrigger_config::diagnostic::{self, Diagnostic, Place};
use outrigger_config::resiliency::{PolicyNames, advise};
use outrigger_config::{Loaded, ResiliencyResource};
use outrigger_core::json::Value;
use outrigger_core::nearest::nearest;
use outrigger_resiliency::ComponentKind;

use super::files::{Files, View};
use super::{JSON, Wrong, found, named_paths, or_default};
use crate::print;
use crate::words::Words;

const HELP: &str = "\
Usage: outrigger resiliency validate [PATH]... [flags]

Reads the Resiliency resources in files, or in the files of folders, as a sidecar would, and prints every fault with
file, line and column. What a sidecar only warns about, or takes without a word, is a fault here: unknown fields and
policies, numbers without a unit, what is defined twice, policies that nothing reaches, targets that do not exist,
breakers that never open, retries that never end or multiply. Nothing is started or asked.

Components and HTTP endpoints are looked for in the same paths. Apps and actor types cannot be known offline.

  --resources-path PATH  as PATH; default: ./resources or ./components, where there is one
  --app-id ID            only what a sidecar of this app gets; default: every app that `scopes` names, one by one
  --namespace NAME       only what a sidecar in this namespace gets; default: each by itself
  --json                 one JSON object

The exit code is 0 when nothing is wrong, 1 with a fault or without any Resiliency resource, 2 for a wrong command line.
";

/// Of findings that hold only if no sidecar says otherwise.
const UNREACHED: &str = "CFG-UNREACHED";

pub(super) fn command(arguments: &[String]) -> Result<u8, Wrong> {
    let wrong = |why| Wrong::Words(why, HELP);
    let known = ["resources-path", "components-path", "app-id", "namespace"];
    let words = Words::read(arguments, &known, &[JSON]).map_err(wrong)?;
    if words.help {
        print::out(HELP);
        return Ok(0);
    }
    let mut paths = words.plain.clone();
    paths.extend(named_paths(&words));
    let paths = or_default(paths);
    if paths.is_empty() {
        return Err(wrong(
            "no path was given, and there is neither ./resources nor ./components".to_owned(),
        ));
    }
    let files = Files::read(&paths).map_err(Wrong::Files)?;
    let views = files.views(words.last("app-id"), words.last("namespace"));
    let (told, resources) = faults(&files, &views);
    let is_clean = told.is_empty() && resources > 0;
    print::out(&if words.has(JSON) {
        json(&told, resources)
    } else {
        text(&told, resources, &paths)
    });
    Ok(u8::from(!is_clean))
}

fn json(told: &[Diagnostic], resources: usize) -> String {
    let findings = Value::Array(told.iter().map(found::finding).collect());
    found::line(&Value::object([
        ("resources", found::number(resources)),
        ("faults", found::number(told.len())),
        ("findings", findings),
    ]))
}

fn text(told: &[Diagnostic], resources: usize, paths: &[String]) -> String {
    let mut text = String::new();
    for one in told {
        text.push_str(&format!("{one}\n\n"));
    }
    match (told, resources) {
        ([], 0) => text.push_str(&format!(
            "no Resiliency resource was found in {}, or none is for this app and namespace\n",
            paths.join(", ")
        )),
        ([], _) => text.push_str(&format!("no faults in {}\n", counted(resources))),
        (told, _) => {
            let faults = match told.len() {
                1 => "1 fault".to_owned(),
                many => format!("{many} faults"),
            };
            let (counts, of) = (diagnostic::counts(told), counted(resources));
            text.push_str(&format!("{faults} ({counts}) in {of}\n"));
        }
    }
    text
}

fn counted(resources: usize) -> String {
    match resources {
        1 => "1 Resiliency resource".to_owned(),
        many => format!("{many} Resiliency resources"),
    }
}

/// Everything that is wrong for one of the sidecars, each fault once; and how many resources were looked at.
fn faults(files: &Files, views: &[View]) -> (Vec<Diagnostic>, usize) {
    let mut all: Vec<Diagnostic> = files.unreadable().collect();
    let (mut reached, mut resources) = (BTreeSet::new(), BTreeSet::new());
    for view in views {
        let loaded = files.load(view);
        let advice = advise(&loaded.resiliencies);
        let unreached: BTreeSet<&Place> = of_code(&advice, UNREACHED).collect();
        let defined = loaded.resiliencies.iter().flat_map(policy_places);
        reached.extend(defined.filter(|place| !unreached.contains(place)).cloned());
        let taken = loaded.resiliencies.iter().map(|one| one.place.clone());
        let refused = loaded.refused_resiliencies.iter();
        resources.extend(taken.chain(refused.map(|one| one.place.clone())));
        components(files, &loaded, &mut all);
        let own = loaded.diagnostics.iter();
        all.extend(own.filter(|told| files.is_about_policies(told)).cloned());
        all.extend(advice);
    }
    let mut seen = BTreeSet::new();
    all.retain(|told| {
        (told.code != UNREACHED || !reached.contains(&told.place))
            && seen.insert((told.place.clone(), told.code, told.message.clone()))
    });
    diagnostic::sort(&mut all);
    (all, resources.len())
}

fn of_code<'a>(told: &'a [Diagnostic], code: &'a str) -> impl Iterator<Item = &'a Place> {
    let of_code = told.iter().filter(move |one| one.code == code);
    of_code.map(|one| &one.place)
}

fn policy_places(resource: &ResiliencyResource) -> impl Iterator<Item = &Place> {
    let policies = &resource.policies;
    let timeouts = policies.timeouts.values().map(|policy| &policy.place);
    let retries = policies.retries.values().map(|policy| &policy.place);
    let breakers = policies.circuit_breakers.values();
    timeouts
        .chain(retries)
        .chain(breakers.map(|policy| &policy.place))
}

/// Targets that name components which do not exist, or policies that their kind of component has no use for.
fn components(files: &Files, loaded: &Loaded, told: &mut Vec<Diagnostic>) {
    let targets = loaded
        .resiliencies
        .iter()
        .flat_map(|resource| &resource.targets.components);
    for (name, target) in targets {
        let place = target.place.clone();
        let Some(component) = files.of_kind("Component").find(|one| one.name == *name) else {
            let message = format!("no Component in these files is called `{name}`");
            let names = files.of_kind("Component").map(|one| one.name.as_str());
            let finding = Diagnostic::warning("CFG-UNKNOWN-COMPONENT", place, message);
            told.push(match nearest(name, names) {
                None => {
                    finding.help("name the files of the components, too, or take the target out")
                }
                close => finding.nearest(close),
            });
            continue;
        };
        let type_name = &component.type_name;
        let message = match ComponentKind::of_type(type_name) {
            None => format!("policies do not apply to `{name}`, which is a `{type_name}`"),
            Some(kind) if !kind.delivers() && target.inbound != PolicyNames::default() => {
                format!(
                    "`inbound` has no effect: nothing comes in from `{name}`, which is a `{type_name}`"
                )
            }
            Some(_) => continue,
        };
        told.push(Diagnostic::warning("CFG-NO-EFFECT", place, message));
    }
}
