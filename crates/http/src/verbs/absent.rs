//! Building blocks that are not there yet: requests are read as far as Dapr reads them before it finds nothing.

use outrigger_blocks::errors::absent as told;
use outrigger_core::error::ApiError;
use outrigger_core::json::{Value, parse_all, parse_first};

use super::Outcome;
use crate::pipeline::{Api, Asked};
use crate::route::Verb;

pub(super) async fn call(api: &Api, asked: Asked<'_>, verb: Verb) -> Outcome {
    answer(api, asked, verb)
        .await
        .map_or_else(|error| Err(Box::new(error)), |error| Err(Box::new(error)))
}

/// What the caller is told; an `Err` is what was wrong with the request itself.
async fn answer(api: &Api, mut asked: Asked<'_>, verb: Verb) -> Result<ApiError, ApiError> {
    let blocks = &api.blocks;
    let name = asked.param(0).into_owned();
    Ok(match verb {
        Verb::InvokeBinding => {
            let request = plain(&mut asked).await?;
            let operation = request
                .field("operation")
                .and_then(Value::as_str)
                .unwrap_or_default();
            blocks.output_binding(&name, operation)
        }
        Verb::Configuration => blocks.configuration(&name),
        Verb::TryLock => {
            let request = message(&mut asked).await?;
            blocks.lock(
                &name,
                request.as_ref().map_or(0, |request| {
                    integer(request, &["expiryInSeconds", "expiry_in_seconds"])
                }),
            )
        }
        Verb::Unlock => {
            message(&mut asked).await?;
            blocks.unlock(&name)
        }
        Verb::TransactActorState | Verb::RegisterActor => {
            plain(&mut asked).await?;
            blocks.actor(&name, false)
        }
        Verb::InvokeActor => blocks.actor(&name, true),
        Verb::Actor => blocks.actor(&name, false),
        Verb::Workflow => blocks.workflow(),
        Verb::ScheduleJob => {
            let request = message(&mut asked).await?;
            let has = |names: &[&str]| {
                request.as_ref().is_some_and(|request| {
                    names
                        .iter()
                        .any(|name| request.get(name).is_some_and(|value| !value.is_null()))
                })
            };
            if request
                .as_ref()
                .and_then(|request| request.get("name"))
                .and_then(Value::as_str)
                .is_some_and(|name| !name.is_empty())
            {
                return Ok(told::job_named_in_body(blocks.app_id.as_str()));
            }
            blocks.schedule_job(&name, has(&["schedule", "dueTime", "due_time"]))
        }
        Verb::GetJob => blocks.get_job(&name),
        Verb::DeleteJob => blocks.delete_job(&name),
        Verb::Crypto => blocks.crypto(&name),
        Verb::Converse => {
            message(&mut asked).await?;
            blocks.conversation(&name)
        }
        // Compiled out of every release of Dapr.
        _ => told::unimplemented(),
    })
}

/// A body of plain JSON: what stands behind the first value does not matter.
async fn plain(asked: &mut Asked<'_>) -> Result<Value, ApiError> {
    let body = asked
        .read()
        .await
        .map_err(|error| told::malformed(&error.to_string()))?;
    let (value, _) = parse_first(&body).map_err(|error| told::malformed(&error.to_string()))?;
    Ok(value)
}

/// A body of protobuf JSON: an object and nothing else, or nothing at all.
async fn message(asked: &mut Asked<'_>) -> Result<Option<Value>, ApiError> {
    let body = asked.read().await.map_err(|error| {
        ApiError::legacy(
            400,
            outrigger_core::error::GrpcCode::InvalidArgument,
            "ERR_BODY_READ",
            "common",
            format!("failed to read request body: {error}"),
        )
    })?;
    if body.is_empty() {
        return Ok(None);
    }
    let value = parse_all(&body).map_err(|error| told::malformed(&format!("proto: {error}")))?;
    match value.as_object() {
        Some(_) => Ok(Some(value)),
        None => Err(told::malformed(&format!(
            "proto: syntax error (line 1:1): unexpected token {}",
            value.kind()
        ))),
    }
}

/// A number, which protobuf JSON may write as a text.
fn integer(object: &Value, names: &[&str]) -> i64 {
    let found = names.iter().find_map(|name| object.get(name));
    match found {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(value) => value.as_i64().unwrap_or(0),
        None => 0,
    }
}
