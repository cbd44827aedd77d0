//! The route table: what is served, under which path, for whom.
//!
//! Paths are matched segment by segment, fixed ones before parameters. Routes that the Configuration hides are as if they
//! were not there.

use http::Method;

/// One API that the Configuration allows or denies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    pub name: String,
    pub version: String,
}

/// What a route does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    GetState,
    SaveState,
    DeleteState,
    GetBulkState,
    TransactState,
    QueryState,
    Publish,
    BulkPublish,
    InvokeBinding,
    GetSecret,
    GetBulkSecret,
    Configuration,
    TryLock,
    Unlock,
    TransactActorState,
    InvokeActor,
    Actor,
    RegisterActor,
    Workflow,
    ScheduleJob,
    GetJob,
    DeleteJob,
    Crypto,
    SubtleCrypto,
    Converse,
    GetMetadata,
    PutMetadata,
    Healthz,
    HealthzOutbound,
    HealthzLive,
    HealthzComponents,
    HealthzComponent,
    Shutdown,
    GetResiliency,
    ResetBreakers,
    GetStatus,
    Drain,
    Resume,
    GetHistory,
    GetEvents,
    RetryComponent,
    Invoke,
}

/// A route: where it lies, to which group it belongs, what it is called in the API log.
#[derive(Debug)]
pub(crate) struct Route {
    pub verb: Verb,
    pub methods: &'static [Method],
    pub version: &'static str,
    pub pattern: &'static str,
    pub group: &'static str,
    pub group_version: &'static str,
    pub name: &'static str,
}

const POST_PUT: &[Method] = &[Method::POST, Method::PUT];
const POST: &[Method] = &[Method::POST];
const GET_POST: &[Method] = &[Method::GET, Method::POST];
const GET: &[Method] = &[Method::GET];
const PUT: &[Method] = &[Method::PUT];
const DELETE: &[Method] = &[Method::DELETE];

macro_rules! routes {
    ($( $verb:ident $methods:expr, $version:literal $pattern:literal, $group:literal $group_version:literal, $name:literal; )*) => {
        &[$( Route { verb: Verb::$verb, methods: $methods, version: $version, pattern: $pattern, group: $group, group_version: $group_version, name: $name }, )*]
    };
}

