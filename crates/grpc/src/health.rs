//! `grpc.health.v1`, which Dapr does not have: the health of the sidecar, its calls, its components.

use std::time::Duration;

use http::HeaderMap;
use outrigger_blocks::Blocks;
use outrigger_core::error::GrpcCode;
use outrigger_lifecycle::connection::State;
use outrigger_proto::grpc::health::v1::health_check_response::ServingStatus;
use outrigger_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use outrigger_wire::grpc::{Exchange, Status, encode};

pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";
pub(crate) const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// How often a watched status is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The status of `""`, `outbound`, `live` or `component:<name>`; none for other names.
fn status(blocks: &Blocks, service: &str) -> Option<ServingStatus> {
    let serving = match service {
        "" => blocks.health.ready(None).is_ok(),
        "outbound" => blocks.health.outbound().is_ok(),
        "live" => true,
        _ => {
            let name = service.strip_prefix("component:")?;
            let table = blocks.registry.table();
            if table.rejected.iter().any(|rejected| rejected.name == name) {
                return Some(ServingStatus::NotServing);
            }
            let handle = table
                .all
                .iter()
                .find(|handle| handle.info().name.as_str() == name)?;
            handle.status().state == State::Ready
        }
    };
    Some(if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    })
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status as i32,
    }
}

/// Answers once.
pub(crate) async fn check(mut exchange: Exchange, blocks: &Blocks) {
    let request = match exchange.request::<HealthCheckRequest>().await {
        Ok(request) => request,
        Err(status) => return exchange.refuse(HeaderMap::new(), &status),
    };
    match status(blocks, &request.service) {
        Some(status) => exchange.answer(HeaderMap::new(), &response(status)),
        None => exchange.refuse(
            HeaderMap::new(),
            &Status::new(GrpcCode::NotFound, "unknown service".to_owned()),
        ),
    }
}

/// Answers now and at every change.
pub(crate) async fn watch(mut exchange: Exchange, blocks: &Blocks) {
    let request = match exchange.request::<HealthCheckRequest>().await {
        Ok(request) => request,
        Err(status) => return exchange.refuse(HeaderMap::new(), &status),
    };
    let mut reply = exchange.reply;
    if reply.start(HeaderMap::new()).is_err() {
        return;
    }
    let mut phase = blocks.health.phase.clone();
    let mut told = None;
    loop {
        let now = status(blocks, &request.service).unwrap_or(ServingStatus::ServiceUnknown);
        if told != Some(now) {
            told = Some(now);
            if reply.send(encode(&response(now))).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = reply.cancelled() => return,
            changed = phase.changed() => {
                if changed.is_err() {
                    return reply.end(HeaderMap::new(), &Status::unavailable("the sidecar is stopping"));
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
