//! What applies to calls of an app, an HTTPEndpoint or a URL.

use outrigger_config::resiliency::BreakerKey;
use outrigger_resiliency::{AppPlan, Default, Flow, MethodPlan};

use super::target::{BuiltIn, Parts, Told, close};
use super::worst::Case;
use super::{Asked, Known, words};

pub(super) fn tell(known: &Known, asked: &Asked) -> Told {
    let mut told = Told::default();
    let name = asked.name.as_str();
    let own_namespace = known.own_namespace.as_str();
    let (id, namespace) = name.split_once('.').unwrap_or((name, own_namespace));
    let is_url = name.starts_with("http://") || name.starts_with("https://");
    let endpoint = known
        .loaded
        .http_endpoints
        .iter()
        .find(|one| one.name == id);
    let is_own = id == asked.app_id && namespace == own_namespace;
    let is_app = !is_url && endpoint.is_none();
    if is_app && namespace.contains('.') {
        told.notes.push(format!(
            "`{name}` is no app id: calls fail before any policy applies"
        ));
    }
    let app = known.book.app(name, own_namespace);
    let service = known.book.service_retry();
    let built_in: BuiltIn<'_> = match (&service, &app.entry) {
        _ if !is_app => Err("only calls of other sidecars have one".to_owned()),
        _ if is_own => Err("a call of the own app does not leave the sidecar".to_owned()),
        (_, Some(entry)) => Err(format!(
            "off, because the entry `{entry}` names the target, whatever it holds"
        )),
        (None, _) => Err("switched off by `builtin: {service: off}`".to_owned()),
        (Some(slot), None) => Ok(slot),
    };
    let mut cases = vec![(Case::AtOnce, "every answer is a failure, at once")];
    if built_in.is_ok() {
        cases.push((Case::Unreachable, "its sidecar cannot be reached"));
    }
    cases.push((Case::Hanging, "no answer comes"));
    let what = match (is_url, endpoint, is_own) {
        (true, ..) => "URL",
        (_, Some(_), _) => "HTTP endpoint",
        (.., true) => "own app",
        _ => "app",
    };
    let method = choose(&app, asked, &mut told.notes);
    let plan = method.map_or(&app.plan, |method| &method.plan);
    let mut title = format!("Calls of the {what} `{name}`");
    if let Some(wanted) = &asked.method {
        let verb = asked
            .verb
            .as_ref()
            .map(|verb| format!("{} ", verb.to_ascii_uppercase()));
        title.push_str(&format!(", {}/{wanted}", verb.unwrap_or_default()));
    }
    if let Some(method) = method {
        title.push_str(&format!(" (entry `{}` of its `methods`)", method.pattern));
    }
    let meant = if is_app {
        "HTTP invocation, gRPC `InvokeService` and gRPC proxying, by this sidecar"
    } else {
        "HTTP invocation by this sidecar"
    };
    let base_url = endpoint.map(|endpoint| endpoint.base_url.as_str());
    let parts = Parts {
        title,
        flow: Flow::Outbound,
        kinds: Vec::new(),
        meant: meant.to_owned(),
        plan,
        default: Default::App,
        matching: Some(""),
        built_in: Some((
            built_in,
            "when the other sidecar cannot be reached (UNAVAILABLE or UNAUTHENTICATED), within each attempt",
        )),
        spans_built_in: true,
        cases,
        keys: app_keys(asked, is_url, base_url, method, app.cache_size),
        pushback: Some("`Retry-After` of the other side, or its like in gRPC,"),
    };
    told.sections.push(parts.section(known));
    if app.entry.is_none() {
        told.notes.extend(close(
            name,
            known.book.app_targets(),
            "an entry of `targets.apps`",
        ));
    }
    told
}

/// The entry of `methods` that applies, as a sidecar finds it.
fn choose<'a>(app: &'a AppPlan, asked: &Asked, notes: &mut Vec<String>) -> Option<&'a MethodPlan> {
    let patterns = || {
        let patterns = app
            .methods
            .iter()
            .map(|method| format!("`{}`", method.pattern));
        patterns.collect::<Vec<_>>().join(", ")
    };
    let Some(wanted) = &asked.method else {
        if !app.methods.is_empty() {
            notes.push(format!(
                "calls of {} have policies of their own; `--method` shows them",
                patterns()
            ));
        }
        return None;
    };
    let verb = asked.verb.as_deref();
    let found = app
        .methods
        .iter()
        .find(|method| method.matches(wanted, verb));
    if verb.is_none() {
        let before = app
            .methods
            .iter()
            .take_while(|method| found.is_none_or(|found| !std::ptr::eq(found, *method)));
        for method in before.filter(|method| !method.verbs.is_empty()) {
            if method
                .verbs
                .iter()
                .any(|verb| method.matches(wanted, Some(verb)))
            {
                notes.push(format!(
                    "`{}` is passed over, because it asks for {} and no `--verb` is given",
                    method.pattern,
                    words::either(&method.verbs)
                ));
            }
        }
    }
    found
}

/// What the breakers of an app are called, as the engine composes it.
fn app_keys(
    asked: &Asked,
    is_url: bool,
    base_url: Option<&str>,
    method: Option<&MethodPlan>,
    cache_size: usize,
) -> Vec<String> {
    let name = &asked.name;
    let joint = if is_url { "/" } else { ":" };
    match method.map(|method| (method.breaker_key, &method.pattern)) {
        Some((BreakerKey::Pattern, pattern)) => {
            return vec![format!(
                "{name}{joint}{pattern}, one for all that it matches"
            )];
        }
        Some((BreakerKey::App, _)) => return vec![format!("{name}{joint}, one for all paths")],
        Some((BreakerKey::Path, _)) | None => {}
    }
    match (base_url, &asked.method) {
        (Some(url), _) => vec![format!("{name}:{url}, one for all paths")],
        (None, Some(method)) if is_url => vec![format!("{name}/{method}")],
        (None, Some(method)) => {
            vec![format!("{name}:{method} (gRPC proxying: {name}:/{method})")]
        }
        (None, None) => vec![format!(
            "{name}{joint}<method>, one for each method; up to {cache_size} are remembered"
        )],
    }
}