/// Fixed segments stand before parameters of the same place.
pub(crate) static ROUTES: &[Route] = routes! {
    GetBulkState POST_PUT, "v1.0" "state/{storeName}/bulk", "state" "v1", "GetBulkState";
    TransactState POST_PUT, "v1.0" "state/{storeName}/transaction", "state" "v1", "ExecuteStateTransaction";
    GetState GET, "v1.0" "state/{storeName}/{key}", "state" "v1", "GetState";
    SaveState POST_PUT, "v1.0" "state/{storeName}", "state" "v1", "SaveState";
    DeleteState DELETE, "v1.0" "state/{storeName}/{key}", "state" "v1", "DeleteState";
    QueryState POST_PUT, "v1.0-alpha1" "state/{storeName}/query", "state" "v1alpha1", "QueryStateAlpha1";
    BulkPublish POST_PUT, "v1.0" "publish/bulk/{pubsubname}/*", "publish" "v1", "BulkPublishEvent";
    BulkPublish POST_PUT, "v1.0-alpha1" "publish/bulk/{pubsubname}/*", "publish" "v1alpha1", "BulkPublishEvent";
    Publish POST_PUT, "v1.0" "publish/{pubsubname}/*", "publish" "v1", "PublishEvent";
    InvokeBinding POST_PUT, "v1.0" "bindings/{name}", "bindings" "v1", "InvokeBinding";
    GetBulkSecret GET, "v1.0" "secrets/{secretStoreName}/bulk", "secrets" "v1", "GetBulkSecret";
    GetSecret GET, "v1.0" "secrets/{secretStoreName}/{key}", "secrets" "v1", "GetSecret";
    Configuration GET, "v1.0" "configuration/{storeName}", "configuration" "v1", "GetConfiguration";
    Configuration GET, "v1.0-alpha1" "configuration/{storeName}", "configuration" "v1alpha1", "GetConfiguration";
    Configuration GET, "v1.0" "configuration/{storeName}/subscribe", "configuration" "v1", "SubscribeConfiguration";
    Configuration GET, "v1.0-alpha1" "configuration/{storeName}/subscribe", "configuration" "v1alpha1", "SubscribeConfiguration";
    Configuration GET, "v1.0" "configuration/{storeName}/{configurationSubscribeID}/unsubscribe", "configuration" "v1", "UnsubscribeConfiguration";
    Configuration GET, "v1.0-alpha1" "configuration/{storeName}/{configurationSubscribeID}/unsubscribe", "configuration" "v1alpha1", "UnsubscribeConfiguration";
    TryLock POST, "v1.0-alpha1" "lock/{storeName}", "lock" "v1alpha1", "TryLock";
    Unlock POST, "v1.0-alpha1" "unlock/{storeName}", "unlock" "v1alpha1", "Unlock";
    TransactActorState POST_PUT, "v1.0" "actors/{actorType}/{actorId}/state", "actors" "v1", "ExecuteActorStateTransaction";
    InvokeActor &[Method::GET, Method::POST, Method::DELETE, Method::PUT], "v1.0" "actors/{actorType}/{actorId}/method/{method}", "actors" "v1", "InvokeActor";
    Actor GET, "v1.0" "actors/{actorType}/{actorId}/state/{key}", "actors" "v1", "GetActorState";
    RegisterActor POST_PUT, "v1.0" "actors/{actorType}/{actorId}/reminders/{name}", "actors" "v1", "RegisterActorReminder";
    RegisterActor POST_PUT, "v1.0" "actors/{actorType}/{actorId}/timers/{name}", "actors" "v1", "RegisterActorTimer";
    Actor DELETE, "v1.0" "actors/{actorType}/{actorId}/reminders/{name}", "actors" "v1", "UnregisterActorReminder";
    Actor DELETE, "v1.0" "actors/{actorType}/{actorId}/timers/{name}", "actors" "v1", "UnregisterActorTimer";
    Actor GET, "v1.0" "actors/{actorType}/{actorId}/reminders/{name}", "actors" "v1", "GetActorReminder";
    Workflow GET, "v1.0" "workflows/{workflowComponent}/{instanceID}", "workflows" "v1", "GetWorkflow";
    Workflow GET, "v1.0-alpha1" "workflows/{workflowComponent}/{instanceID}", "workflows" "v1alpha1", "GetWorkflow";
    Workflow GET, "v1.0-beta1" "workflows/{workflowComponent}/{instanceID}", "workflows" "v1beta1", "GetWorkflow";
    Workflow POST, "v1.0" "workflows/{workflowComponent}/{instanceID}/raiseEvent/{eventName}", "workflows" "v1", "RaiseEventWorkflow";
    Workflow POST, "v1.0-alpha1" "workflows/{workflowComponent}/{instanceID}/raiseEvent/{eventName}", "workflows" "v1alpha1", "RaiseEventWorkflow";
    Workflow POST, "v1.0-beta1" "workflows/{workflowComponent}/{instanceID}/raiseEvent/{eventName}", "workflows" "v1beta1", "RaiseEventWorkflow";
    Workflow POST, "v1.0" "workflows/{workflowComponent}/{workflowName}/start", "workflows" "v1", "StartWorkflow";
    Workflow POST, "v1.0-alpha1" "workflows/{workflowComponent}/{workflowName}/start", "workflows" "v1alpha1", "StartWorkflow";
    Workflow POST, "v1.0-beta1" "workflows/{workflowComponent}/{workflowName}/start", "workflows" "v1beta1", "StartWorkflow";
    Workflow POST, "v1.0" "workflows/{workflowComponent}/{instanceID}/pause", "workflows" "v1", "PauseWorkflow";
    Workflow POST, "v1.0-alpha1" "workflows/{workflowComponent}/{instanceID}/pause", "workflows" "v1alpha1", "PauseWorkflow";
    Workflow POST, "v1.0-beta1" "workflows/{workflowComponent}/{instanceID}/pause", "workflows" "v1beta1", "PauseWorkflow";
    Workflow POST, "v1.0" "workflows/{workflowComponent}/{instanceID}/resume", "workflows" "v1", "ResumeWorkflow";
    Workflow POST, "v1.0-alpha1" "workflows/{workflowComponent}/{instanceID}/resume", "workflows" "v1alpha1", "ResumeWorkflow";
    Workflow POST, "v1.0-beta1" "workflows/{workflowComponent}/{instanceID}/resume", "workflows" "v1beta1", "ResumeWorkflow";
    Workflow POST, "v1.0" "workflows/{workflowComponent}/{instanceID}/terminate", "workflows" "v1", "TerminateWorkflow";
    Workflow POST, "v1.0-alpha1" "workflows/{workflowComponent}/{instanceID}/terminate", "workflows" "v1alpha1", "TerminateWorkflow";
    Workflow POST, "v1.0-beta1" "workflows/{workflowComponent}/{instanceID}/terminate", "workflows" "v1beta1", "TerminateWorkflow";
    Workflow POST, "v1.0" "workflows/{workflowComponent}/{instanceID}/purge", "workflows" "v1", "PurgeWorkflow";
    Workflow POST, "v1.0-alpha1" "workflows/{workflowComponent}/{instanceID}/purge", "workflows" "v1alpha1", "PurgeWorkflow";
    Workflow POST, "v1.0-beta1" "workflows/{workflowComponent}/{instanceID}/purge", "workflows" "v1beta1", "PurgeWorkflow";
    ScheduleJob POST, "v1.0" "jobs/{name}", "jobs" "v1", "ScheduleJob";
    ScheduleJob POST, "v1.0-alpha1" "jobs/{name}", "jobs" "v1alpha1", "ScheduleJob";
    GetJob GET, "v1.0" "jobs/{name}", "jobs" "v1", "GetJob";
    GetJob GET, "v1.0-alpha1" "jobs/{name}", "jobs" "v1alpha1", "GetJob";
    DeleteJob DELETE, "v1.0" "jobs/{name}", "jobs" "v1", "DeleteJob";
    DeleteJob DELETE, "v1.0-alpha1" "jobs/{name}", "jobs" "v1alpha1", "DeleteJob";
    Crypto PUT, "v1.0-alpha1" "crypto/{name}/encrypt", "crypto" "v1alpha1", "Encrypt";
    Crypto PUT, "v1.0-alpha1" "crypto/{name}/decrypt", "crypto" "v1alpha1", "Decrypt";
    SubtleCrypto POST, "v1.0-alpha1" "subtlecrypto/{name}/getkey", "subtlecrypto" "v1alpha1", "SubtleGetKey";
    SubtleCrypto POST, "v1.0-alpha1" "subtlecrypto/{name}/encrypt", "subtlecrypto" "v1alpha1", "SubtleEncrypt";
    SubtleCrypto POST, "v1.0-alpha1" "subtlecrypto/{name}/decrypt", "subtlecrypto" "v1alpha1", "SubtleDecrypt";
    SubtleCrypto POST, "v1.0-alpha1" "subtlecrypto/{name}/wrapkey", "subtlecrypto" "v1alpha1", "SubtleWrapKey";
    SubtleCrypto POST, "v1.0-alpha1" "subtlecrypto/{name}/unwrapkey", "subtlecrypto" "v1alpha1", "SubtleUnwrapKey";
    SubtleCrypto POST, "v1.0-alpha1" "subtlecrypto/{name}/sign", "subtlecrypto" "v1alpha1", "SubtleSign";
    SubtleCrypto POST, "v1.0-alpha1" "subtlecrypto/{name}/verify", "subtlecrypto" "v1alpha1", "SubtleVerify";
    Converse POST, "v1.0-alpha1" "conversation/{name}/converse", "conversation" "v1alpha1", "Converse";
    Converse POST, "v1.0-alpha2" "conversation/{name}/converse", "conversation" "v1alpha2", "Converse";
    GetMetadata GET, "v1.0" "metadata", "metadata" "v1", "GetMetadata";
    PutMetadata PUT, "v1.0" "metadata/{key}", "metadata" "v1", "PutMetadata";
    HealthzOutbound GET, "v1.0" "healthz/outbound", "healthz" "v1", "HealthzOutbound";
    HealthzLive GET, "v1.0" "healthz/live", "healthz" "v1", "HealthzLive";
    HealthzComponents GET, "v1.0" "healthz/components", "healthz" "v1", "HealthzComponents";
    HealthzComponent GET, "v1.0" "healthz/components/{name}", "healthz" "v1", "HealthzComponent";
    Healthz GET, "v1.0" "healthz", "healthz" "v1", "Healthz";
    Shutdown POST, "v1.0" "shutdown", "shutdown" "v1", "Shutdown";
    ResetBreakers POST, "outrigger" "v1/resiliency/reset", "outrigger" "v1", "ResetBreakers";
    GetResiliency GET, "outrigger" "v1/resiliency", "outrigger" "v1", "GetResiliency";
    GetStatus GET, "outrigger" "v1/status", "outrigger" "v1", "GetStatus";
    Drain GET_POST, "outrigger" "v1/drain", "outrigger" "v1", "Drain";
    Resume DELETE, "outrigger" "v1/drain", "outrigger" "v1", "Resume";
    GetHistory GET, "outrigger" "v1/history", "outrigger" "v1", "GetHistory";
    GetEvents GET, "outrigger" "v1/events", "outrigger" "v1", "GetEvents";
    RetryComponent POST, "outrigger" "v1/components/{name}/retry", "outrigger" "v1", "RetryComponent";
};

