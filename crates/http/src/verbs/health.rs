//! Health: of the sidecar as Dapr asks for it, and of components, which Dapr does not tell.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use http::header::{ALLOW, CACHE_CONTROL};
use http::{HeaderValue, Response, StatusCode};
use outrigger_blocks::health::judge::{
    Detail, Item, PendingRevision, Reading, Report, Subject, Subscription, Verdict,
};
use outrigger_blocks::health::question::{self, Asked as Wanted, Question};
use outrigger_core::Body;
use outrigger_core::json::Value;

use super::{Outcome, done};
use crate::pipeline::{Api, Asked};
use crate::reply;

/// `healthz`, with whatever its query asks for. Only the plain question has an answer exactly as Dapr's.
pub(super) async fn ready(api: &Api, asked: Asked<'_>) -> Outcome {
    let wanted = {
        let query = asked.query();
        let wanted = question::parse(&query.pairs());
        if let Ok(Wanted::Plain) = wanted {
            return done(api.blocks.health.ready(Some(query.get("appid"))));
        }
        wanted
    };
    let outcome = match wanted {
        Ok(wanted) => examined(api, asked, wanted).await,
        Err(error) => Err(Box::new(error)),
    };
    Ok(unstored(api.finish(outcome)))
}

async fn examined(api: &Api, asked: Asked<'_>, wanted: Wanted) -> Outcome {
    let query = asked.query();
    let (health, app_id) = (&api.blocks.health, query.get("appid"));
    match wanted {
        Wanted::Plain => done(health.ready(Some(app_id))),
        Wanted::Targets(targets, effort) => {
            health.ours(Some(app_id)).map_err(Box::new)?;
            done(api.blocks.await_targets(&targets, effort).await)
        }
        Wanted::Health(question) => {
            if let Err(error) = health.ready(Some(app_id)) {
                return done(Err(error));
            }
            let report = api.blocks.examine(&question).await;
            Ok(told(seen(report, &asked)))
        }
    }
}

/// Everything that is known of every component. Answers in every phase.
pub(super) async fn list(api: &Api, asked: Asked<'_>) -> Outcome {
    let outcome = listed(api, asked).await;
    Ok(unstored(api.finish(outcome)))
}

async fn listed(api: &Api, asked: Asked<'_>) -> Outcome {
    let effort = question::effort(&asked.query().pairs()).map_err(Box::new)?;
    let question = Question {
        subjects: vec![Subject::Components],
        effort,
        reading: Reading {
            verbose: true,
            ignore_optional: false,
        },
    };
    let report = seen(api.blocks.examine(&question).await, &asked);
    let mut members = vec![
        (
            "phase".to_owned(),
            Value::string(api.blocks.health.phase.borrow().name()),
        ),
        (
            "gate".to_owned(),
            Value::string(api.blocks.metadata.gate.borrow().name()),
        ),
    ];
    members.extend(groups(&report));
    Ok(reply::structure(200, &Value::Object(members)))
}

/// The health of one component.
pub(super) async fn one(api: &Api, asked: Asked<'_>) -> Outcome {
    let outcome = inspected(api, asked).await;
    Ok(unstored(api.finish(outcome)))
}

async fn inspected(api: &Api, asked: Asked<'_>) -> Outcome {
    let effort = question::effort(&asked.query().pairs()).map_err(Box::new)?;
    let report = api.blocks.examine_one(&asked.param(0), effort).await;
    Ok(told(seen(report.map_err(Box::new)?, &asked)))
}

/// The part of a report that this caller may see.
fn seen(report: Report, asked: &Asked<'_>) -> Report {
    if asked.trail.is_trusted {
        report
    } else {
        report.bare()
    }
}

