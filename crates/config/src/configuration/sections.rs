//! The sections that need no second look.

use std::time::Duration;

use outrigger_core::duration::GoDuration;
use outrigger_core::nearest::nearest;

use super::{
    Action, ApiAccess, ApiLogging, ApiRule, DeniedType, Features, Mtls, NameResolution,
    PipelineHandler, SecretScope, Workflow, WorkflowRetention,
};
use crate::diagnostic::Diagnostic;
use crate::read::{Field, Object};

/// Overwrites what is there with what the file says.
pub(super) fn set<T>(value: &mut T, read: Option<T>) {
    if let Some(read) = read {
        *value = read;
    }
}

/// A list of maps, read one by one; absent when the field is, empty when it is null.
pub(super) fn items<T>(
    object: &Object<'_>,
    name: &'static str,
    read: impl Fn(&Object<'_>) -> T,
) -> Option<Vec<T>> {
    if object.is_null(name) {
        return Some(Vec::new());
    }
    let items = object.list(name)?;
    let read = |item: Object<'_>| {
        let value = read(&item);
        item.finish();
        value
    };
    Some(items.iter().filter_map(Field::object).map(read).collect())
}

pub(super) fn pipeline(handlers: &mut Vec<PipelineHandler>, object: &Object<'_>) {
    let read = items(object, "handlers", |handler| {
        let selector = handler.object("selector");
        let fields = selector.as_ref().and_then(|selector| {
            let fields = items(selector, "fields", |field| {
                (
                    field.text("field").unwrap_or_default(),
                    field.text("value").unwrap_or_default(),
                )
            });
            selector.finish();
            fields
        });
        PipelineHandler {
            name: handler.text("name").unwrap_or_default(),
            type_name: handler.text("type").unwrap_or_default(),
            version: handler.text("version").unwrap_or_default(),
            selector: fields.unwrap_or_default(),
        }
    });
    set(handlers, read);
}

pub(super) fn mtls(mtls: &mut Mtls, object: &Object<'_>) {
    set(&mut mtls.enabled, object.boolean("enabled"));
    set(&mut mtls.workload_cert_ttl, object.text("workloadCertTTL"));
    set(
        &mut mtls.allowed_clock_skew,
        object.text("allowedClockSkew"),
    );
    set(&mut mtls.sentry_address, object.text("sentryAddress"));
    set(
        &mut mtls.control_plane_trust_domain,
        object.text("controlPlaneTrustDomain"),
    );
    let validator = |validator: &Object<'_>| {
        let options = validator.field("options").map(|options| options.json());
        (
            validator.text("name").unwrap_or_default(),
            options.unwrap_or(outrigger_core::json::Value::Null),
        )
    };
    set(
        &mut mtls.token_validators,
        items(object, "tokenValidators", validator),
    );
}

pub(super) fn secrets(scopes: &mut Vec<SecretScope>, object: &Object<'_>) {
    let words = [("allow", Action::Allow), ("deny", Action::Deny)];
    let read = items(object, "scopes", |scope| {
        let access = scope.field("defaultAccess").filter(|field| {
            field
                .node
                .as_scalar()
                .is_none_or(|scalar| !scalar.text.is_empty())
        });
        let place = scope
            .field("storeName")
            .map_or_else(|| scope.place(), |field| field.place());
        let read = SecretScope {
            store: scope.text("storeName").unwrap_or_default(),
            default_access: access
                .and_then(|field| field.choice(true, &words))
                .unwrap_or(Action::Allow),
            allowed: scope.texts("allowedSecrets").unwrap_or_default(),
            denied: scope.texts("deniedSecrets").unwrap_or_default(),
        };
        (read, place)
    });
    let Some(read) = read else { return };
    for (i, (scope, place)) in read.iter().enumerate() {
        if read
            .iter()
            .take(i)
            .any(|(other, _)| other.store == scope.store)
        {
            let message = format!("store `{}` has two scopes", scope.store);
            object.reader().tell(
                Diagnostic::error("CFG-DUPLICATE", place.clone(), message)
                    .expected("one scope for each store"),
            );
        }
    }
    *scopes = read.into_iter().map(|(scope, _)| scope).collect();
}

pub(super) fn name_resolution(resolution: &mut NameResolution, object: &Object<'_>) {
    if let Some(field) = object.field("component") {
        resolution.place = field.place();
    }
    if let Some(component) = object.text("component") {
        resolution.component = Some(component).filter(|component| !component.is_empty());
    }
    set(&mut resolution.version, object.text("version"));
    match object.field("configuration") {
        Some(field) => resolution.configuration = Some(field.json()),
        None if object.is_null("configuration") => resolution.configuration = None,
        None => {}
    }
}

