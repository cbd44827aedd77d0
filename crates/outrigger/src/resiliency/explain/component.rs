//! What applies to a component, whose type may not be known.

use outrigger_resiliency::{ComponentKind, Default, Flow, Plan, Slot};

use super::target::{Parts, Section, Told, close};
use super::worst::Case;
use super::{Asked, Known, words};

pub(super) fn tell(known: &Known, asked: &Asked) -> Told {
    let mut told = Told::default();
    let name = &asked.name;
    let defined = known.type_of(name);
    let type_name = asked.type_name.as_deref().or(defined);
    let is_named = known.book.component_targets().any(|target| target == name);
    let kinds: Vec<ComponentKind> = match type_name.map(|name| (name, ComponentKind::of_type(name)))
    {
        Some((_, Some(kind))) => vec![kind],
        Some((type_name, None)) => {
            told.notes.push(format!(
                "policies do not apply to components of type `{type_name}`"
            ));
            return told;
        }
        None => {
            let files = match known.paths.as_slice() {
                [] => "no file was read that defines it".to_owned(),
                paths => format!("no Component in {} is called `{name}`", paths.join(", ")),
            };
            told.notes.push(match is_named {
                true => files,
                false => format!(
                    "{files}; its type decides which defaults apply: give `--type`, such as `--type state.redis`"
                ),
            });
            told.notes.extend(known.close_component(name));
            ComponentKind::ALL.to_vec()
        }
    };
    if let (Some(given), Some(defined)) = (&asked.type_name, defined)
        && given != defined
    {
        told.notes.push(format!(
            "its Component says `{defined}`, `--type` says `{given}`, which counts here"
        ));
    }
    for flow in [Flow::Outbound, Flow::Inbound] {
        if asked.direction.is_some_and(|wanted| wanted != flow) {
            continue;
        }
        let kinds = kinds
            .iter()
            .copied()
            .filter(|kind| flow == Flow::Outbound || kind.delivers());
        let groups = groups(known, name, kinds.collect(), flow);
        let many = groups.len() > 1;
        for (kinds, plan) in groups {
            let shown = if type_name.is_some() || many {
                kinds
            } else {
                Vec::new()
            };
            told.sections.push(component_section(
                known, name, &plan, shown, flow, type_name,
            ));
        }
    }
    if told.sections.is_empty() {
        let type_name = type_name.unwrap_or_default();
        told.notes.push(format!(
            "nothing comes in from `{name}`, which is a `{type_name}`"
        ));
    }
    if !is_named {
        let targets = known.book.component_targets();
        told.notes
            .extend(close(name, targets, "an entry of `targets.components`"));
    }
    told
}

/// The kinds for which the same policies apply, together.
fn groups(
    known: &Known,
    name: &str,
    kinds: Vec<ComponentKind>,
    flow: Flow,
) -> Vec<(Vec<ComponentKind>, Plan)> {
    let mut groups: Vec<(Vec<ComponentKind>, Plan)> = Vec::new();
    for kind in kinds {
        let plan = known.book.component(name, kind, flow);
        match groups.iter_mut().find(|(_, other)| is_same(other, &plan)) {
            Some((kinds, _)) => kinds.push(kind),
            None => groups.push((vec![kind], plan)),
        }
    }
    groups
}

fn is_same(one: &Plan, other: &Plan) -> bool {
    fn name<T>(slot: Option<&Slot<T>>) -> Option<&str> {
        slot.map(|slot| &*slot.name)
    }
    name(one.timeout.as_ref()) == name(other.timeout.as_ref())
        && name(one.retry.as_ref()) == name(other.retry.as_ref())
        && name(one.breaker.as_ref()) == name(other.breaker.as_ref())
}

fn component_section(
    known: &Known,
    name: &str,
    plan: &Plan,
    kinds: Vec<ComponentKind>,
    flow: Flow,
    type_name: Option<&str>,
) -> Section {
    let mut title = match flow {
        Flow::Outbound => format!("Calls of the component `{name}`"),
        Flow::Inbound => format!("What comes in from the component `{name}`"),
    };
    let keywords: Vec<String> = kinds
        .iter()
        .map(|kind| kind.keyword().to_lowercase())
        .collect();
    match type_name {
        Some(type_name) => title.push_str(&format!(" ({type_name})")),
        None if !keywords.is_empty() => {
            title.push_str(&format!(", if it is a {}", words::either(&keywords)));
        }
        None => {}
    }
    let (meant, matching) = match kinds.as_slice() {
        [kind] => meant(*kind, flow),
        _ => (
            "everything that policies apply to",
            Some("for the types that look at `matching`,"),
        ),
    };
    let breaker = plan.breaker.as_ref().map(|slot| slot.name.to_string());
    let parts = Parts {
        title,
        flow,
        meant: meant.to_owned(),
        plan,
        default: Default::Component(
            kinds.first().copied().unwrap_or(ComponentKind::Statestore),
            flow,
        ),
        kinds,
        matching,
        built_in: None,
        spans_built_in: false,
        cases: vec![
            (Case::AtOnce, "every attempt fails at once"),
            (Case::Hanging, "no answer comes"),
        ],
        keys: vec![format!(
            "{}-{name}, for this direction only",
            breaker.unwrap_or_default()
        )],
        pushback: None,
    };
    parts.section(known)
}

/// Which calls are meant, and which of them look at `matching`.
fn meant(kind: ComponentKind, flow: Flow) -> (&'static str, Option<&'static str>) {
    use ComponentKind::{
        Binding, Configuration, Conversation, Crypto, Lock, Pubsub, Secretstore, Statestore,
    };
    match (kind, flow) {
        (Statestore, _) => (
            "reads, writes, deletions, transactions and queries; state of actors",
            None,
        ),
        (Pubsub, Flow::Outbound) => (
            "publishing, one by one and in bulk, and to dead letter topics",
            Some("where the component tells a status,"),
        ),
        (Pubsub, Flow::Inbound) => (
            "deliveries to the app: over HTTP, gRPC and streams, one by one and in bulk",
            Some(""),
        ),
        (Binding, Flow::Outbound) => ("output binding", None),
        (Binding, Flow::Inbound) => ("deliveries to the app", Some("over HTTP")),
        (Secretstore, _) => ("reading secrets", None),
        (Configuration, Flow::Outbound) => ("reading, subscribing and unsubscribing", None),
        (Configuration, Flow::Inbound) => ("changes that are told to an HTTP app", None),
        (Lock, _) => ("locking and unlocking", None),
        (Crypto, _) => ("every operation", None),
        (Conversation, _) => ("conversations", None),
    }
}
