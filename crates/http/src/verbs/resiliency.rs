//! The policies in force and the breakers that live, for operators; and closing breakers by hand.

use http::Response;
use outrigger_core::Body;
use outrigger_core::duration::format_go;
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_core::json::{Value, parse_all};
use outrigger_policy::{Codes, Jitter, Pauses};
use outrigger_resiliency::{
    BreakerRule, BreakerView, Plan, RefusedResource, RetryRule, Slot, TargetView,
};

use super::Outcome;
use crate::pipeline::{Api, Asked};
use crate::reply;

pub(super) fn get(api: &Api) -> Response<Body> {
    let view = api.blocks.policies();
    let refused = view.refused.iter().map(refused).collect();
    let built_in = view.service_retry.as_ref().map_or(Value::Null, retry);
    let members = [
        ("resources", texts(&view.resources)),
        ("refused", Value::Array(refused)),
        (
            "builtIn",
            Value::object([("DaprBuiltInServiceRetries", built_in)]),
        ),
        (
            "targets",
            Value::Array(view.targets.iter().map(target).collect()),
        ),
    ];
    reply::structure(200, &Value::object(members))
}

/// Closes breakers: `{"target": "app_b", "breaker": "b:orders"}`, or all that are meant by what is given.
pub(super) async fn reset(api: &Api, mut asked: Asked<'_>) -> Outcome {
    let body = asked
        .read()
        .await
        .map_err(|error| bad(&error.to_string()))?;
    let chosen = if body.is_empty() {
        Value::Object(Vec::new())
    } else {
        parse_all(&body).map_err(|error| bad(&error.to_string()))?
    };
    let Value::Object(members) = &chosen else {
        return Err(Box::new(bad("an object with `target` and `breaker`")));
    };
    for (name, value) in members {
        if !matches!(name.as_str(), "target" | "breaker") || value.as_str().is_none() {
            let message = format!("`{name}`: expected `target` and `breaker`, each a text");
            return Err(Box::new(bad(&message)));
        }
    }
    let text = |name| chosen.get(name).and_then(Value::as_str);
    let count = api
        .blocks
        .invoke
        .resiliency
        .reset(text("target"), text("breaker"));
    let count = Value::Number(count.to_string());
    Ok(reply::structure(200, &Value::object([("reset", count)])))
}

fn bad(why: &str) -> ApiError {
    ApiError::legacy(
        400,
        GrpcCode::InvalidArgument,
        "ERR_MALFORMED_REQUEST",
        "common",
        format!("failed deserializing HTTP body: {why}"),
    )
}

fn texts(texts: &[String]) -> Value {
    Value::Array(
        texts
            .iter()
            .map(|text| Value::string(text.as_str()))
            .collect(),
    )
}

fn refused(refused: &RefusedResource) -> Value {
    Value::object([
        ("name", Value::string(refused.name.as_str())),
        ("place", Value::string(refused.place.as_str())),
        ("reasons", texts(&refused.reasons)),
        ("lastGoodInForce", Value::Bool(refused.last_good_in_force)),
    ])
}