fn told(report: Report) -> Response<Body> {
    let status = match report.verdict {
        Verdict::Failed => 500,
        Verdict::Unverified => 405,
        Verdict::Fine if report.is_empty() => return reply::empty(),
        Verdict::Fine => 200,
    };
    let body = Value::Object(groups(&report).collect());
    let mut response = reply::structure(status, &body);
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

/// What was true a moment ago is not to be kept.
fn unstored(mut response: Response<Body>) -> Response<Body> {
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn groups(report: &Report) -> impl Iterator<Item = (String, Value)> {
    report.groups.iter().map(|(subject, items)| {
        let items = items.iter().map(item).collect();
        (subject.member().to_owned(), Value::Array(items))
    })
}

fn item(item: &Item) -> Value {
    let text = |text: &str| Some(Value::string(text));
    let mut all = vec![
        ("componentName", text(&item.name)),
        ("type", text(&item.block)),
        ("status", text(item.standing.name())),
        ("message", item.message.as_deref().and_then(text)),
        ("errorCode", item.code.and_then(text)),
    ];
    if let Some(known) = &item.detail {
        if item.optional {
            all.push(("optional", Some(Value::Bool(true))));
        }
        all.extend(detail(known));
    }
    members(all)
}

fn detail(known: &Detail) -> Vec<(&'static str, Option<Value>)> {
    let ping = known.ping.map(|ping| {
        members(vec![
            ("at", Some(at(ping.ago))),
            ("latencyMs", Some(millis(ping.latency))),
            ("failures", Some(Value::integer(ping.failures))),
        ])
    });
    let subscriptions: Vec<Value> = known.subscriptions.iter().map(subscription).collect();
    vec![
        (
            "componentType",
            Some(Value::string(known.full_type.as_str())),
        ),
        ("state", Some(Value::string(known.state))),
        ("class", known.class.map(Value::string)),
        (
            "attempt",
            (known.attempt > 0).then(|| Value::integer(known.attempt)),
        ),
        ("nextRetryMs", known.next_retry.map(millis)),
        (
            "since",
            (known.since > Duration::ZERO).then(|| at(known.since)),
        ),
        ("checkedAt", known.checked.map(at)),
        ("ageMs", known.checked.map(millis)),
        ("lastOkAt", known.last_ok.map(at)),
        ("lastReadyAt", known.last_ready.map(at)),
        ("ping", ping),
        (
            "waiters",
            (known.waiters > 0).then(|| Value::Number(known.waiters.to_string())),
        ),
        (
            "subscriptions",
            (!subscriptions.is_empty()).then_some(Value::Array(subscriptions)),
        ),
        ("pendingRevision", known.pending.as_ref().map(pending)),
    ]
}

fn pending(known: &PendingRevision) -> Value {
    let is_told = !known.full_type.is_empty();
    members(vec![
        (
            "componentType",
            is_told.then(|| Value::string(known.full_type.as_str())),
        ),
        ("state", Some(Value::string(known.state))),
        ("class", known.class.map(Value::string)),
        ("message", known.message.as_deref().map(Value::string)),
        (
            "attempt",
            (known.attempt > 0).then(|| Value::integer(known.attempt)),
        ),
        ("nextRetryMs", known.next_retry.map(millis)),
        ("since", Some(at(known.since))),
    ])
}

fn subscription(known: &Subscription) -> Value {
    members(vec![
        ("topic", Some(Value::string(known.topic.as_str()))),
        ("state", Some(Value::string(known.state.name()))),
        ("attempt", Some(Value::integer(known.attempt))),
        ("error", known.error.as_deref().map(Value::string)),
    ])
}

/// Members in order; what is absent is left out.
fn members(all: Vec<(&str, Option<Value>)>) -> Value {
    let present = all
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

fn millis(duration: Duration) -> Value {
    Value::Number(duration.as_millis().to_string())
}

/// The time of day so long ago.
fn at(ago: Duration) -> Value {
    let at = Utc::now() - ago;
    Value::String(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_blocks::health::judge::{Standing, report};
    use outrigger_core::json::{Numbers, Style, encode};

    fn shown(item_of: &Item) -> String {
        String::from_utf8(encode(&item(item_of), Style::Ours, Numbers::Exact)).unwrap()
    }

    fn undefined(name: &str) -> Item {
        let code = Some("ERR_PING_NOT_IMPLEMENTED");
        Item::plain(name, "pubsub", Standing::Undefined, code, None)
    }

    fn answer(items: Vec<Item>) -> Response<Body> {
        told(report(
            vec![(Subject::Components, items)],
            Reading::default(),
        ))
    }

    #[test]
    fn strangers_see_statuses_and_codes_only() {
        let failed = Item {
            message: Some("connection refused".into()),
            detail: Some(Detail::default()),
            ..Item::plain(
                "orders",
                "pubsub",
                Standing::NotOk,
                Some("ERR_COMPONENT_UNAVAILABLE"),
                None,
            )
        };
        assert_eq!(
            shown(&failed.bare()),
            r#"{"componentName":"orders","type":"pubsub","status":"NOT_OK","errorCode":"ERR_COMPONENT_UNAVAILABLE"}"#
        );
    }

    #[test]
    fn each_case_has_its_status_and_headers() {
        let item = |standing| Item::plain("a", "state", standing, Some("ERR_PING_FAILED"), None);
        for (items, status, allow) in [
            (vec![], 204, None),
            (vec![item(Standing::Ok)], 204, None),
            (vec![item(Standing::NotOk)], 500, None),
            (vec![item(Standing::NotOk), undefined("b")], 500, None),
            (vec![undefined("b")], 405, Some("GET")),
            (vec![item(Standing::Ok), undefined("b")], 200, None),
        ] {
            let answer = answer(items);
            let header = |name| {
                answer
                    .headers()
                    .get(name)
                    .map(|value| value.to_str().unwrap())
            };
            assert_eq!(answer.status().as_u16(), status);
            assert_eq!(header(ALLOW), allow);
        }
    }
}