/// The route of everything else.
pub(crate) static INVOKE: Route = Route {
    verb: Verb::Invoke,
    methods: &[],
    version: "v1.0",
    pattern: "invoke/*",
    group: "invoke",
    group_version: "v1",
    name: "InvokeService",
};

impl Route {
    pub(crate) fn is_health_check(&self) -> bool {
        self.group == "healthz"
    }

    /// Whether a rule names this route: by group, or by a prefix of its pattern in the older style.
    fn is_named_by(&self, rule: &Rule) -> bool {
        if rule.name == self.group && rule.version == self.group_version {
            return true;
        }
        let (prefix, version) = (
            format!("{}/{}", rule.version, rule.name),
            format!("{}/{}", self.version, self.pattern),
        );
        version.starts_with(&prefix)
    }

    fn is_shown(&self, allowed: &[Rule], denied: &[Rule]) -> bool {
        let named = |rules: &[Rule]| rules.iter().any(|rule| self.is_named_by(rule));
        self.is_health_check() || (!named(denied) && (allowed.is_empty() || named(allowed)))
    }
}

/// What a request asks for, with the parameters of its path, still escaped.
#[derive(Clone, Debug)]
pub(crate) struct Matched<'a> {
    pub route: &'static Route,
    pub params: [&'a str; 4],
}

