//! The metadata document in JSON.

use http::Response;
use outrigger_blocks::metadata::{Document, Reader};
use outrigger_blocks::pubsub::subscription::Listed;
use outrigger_core::Body;
use outrigger_core::duration::format_go;
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_core::json::Value;

use super::Outcome;
use crate::pipeline::{Api, Asked};
use crate::reply;

pub(super) fn get(api: &Api, asked: &Asked<'_>) -> Response<Body> {
    let reader = if asked.trail.is_trusted {
        Reader::Trusted
    } else {
        Reader::Stranger
    };
    reply::structure(200, &json(&api.blocks.metadata.document(reader)))
}

pub(super) async fn put(api: &Api, mut asked: Asked<'_>) -> Outcome {
    let key = asked.param(0);
    let body = asked.read().await.map_err(|error| {
        ApiError::legacy(
            400,
            GrpcCode::InvalidArgument,
            "ERR_BODY_READ",
            "common",
            format!("failed to read request body: {error}"),
        )
    })?;
    api.blocks
        .metadata
        .set(&key, &String::from_utf8_lossy(&body));
    Ok(reply::empty())
}

/// Members in Dapr's order; what is empty is left out.
fn json(document: &Document) -> Value {
    let mut out: Vec<(String, Value)> = Vec::new();
    let mut put = |name: &str, value: Value| {
        let empty = match &value {
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            Value::Null => true,
            Value::Bool(_) | Value::Number(_) => false,
        };
        if !empty {
            out.push((name.to_owned(), value));
        }
    };
    put("id", Value::string(document.id.as_str()));
    put(
        "runtimeVersion",
        Value::string(document.runtime_version.as_str()),
    );
    put("enabledFeatures", texts(&document.features));
    put(
        "components",
        Value::Array(document.components.iter().map(component).collect()),
    );
    put("extended", Value::strings(&document.extended));
    put(
        "subscriptions",
        Value::Array(document.subscriptions.iter().map(subscription).collect()),
    );
    put("httpEndpoints", named(&document.http_endpoints));
    put("appConnectionProperties", app(document));
    let status = if document.initializing {
        "INITIALIZING"
    } else {
        "DISABLED"
    };
    let mut actors = vec![
        ("runtimeStatus", Value::string(status)),
        ("hostReady", Value::Bool(false)),
    ];
    if !document.initializing {
        actors.push(("placement", Value::string("placement: disconnected")));
    }
    put("actorRuntime", object(actors));
    put("scheduler", Value::Null);
    put("resiliencies", named(&document.resiliencies));
    Value::Object(out)
}

fn component(component: &outrigger_blocks::metadata::Component) -> Value {
    let mut members = vec![
        ("name", Value::string(component.name.as_str())),
        ("type", Value::string(component.type_name.as_str())),
    ];
    if !component.version.is_empty() {
        members.push(("version", Value::string(component.version.as_str())));
    }
    if !component.capabilities.is_empty() {
        members.push((
            "capabilities",
            Value::Array(
                component
                    .capabilities
                    .iter()
                    .map(|word| Value::string(*word))
                    .collect(),
            ),
        ));
    }
    object(members)
}

fn subscription(listed: &Listed) -> Value {
    let plan = &listed.plan;
    let mut members = vec![
        ("pubsubname", Value::string(plan.pubsub.as_str())),
        ("topic", Value::string(plan.topic.as_str())),
    ];
    if !plan.metadata.is_empty() {
        members.push(("metadata", Value::strings(&plan.metadata)));
    }
    let rules: Vec<Value> = plan
        .rules
        .list()
        .map(|(expression, path)| rule(expression, path))
        .collect();
    if !rules.is_empty() {
        members.push(("rules", Value::Array(rules)));
    }
    members.push((
        "deadLetterTopic",
        Value::string(plan.dead_letter_topic.as_str()),
    ));
    members.push(("type", Value::string(plan.origin.name())));
    object(members)
}

fn rule(expression: &str, path: &str) -> Value {
    let parts = [("match", expression), ("path", path)];
    object(
        parts
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| (name, Value::string(text)))
            .collect(),
    )
}

fn app(document: &Document) -> Value {
    let app = &document.app;
    let mut members = Vec::new();
    if let Some(port) = app.port {
        members.push(("port", Value::integer(port)));
    }
    for (name, text) in [
        ("protocol", &app.protocol),
        ("channelAddress", &app.channel_address),
    ] {
        if !text.is_empty() {
            members.push((name, Value::string(text.as_str())));
        }
    }
    if app.max_concurrency != 0 {
        members.push(("maxConcurrency", Value::integer(app.max_concurrency)));
    }
    if let Some(health) = &app.health {
        let mut facts = Vec::new();
        if !health.path.is_empty() {
            facts.push(("healthCheckPath", Value::string(health.path.as_str())));
        }
        facts.push((
            "healthProbeInterval",
            Value::String(format_go(health.interval)),
        ));
        facts.push((
            "healthProbeTimeout",
            Value::String(format_go(health.timeout)),
        ));
        facts.push(("healthThreshold", Value::integer(health.threshold)));
        members.push(("health", object(facts)));
    }
    object(members)
}

fn texts(list: &[String]) -> Value {
    Value::Array(
        list.iter()
            .map(|text| Value::string(text.as_str()))
            .collect(),
    )
}

fn named(names: &[String]) -> Value {
    Value::Array(
        names
            .iter()
            .map(|name| Value::object([("name", Value::string(name.as_str()))]))
            .collect(),
    )
}

fn object(members: Vec<(&str, Value)>) -> Value {
    Value::Object(
        members
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}