/// A list that stands directly below `spec`.
pub(super) fn features(spec: &Object<'_>, features: &mut Features) {
    let read = items(spec, "features", |feature| {
        let name = feature.text("name").unwrap_or_default();
        if let Some(field) = feature
            .field("name")
            .filter(|_| !name.is_empty() && !Features::KNOWN.contains(&name.as_str()))
        {
            let told = Diagnostic::warning(
                "CFG-FEATURE",
                field.place(),
                format!("there is no feature `{name}`"),
            );
            feature
                .reader()
                .tell(told.nearest(nearest(&name, Features::KNOWN)));
        }
        (name, feature.boolean("enabled").unwrap_or(false))
    });
    if let Some(read) = read {
        *features = Features::default();
        for (name, enabled) in read.into_iter().filter(|(name, _)| !name.is_empty()) {
            features.set(name, enabled);
        }
    }
}

pub(super) fn api(api: &mut ApiAccess, object: &Object<'_>) {
    let rule = |rule: &Object<'_>| {
        let read = ApiRule {
            name: rule.text("name").unwrap_or_default(),
            version: rule.text("version").unwrap_or_default(),
            protocol: rule.text("protocol").unwrap_or_default(),
        };
        if !read.protocol.eq_ignore_ascii_case("http") && read.protocol != "grpc" {
            let place = rule
                .field("protocol")
                .map_or_else(|| rule.place(), |field| field.place());
            let told = Diagnostic::warning(
                "CFG-WORD",
                place,
                format!("the rule for `{}` has no effect", read.name),
            )
            .found(&read.protocol);
            rule.reader()
                .tell(told.expected("`http` or `grpc` as protocol"));
        }
        read
    };
    set(&mut api.allowed, items(object, "allowed", rule));
    set(&mut api.denied, items(object, "denied", rule));
}

pub(super) fn denied_components(denied: &mut Vec<DeniedType>, object: &Object<'_>) {
    if object.is_null("deny") {
        denied.clear();
    }
    let Some(fields) = object.list("deny") else {
        return;
    };
    denied.clear();
    for (field, text) in fields
        .iter()
        .filter_map(|field| Some((field, field.text().filter(|text| !text.is_empty())?)))
    {
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(type_name), version, None) => denied.push(DeniedType {
                type_name: type_name.to_owned(),
                version: version
                    .filter(|version| !version.is_empty())
                    .map(str::to_owned),
            }),
            _ => field.ignored(
                "CFG-DENY",
                "the entry has no effect",
                "`type` or `type/version`",
            ),
        }
    }
}

pub(super) fn logging(logging: &mut ApiLogging, object: &Object<'_>) {
    if object.is_null("apiLogging") {
        *logging = ApiLogging::default();
    }
    if let Some(api) = object.object("apiLogging") {
        set(&mut logging.enabled, api.boolean("enabled"));
        set(&mut logging.obfuscate_urls, api.boolean("obfuscateURLs"));
        set(
            &mut logging.omit_health_checks,
            api.boolean("omitHealthChecks"),
        );
        api.finish();
    }
}

pub(super) fn wasm(strict: &mut bool, object: &Object<'_>) {
    set(strict, object.boolean("strictSandbox"));
}

pub(super) fn workflow(workflow: &mut Workflow, object: &Object<'_>) {
    let of = |name| object.field(name).map(|field| limit(&field));
    set(
        &mut workflow.max_concurrent_workflows,
        of("maxConcurrentWorkflowInvocations"),
    );
    set(
        &mut workflow.max_concurrent_activities,
        of("maxConcurrentActivityInvocations"),
    );
    set(
        &mut workflow.global_max_concurrent_workflows,
        of("globalMaxConcurrentWorkflowInvocations"),
    );
    set(
        &mut workflow.global_max_concurrent_activities,
        of("globalMaxConcurrentActivityInvocations"),
    );
    let named = |item: &Object<'_>| {
        let limit = item
            .field("maxConcurrent")
            .and_then(|field| limit(&field))
            .unwrap_or(0);
        (item.required("name"), limit)
    };
    set(
        &mut workflow.workflow_limits,
        items(object, "workflowConcurrencyLimits", named),
    );
    set(
        &mut workflow.activity_limits,
        items(object, "activityConcurrencyLimits", named),
    );
    if object.is_null("stateRetentionPolicy") {
        workflow.retention = WorkflowRetention::default();
    }
    if let Some(policy) = object.object("stateRetentionPolicy") {
        retention(&mut workflow.retention, &policy);
        policy.finish();
    }
}

/// Dapr: zero and less mean no limit.
fn limit(field: &Field<'_>) -> Option<u32> {
    let number = field.integer()?;
    if number > i64::from(i32::MAX) {
        let message = format!("`{}` is out of range", field.name());
        field.unusable("CFG-RANGE", message, "a whole number up to 2147483647");
    }
    u32::try_from(number).ok().filter(|number| *number > 0)
}

fn retention(retention: &mut WorkflowRetention, object: &Object<'_>) {
    let slots: [(&'static str, &mut Option<Duration>); 4] = [
        ("anyTerminal", &mut retention.any_terminal),
        ("completed", &mut retention.completed),
        ("failed", &mut retention.failed),
        ("terminated", &mut retention.terminated),
    ];
    for (name, slot) in slots {
        if object.is_null(name) {
            *slot = None;
        } else if let Some(field) = object.field(name) {
            *slot = field.duration().map(GoDuration::clamped);
        }
    }
}