/// Routes with their segments, by the segment behind the version.
type Groups = Vec<(&'static str, Vec<(&'static Route, Vec<&'static str>)>)>;

/// The routes that are shown.
#[derive(Debug)]
pub(crate) struct Table {
    groups: Groups,
    invoke: bool,
}

/// A path that fits no route, and whether one for another verb.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Miss {
    Path,
    Verb,
    /// Of a path below `/outrigger`, which no app is called by; the verbs that there are.
    OwnVerb(Vec<&'static Method>),
}

/// In place of a version, in front of what Dapr does not have.
const OWN: &str = "outrigger";

impl Table {
    pub(crate) fn new(allowed: &[Rule], denied: &[Rule]) -> Self {
        let mut groups = Groups::new();
        for route in ROUTES
            .iter()
            .filter(|route| route.is_shown(allowed, denied))
        {
            let mut segments: Vec<&'static str> = route.pattern.split('/').collect();
            let first = segments.remove(0);
            match groups.iter_mut().find(|(name, _)| *name == first) {
                Some((_, routes)) => routes.push((route, segments)),
                None => groups.push((first, vec![(route, segments)])),
            }
        }
        Self {
            groups,
            invoke: INVOKE.is_shown(allowed, denied),
        }
    }

    /// Whether unknown paths are invocations.
    pub(crate) fn invokes(&self) -> bool {
        self.invoke
    }

    /// The route of a cleaned path.
    pub(crate) fn find<'a>(&self, method: &Method, path: &'a str) -> Result<Matched<'a>, Miss> {
        let mut parts = path.get(1..).unwrap_or_default().splitn(3, '/');
        let (Some(version), Some(first)) = (parts.next(), parts.next()) else {
            return Err(Miss::Path);
        };
        let rest = parts.next().unwrap_or_default();
        let Some((_, routes)) = self.groups.iter().find(|(name, _)| *name == first) else {
            return Err(Miss::Path);
        };
        let mut others: Vec<&'static Method> = Vec::new();
        for (route, segments) in routes {
            if route.version != version {
                continue;
            }
            if let Some(params) = fit(segments, rest) {
                if route.methods.contains(method) {
                    return Ok(Matched { route, params });
                }
                others.extend(route.methods);
            }
        }
        Err(match others.as_slice() {
            [] => Miss::Path,
            _ if version == OWN => Miss::OwnVerb(others),
            _ => Miss::Verb,
        })
    }
}

