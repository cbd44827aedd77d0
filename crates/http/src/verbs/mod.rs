//! One function for each verb: read the request, call the building block, write the reply.

mod absent;
mod health;
pub(crate) mod invoke;
mod lifecycle;
mod metadata;
mod publish;
mod resiliency;
mod secrets;
mod state;

use http::Response;
use outrigger_blocks::StopRequest;
use outrigger_core::error::ApiError;
use outrigger_core::{Body, metadata::is_truthy};

use crate::pipeline::{Api, Asked};
use crate::reply;
use crate::route::Verb;

pub(crate) type Outcome = Result<Response<Body>, Box<ApiError>>;

/// Calls the verb of a route.
pub(crate) async fn call(api: &Api, asked: Asked<'_>, verb: Verb) -> Outcome {
    match verb {
        Verb::GetState => state::get(api, asked).await,
        Verb::SaveState => state::save(api, asked).await,
        Verb::DeleteState => state::delete(api, asked).await,
        Verb::GetBulkState => state::bulk_get(api, asked).await,
        Verb::TransactState => state::transact(api, asked).await,
        Verb::QueryState => state::query(api, asked).await,
        Verb::Publish => publish::single(api, asked).await,
        Verb::BulkPublish => publish::bulk(api, asked).await,
        Verb::GetSecret => secrets::get(api, asked).await,
        Verb::GetBulkSecret => secrets::bulk_get(api, asked).await,
        Verb::GetMetadata => Ok(metadata::get(api, &asked)),
        Verb::PutMetadata => metadata::put(api, asked).await,
        Verb::GetResiliency => Ok(resiliency::get(api)),
        Verb::ResetBreakers => resiliency::reset(api, asked).await,
        Verb::GetStatus => Ok(lifecycle::status(api)),
        Verb::Drain => lifecycle::drain(api, asked).await,
        Verb::Resume => lifecycle::resume(api).await,
        Verb::GetHistory => lifecycle::history(api, asked).await,
        Verb::GetEvents => Ok(lifecycle::events(api)),
        Verb::RetryComponent => retry(api, &asked),
        Verb::Healthz => health::ready(api, asked).await,
        Verb::HealthzComponents => health::list(api, asked).await,
        Verb::HealthzComponent => health::one(api, asked).await,
        Verb::HealthzOutbound => done(api.blocks.health.outbound()),
        Verb::HealthzLive => done(api.blocks.health.live()),
        Verb::Shutdown => Ok(shut_down(api, &asked)),
        Verb::InvokeBinding
        | Verb::Configuration
        | Verb::TryLock
        | Verb::Unlock
        | Verb::TransactActorState
        | Verb::InvokeActor
        | Verb::Actor
        | Verb::RegisterActor
        | Verb::Workflow
        | Verb::ScheduleJob
        | Verb::GetJob
        | Verb::DeleteJob
        | Verb::Crypto
        | Verb::SubtleCrypto
        | Verb::Converse => absent::call(api, asked, verb).await,
        // Not in the table.
        Verb::Invoke => Ok(reply::not_found()),
    }
}

/// Nothing to say of a success.
fn done(outcome: Result<(), ApiError>) -> Outcome {
    outcome.map(|()| reply::empty()).map_err(Box::new)
}

/// What is not ready is tried at once; the answer does not wait for that.
fn retry(api: &Api, asked: &Asked<'_>) -> Outcome {
    let known = api.blocks.retry(&asked.param(0));
    known.map(|()| reply::accepted()).map_err(Box::new)
}

fn shut_down(api: &Api, asked: &Asked<'_>) -> Response<Body> {
    let forced = asked
        .head
        .headers
        .get("dapr-force-shutdown")
        .and_then(|value| value.to_str().ok())
        .is_some_and(is_truthy);
    api.blocks
        .drains
        .requests
        .try_send(if forced {
            StopRequest::Forced
        } else {
            StopRequest::Graceful
        })
        .ok();
    reply::empty()
}
