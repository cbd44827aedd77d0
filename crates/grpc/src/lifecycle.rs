//! `outrigger.v1.Lifecycle`: drain, resume and status over gRPC.

use std::time::Duration;

use http::HeaderMap;
use outrigger_blocks::Blocks;
use outrigger_blocks::drain::{Cause, LONGEST_WAIT, Progress, USUAL_WAIT};
use outrigger_core::error::GrpcCode;
use outrigger_proto::google::protobuf::Duration as Span;
use outrigger_proto::outrigger::v1::status_response::Drain;
use outrigger_proto::outrigger::v1::{
    DrainRequest, DrainResponse, ResumeRequest, StatusRequest, StatusResponse,
};
use outrigger_telemetry::journal::Kind;
use outrigger_wire::grpc::{Exchange, Status};

/// What its methods begin with.
pub(crate) const SERVICE: &str = "/outrigger.v1.Lifecycle/";

/// Answers a call of the service.
pub(crate) async fn serve(mut exchange: Exchange, blocks: &Blocks) {
    let method = exchange.path().strip_prefix(SERVICE).map(str::to_owned);
    let outcome = match method.as_deref() {
        Some("Drain") => drain(&mut exchange, blocks).await,
        Some("Resume") => match exchange.request::<ResumeRequest>().await {
            Ok(_) => blocks
                .resume()
                .await
                .map(|progress| told(&progress))
                .map_err(|error| Status::from(&error)),
            Err(status) => Err(status),
        },
        Some("Status") => {
            return match exchange.request::<StatusRequest>().await {
                Ok(_) => exchange.answer(HeaderMap::new(), &status(blocks)),
                Err(status) => exchange.refuse(HeaderMap::new(), &status),
            };
        }
        _ => Err(Status::new(
            GrpcCode::Unimplemented,
            "unknown method of outrigger.v1.Lifecycle".to_owned(),
        )),
    };
    match outcome {
        Ok(response) => exchange.answer(HeaderMap::new(), &response),
        Err(status) => exchange.refuse(HeaderMap::new(), &status),
    }
}

async fn drain(exchange: &mut Exchange, blocks: &Blocks) -> Result<DrainResponse, Status> {
    let request = exchange.request::<DrainRequest>().await?;
    let limit = match &request.timeout {
        None => USUAL_WAIT,
        Some(span) => duration(span)
            .filter(|limit| *limit <= LONGEST_WAIT)
            .ok_or_else(|| {
                Status::new(
                    GrpcCode::InvalidArgument,
                    "timeout: a duration from 0 to 24h is expected".to_owned(),
                )
            })?,
    };
    let wait = (!request.no_wait).then_some(limit);
    let drained = blocks.drain(wait, Cause::Drain).await;
    drained
        .map(|progress| told(&progress))
        .map_err(|error| Status::from(&error))
}

fn duration(span: &Span) -> Option<Duration> {
    let nanos = u32::try_from(span.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(span.seconds).ok()?, nanos))
}

fn span(duration: Duration) -> Option<Span> {
    Some(Span {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    })
}

fn told(progress: &Progress) -> DrainResponse {
    DrainResponse {
        phase: progress.phase.name().to_owned(),
        drained: progress.drained,
        inflight: progress
            .in_flight()
            .map(|(name, count)| (name, count as u64))
            .collect(),
        duration: span(progress.duration),
    }
}

fn status(blocks: &Blocks) -> StatusResponse {
    let now = blocks.metadata.clock.now();
    let uptime = now.distance_from_start();
    let journal = &blocks.metrics.journal;
    let lasted = |kind| span(journal.lasted(kind, "").unwrap_or(uptime));
    let progress = blocks.progress();
    let drain = *blocks.drains.view.borrow();
    StatusResponse {
        app_id: blocks.app_id.to_string(),
        version: blocks.metadata.version.clone(),
        phase: progress.phase.name().to_owned(),
        phase_since: lasted(Kind::Phase),
        gate: blocks.metadata.gate.borrow().name().to_owned(),
        gate_since: lasted(Kind::Gate),
        uptime: span(uptime),
        inflight: told(&progress).inflight,
        drain: drain.map(|drain| Drain {
            id: drain.id(),
            cause: drain.cause.name().to_owned(),
            exits: drain.exits,
            drained: drain.drained,
            lasts: span(now.since(drain.since)),
            deadline: drain
                .deadline
                .and_then(|deadline| span(deadline.since(now))),
        }),
    }
}