/// The parameters, if a path fits the segments. `*` takes at least one character.
fn fit<'a>(segments: &[&str], path: &'a str) -> Option<[&'a str; 4]> {
    let mut params = [""; 4];
    let mut places = params.iter_mut();
    let mut rest = Some(path).filter(|path| !path.is_empty());
    for segment in segments {
        let whole = rest?;
        if *segment == "*" {
            *places.next()? = whole;
            return Some(params);
        }
        let (part, after) = whole
            .split_once('/')
            .map_or((whole, None), |(part, after)| (part, Some(after)));
        if segment.starts_with('{') {
            *places.next()? = part;
        } else if *segment != part {
            return None;
        }
        rest = after;
    }
    rest.is_none().then_some(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(table: &Table, method: &Method, path: &str) -> Option<(Verb, Vec<String>)> {
        let matched = table.find(method, path).ok()?;
        Some((
            matched.route.verb,
            matched
                .params
                .iter()
                .filter(|param| !param.is_empty())
                .map(|param| (*param).to_owned())
                .collect(),
        ))
    }

    #[test]
    fn fixed_segments_come_before_parameters_and_verbs_decide() {
        let table = Table::new(&[], &[]);
        assert_eq!(
            found(&table, &Method::GET, "/v1.0/state/s/bulk"),
            Some((Verb::GetState, vec!["s".into(), "bulk".into()]))
        );
        assert_eq!(
            found(&table, &Method::POST, "/v1.0/state/s/bulk"),
            Some((Verb::GetBulkState, vec!["s".into()]))
        );
        assert_eq!(
            found(&table, &Method::POST, "/v1.0/publish/bulk/p/a/b"),
            Some((Verb::BulkPublish, vec!["p".into(), "a/b".into()]))
        );
        assert_eq!(
            found(&table, &Method::POST, "/v1.0/publish/bulk/t"),
            Some((Verb::Publish, vec!["bulk".into(), "t".into()]))
        );
        assert_eq!(
            found(&table, &Method::GET, "/v1.0/healthz"),
            Some((Verb::Healthz, vec![]))
        );
        for (method, path) in [
            (Method::GET, "/v1.0/state/s"),
            (Method::HEAD, "/v1.0/state/s/k"),
            (Method::POST, "/v1.0/publish/p"),
            (Method::GET, "/v1.0"),
            (Method::GET, "/"),
            (Method::GET, "/v1.0/state/s/k/x"),
        ] {
            assert!(table.find(&method, path).is_err(), "{method} {path}");
        }
        assert_eq!(
            table.find(&Method::PATCH, "/v1.0/state/s").err(),
            Some(Miss::Verb)
        );
    }

    #[test]
    fn every_pattern_is_reached_by_its_own_path() {
        let table = Table::new(&[], &[]);
        for route in ROUTES {
            let path = format!("/{}/{}", route.version, route.pattern.replace('*', "x"));
            let path = path.replace("{storeName}", "s").replace("{key}", "k");
            for method in route.methods {
                let matched = table.find(method, &path).unwrap();
                assert!(
                    std::ptr::eq(matched.route, route),
                    "{method} {path} reaches {:?}",
                    matched.route.name
                );
            }
        }
    }

    #[test]
    fn rules_hide_by_group_or_by_prefix() {
        let rule = |name: &str, version: &str| Rule {
            name: name.into(),
            version: version.into(),
        };
        let table = Table::new(&[rule("state", "v1")], &[]);
        assert!(found(&table, &Method::GET, "/v1.0/state/s/k").is_some());
        assert!(found(&table, &Method::POST, "/v1.0-alpha1/state/s/query").is_none());
        assert!(found(&table, &Method::POST, "/v1.0/publish/p/t").is_none());
        assert!(
            found(&table, &Method::GET, "/v1.0/healthz").is_some(),
            "health is always shown"
        );
        assert!(!table.invokes());
        let table = Table::new(
            &[],
            &[rule("state/mystore", "v1.0"), rule("publish", "v1.0")],
        );
        assert!(
            found(&table, &Method::GET, "/v1.0/state/mystore/k").is_some(),
            "a store's name never matches"
        );
        assert!(found(&table, &Method::POST, "/v1.0/publish/p/t").is_none());
        assert!(table.invokes());
    }
}
