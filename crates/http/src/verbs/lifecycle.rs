//! The sidecar's own life: status, drain, history, and the stream of what happens.

use std::time::SystemTime;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use outrigger_blocks::drain::{self, Cause, Progress};
use outrigger_core::Body;
use outrigger_core::duration::parse_go;
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_core::json::Value;
use outrigger_telemetry::history::report;

use super::Outcome;
use crate::pipeline::{Api, Asked};
use crate::reply;

/// Changes that are told where nobody says how many.
const USUAL_LIMIT: usize = 500;
const MOST: usize = 20_000;

pub(super) fn status(api: &Api) -> Response<Body> {
    unstored(reply::structure(200, &api.blocks.status()))
}

pub(super) async fn drain(api: &Api, asked: Asked<'_>) -> Outcome {
    let query = asked.query();
    let given = |name: &str| {
        let pairs = query.pairs();
        let found = pairs.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let (wait, timeout) = (given("wait"), given("timeout"));
    let unknown = |name: &&str| !matches!(*name, "wait" | "timeout");
    if let Some(name) = query.pairs().iter().map(|(name, _)| *name).find(unknown) {
        return Err(Box::new(drain::unknown(name)));
    }
    let wait = drain::wait_of(wait.as_deref(), timeout.as_deref()).map_err(Box::new)?;
    let cause = if api.is_public {
        Cause::PreStop
    } else {
        Cause::Drain
    };
    let drained = api.blocks.drain(wait, cause).await;
    let progress = drained.map_err(Box::new)?;
    let status = match (wait, progress.drained) {
        (None, _) => 202,
        (Some(_), true) => 200,
        (Some(_), false) => 504,
    };
    Ok(told(status, &progress))
}

pub(super) async fn resume(api: &Api) -> Outcome {
    let progress = api.blocks.resume().await.map_err(Box::new)?;
    Ok(told(200, &progress))
}

fn told(status: u16, progress: &Progress) -> Response<Body> {
    let in_flight = progress
        .in_flight()
        .map(|(name, count)| (name, Value::Number(count.to_string())));
    let millis = i64::try_from(progress.duration.as_millis()).unwrap_or(i64::MAX);
    let mut members = vec![
        ("phase", Value::string(progress.phase.name())),
        ("drained", Value::Bool(progress.drained)),
        ("inflight", Value::Object(in_flight.collect())),
        ("durationMs", Value::integer(millis)),
    ];
    members.extend(progress.busy.map(|busy| ("busy", Value::Bool(busy))));
    let members = members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    unstored(reply::structure(status, &Value::Object(members.collect())))
}

fn unstored(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn bad(name: &str, found: &str, expected: &str) -> Box<ApiError> {
    let found: String = found.chars().take(64).collect();
    refused(format!(
        "parameter {name}: found {found:?}, expected {expected}"
    ))
}

/// A parameter that a history does not have.
fn unknown(name: &str) -> Box<ApiError> {
    let name: String = name.chars().take(64).collect();
    refused(format!(
        "parameter {name:?} is not known; known are since and limit"
    ))
}

fn refused(why: String) -> Box<ApiError> {
    let (code, tag) = (GrpcCode::InvalidArgument, "ERR_HISTORY_PARAMETER");
    Box::new(ApiError::legacy(400, code, tag, "common", why))
}

pub(super) async fn history(api: &Api, asked: Asked<'_>) -> Outcome {
    let query = asked.query();
    let now = SystemTime::now();
    let is_unknown = |name: &&str| !matches!(*name, "since" | "limit");
    if let Some(name) = query.pairs().iter().map(|(name, _)| *name).find(is_unknown) {
        return Err(unknown(name));
    }
    let since = match query.get("since") {
        "" => None,
        text => {
            let ago = parse_go(text)
                .filter(|time| time.nanoseconds >= 0)
                .ok_or_else(|| bad("since", text, "a duration such as 24h"))?;
            now.checked_sub(ago.clamped())
        }
    };
    let limit = match query.get("limit") {
        "" => USUAL_LIMIT,
        text => text
            .parse()
            .ok()
            .filter(|limit| *limit <= MOST)
            .ok_or_else(|| bad("limit", text, "a whole number up to 20000"))?,
    };
    let changes = api.blocks.read_history().await.map_err(Box::new)?;
    let document = report(changes, since).value(api.blocks.app_id.as_str(), now, limit);
    Ok(unstored(reply::structure(200, &document)))
}

/// Every change from now on, as server-sent events whose data are CloudEvents. Ends with the sidecar.
pub(super) fn events(api: &Api) -> Response<Body> {
    let stream = api.blocks.listen();
    let mut response = Response::new(Body::stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    unstored(response)
}