/// Members in order; what is absent is left out.
fn members(all: Vec<(&str, Option<Value>)>) -> Value {
    let present = all
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

fn duration(duration: std::time::Duration) -> Value {
    Value::String(format_go(duration))
}

fn target(view: &TargetView) -> Value {
    let plan: &Plan = view.plan();
    let breakers: Vec<Value> = view.breakers.iter().map(breaker).collect();
    members(vec![
        ("target", Some(Value::string(view.label.as_str()))),
        ("flow", Some(Value::string(view.flow))),
        ("named", Some(Value::Bool(plan.is_named))),
        (
            "timeout",
            plan.timeout
                .as_ref()
                .map(|slot| with_origin(slot, vec![("value", Some(duration(slot.rule)))])),
        ),
        ("retry", plan.retry.as_ref().map(retry)),
        (
            "circuitBreaker",
            plan.breaker
                .as_ref()
                .map(|slot| with_origin(slot, breaker_rule(&slot.rule))),
        ),
        ("totalTimeout", plan.total.map(duration)),
        (
            "budget",
            plan.budget.map(|budget| {
                Value::object([
                    ("ratio", Value::Number(budget.ratio.to_string())),
                    (
                        "minPerSecond",
                        Value::Number(budget.min_per_second.to_string()),
                    ),
                ])
            }),
        ),
        ("breakers", Some(Value::Array(breakers))),
    ])
}

fn with_origin<T>(slot: &Slot<T>, rule: Vec<(&str, Option<Value>)>) -> Value {
    let mut all = vec![("name", Some(Value::string(&*slot.name)))];
    all.extend(rule);
    let source = &slot.source;
    let resource = (!source.resource.is_empty()).then(|| Value::string(source.resource.as_str()));
    let place = source
        .place
        .as_ref()
        .map(|place| Value::String(place.to_string()));
    all.extend([
        ("origin", Some(Value::String(slot.origin.text()))),
        ("resource", resource),
        ("place", place),
    ]);
    members(all)
}

fn retry(slot: &Slot<RetryRule>) -> Value {
    let rule = &slot.rule.retry;
    let mut own = Vec::new();
    match rule.pauses {
        Pauses::Constant { pause, jitter } => {
            own.push(("policy", Some(Value::string("constant"))));
            own.push(("duration", Some(duration(pause))));
            own.push((
                "jitter",
                match jitter {
                    Jitter::Share(share) => (share > 0.0).then(|| Value::Number(share.to_string())),
                    Jitter::UpTo(most) => Some(duration(most)),
                },
            ));
        }
        Pauses::Exponential {
            initial,
            max,
            multiplier,
            randomization,
        } => {
            own.push(("policy", Some(Value::string("exponential"))));
            own.push(("initialInterval", Some(duration(initial))));
            own.push(("maxInterval", Some(duration(max))));
            own.push(("multiplier", Some(Value::Number(multiplier.to_string()))));
            own.push((
                "randomizationFactor",
                Some(Value::Number(randomization.to_string())),
            ));
        }
    }
    let max = rule.max_retries.map_or(-1, i64::from);
    own.push(("maxRetries", Some(Value::Number(max.to_string()))));
    own.push(("maxElapsedTime", rule.max_elapsed.map(duration)));
    own.push(("httpStatusCodes", codes(&rule.http)));
    own.push(("gRPCStatusCodes", codes(&rule.grpc)));
    with_origin(slot, own)
}

fn codes(codes: &Codes) -> Option<Value> {
    match codes {
        Codes::Every => None,
        Codes::Only(ranges) => {
            let range = |range: &std::ops::RangeInclusive<u16>| {
                if range.start() == range.end() {
                    range.start().to_string()
                } else {
                    format!("{}-{}", range.start(), range.end())
                }
            };
            let text: Vec<String> = ranges.iter().map(range).collect();
            Some(Value::String(text.join(",")))
        }
    }
}

fn breaker_rule(rule: &BreakerRule) -> Vec<(&'static str, Option<Value>)> {
    vec![
        ("trip", Some(Value::string(rule.trip.text()))),
        (
            "maxRequests",
            Some(Value::Number(rule.limits.max_requests.to_string())),
        ),
        ("interval", rule.limits.interval.map(duration)),
        ("timeout", Some(duration(rule.limits.timeout))),
    ]
}

fn breaker(view: &BreakerView) -> Value {
    let count = |count: u32| Value::Number(count.to_string());
    let counts = Value::object([
        ("requests", count(view.counts.requests)),
        ("totalSuccesses", count(view.counts.total_successes)),
        ("totalFailures", count(view.counts.total_failures)),
        (
            "consecutiveSuccesses",
            count(view.counts.consecutive_successes),
        ),
        (
            "consecutiveFailures",
            count(view.counts.consecutive_failures),
        ),
    ]);
    members(vec![
        ("breaker", Some(Value::string(view.name.as_str()))),
        ("state", Some(Value::string(view.state.name()))),
        ("forMs", Some(millis(view.for_so_long))),
        ("nextProbeMs", view.next_probe.map(millis)),
        ("counts", Some(counts)),
        ("lastError", view.last_error.as_deref().map(Value::string)),
    ])
}

fn millis(duration: std::time::Duration) -> Value {
    Value::Number(duration.as_millis().to_string())
}
