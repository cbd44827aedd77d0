//! Health, which Dapr does not tell over gRPC: `grpc.health.v1` of the sidecar, its calls and its components, and
//! `outrigger.v1.Health`, the counterpart of `healthz?components=true`.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use outrigger_blocks::Blocks;
use outrigger_blocks::health::judge::{Item, Reading, Report, Standing, Subject, Verdict};
use outrigger_blocks::health::question::{self, Effort, Question};
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_proto::google::protobuf::{Any, Duration as Span, Timestamp};
use outrigger_proto::grpc::health::v1::health_check_response::ServingStatus;
use outrigger_proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use outrigger_proto::outrigger::v1::component_health::{
    PendingRevision, Ping, Status as Wire, Subscription,
};
use outrigger_proto::outrigger::v1::{
    ComponentHealth, GetComponentHealthRequest, GetComponentHealthResponse,
};
use outrigger_proto::{Message as _, google};
use outrigger_wire::grpc::{Exchange, Status, encode};

pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";
pub(crate) const WATCH: &str = "/grpc.health.v1.Health/Watch";
pub(crate) const COMPONENTS: &str = "/outrigger.v1.Health/GetComponentHealthAlpha1";
/// What the list in the details of a status is called.
const LIST: &str = "type.googleapis.com/outrigger.v1.GetComponentHealthResponse";
/// How often a watched status is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Details travel as a header, and clients take 8 KiB of headers; base64 makes them a third longer.
const MOST_DETAILS: usize = 5 * 1024;

/// The status of `""`, `outbound`, `live` or `component:<name>`; none for other names.
async fn status(blocks: &Blocks, service: &str) -> Option<ServingStatus> {
    let serving = match service {
        "" => blocks.health.ready(None).is_ok(),
        "outbound" => blocks.health.outbound().is_ok(),
        "live" => blocks.health.live().is_ok(),
        _ => {
            let name = service.strip_prefix("component:")?;
            let report = blocks.examine_one(name, Effort::default()).await;
            return match report {
                Ok(report) => Some(match report.verdict {
                    Verdict::Fine => ServingStatus::Serving,
                    Verdict::Failed => ServingStatus::NotServing,
                    Verdict::Unverified => ServingStatus::Unknown,
                }),
                // Resources have not been read.
                Err(_) if !blocks.registry.is_loaded() => Some(ServingStatus::NotServing),
                Err(_) => None,
            };
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
    match status(blocks, &request.service).await {
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
        let now = tokio::select! {
            biased;
            () = reply.cancelled() => return,
            now = status(blocks, &request.service) => now.unwrap_or(ServingStatus::ServiceUnknown),
        };
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

/// `GetComponentHealthAlpha1`. Who is not trusted sees statuses and codes only.
pub(crate) async fn components(mut exchange: Exchange, blocks: &Blocks, is_trusted: bool) {
    let request = match exchange.request::<GetComponentHealthRequest>().await {
        Ok(request) => request,
        Err(status) => return exchange.refuse(HeaderMap::new(), &status),
    };
    let report = tokio::select! {
        biased;
        report = examine(blocks, &request) => report,
        () = exchange.reply.cancelled() => return,
    };
    match report {
        Ok(report) => {
            let report = if is_trusted { report } else { report.bare() };
            let list = list(&report, SystemTime::now());
            match refusal(report.verdict) {
                None => exchange.answer(HeaderMap::new(), &list),
                Some((code, why)) => {
                    exchange.refuse(HeaderMap::new(), &with_list(code, why, list));
                }
            }
        }
        Err(error) => exchange.refuse(HeaderMap::new(), &Status::from(&error)),
    }
}

async fn examine(blocks: &Blocks, request: &GetComponentHealthRequest) -> Result<Report, ApiError> {
    let question = read(request)?;
    if !request.component.is_empty() {
        blocks.health.ours(Some(&request.app_id))?;
        return blocks
            .examine_one(&request.component, question.effort)
            .await;
    }
    blocks.health.ready(Some(&request.app_id))?;
    Ok(blocks.examine(&question).await)
}

/// What a message asks for.
fn read(request: &GetComponentHealthRequest) -> Result<Question, ApiError> {
    let mut subjects = Vec::new();
    for word in &request.include {
        let subject = question::subject(word)?;
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    if subjects.is_empty() {
        subjects.push(Subject::Components);
    }
    let budget = match &request.timeout {
        None => Effort::default().budget,
        Some(timeout) => {
            let seconds = u64::try_from(timeout.seconds).ok();
            let nanos = u32::try_from(timeout.nanos)
                .ok()
                .filter(|nanos| *nanos < 1_000_000_000);
            let given = seconds
                .zip(nanos)
                .map(|(seconds, nanos)| Duration::new(seconds, nanos));
            given.and_then(question::within).ok_or_else(|| {
                let text = format!("{}.{:09}s", timeout.seconds, timeout.nanos.unsigned_abs());
                outrigger_blocks::errors::health::bad_parameter("timeout", &text, question::BUDGET)
            })?
        }
    };
    Ok(Question {
        subjects,
        effort: Effort {
            live: request.live,
            budget,
        },
        reading: Reading {
            verbose: request.verbose,
            ignore_optional: request.ignore_optional,
        },
    })
}

fn refusal(verdict: Verdict) -> Option<(GrpcCode, &'static str)> {
    match verdict {
        Verdict::Fine => None,
        Verdict::Failed => Some((GrpcCode::Unknown, "components are not OK")),
        Verdict::Unverified => Some((GrpcCode::Unimplemented, "no component could be checked")),
    }
}

/// A refusal with the list in its details; without messages where it would not get through otherwise.
fn with_list(code: GrpcCode, why: &str, mut list: GetComponentHealthResponse) -> Status {
    if list.encoded_len() > MOST_DETAILS {
        let all = list
            .components_health
            .iter_mut()
            .chain(&mut list.app_health)
            .chain(&mut list.actors_health)
            .chain(&mut list.controlplane_health)
            .chain(&mut list.nameresolution_health);
        for item in all {
            *item = ComponentHealth {
                component_name: std::mem::take(&mut item.component_name),
                r#type: std::mem::take(&mut item.r#type),
                error_code: std::mem::take(&mut item.error_code),
                status: item.status,
                ..ComponentHealth::default()
            };
        }
    }
    let mut status = Status::new(code, why.to_owned());
    let rich = google::rpc::Status {
        code: i32::from(code.number()),
        message: why.to_owned(),
        details: vec![Any {
            type_url: LIST.to_owned(),
            value: list.encode_to_vec().into(),
        }],
    };
    status.details = Some(rich.encode_to_vec().into());
    status
}

fn list(report: &Report, now: SystemTime) -> GetComponentHealthResponse {
    let mut list = GetComponentHealthResponse::default();
    for (subject, items) in &report.groups {
        let place = match subject {
            Subject::Components => &mut list.components_health,
            Subject::App => &mut list.app_health,
            Subject::Actors => &mut list.actors_health,
            Subject::ControlPlane => &mut list.controlplane_health,
            Subject::NameResolution => &mut list.nameresolution_health,
        };
        *place = items.iter().map(|item| health(item, now)).collect();
    }
    list
}

fn health(item: &Item, now: SystemTime) -> ComponentHealth {
    let status = match item.standing {
        Standing::Ok => Wire::Ok,
        Standing::NotOk => Wire::NotOk,
        Standing::Undefined => Wire::Undefined,
    };
    let bare = ComponentHealth {
        component_name: item.name.clone(),
        r#type: item.block.clone(),
        status: status as i32,
        message: item.message.clone().unwrap_or_default(),
        error_code: item.code.unwrap_or_default().to_owned(),
        ..ComponentHealth::default()
    };
    let Some(known) = &item.detail else {
        return bare;
    };
    let at = |ago: Duration| timestamp(now.checked_sub(ago)?);
    let subscriptions = known.subscriptions.iter();
    ComponentHealth {
        component_type: known.full_type.clone(),
        state: known.state.to_owned(),
        class: known.class.unwrap_or_default().to_owned(),
        attempt: known.attempt,
        next_retry: known.next_retry.map(span),
        since: Some(known.since)
            .filter(|since| *since > Duration::ZERO)
            .and_then(at),
        checked_at: known.checked.and_then(at),
        age: known.checked.map(span),
        last_ok_at: known.last_ok.and_then(at),
        last_ready_at: known.last_ready.and_then(at),
        optional: item.optional,
        waiters: u32::try_from(known.waiters).unwrap_or(u32::MAX),
        ping: known.ping.map(|ping| Ping {
            at: at(ping.ago),
            latency: Some(span(ping.latency)),
            failures: ping.failures,
        }),
        subscriptions: subscriptions
            .map(|subscription| Subscription {
                topic: subscription.topic.clone(),
                state: subscription.state.name().to_owned(),
                attempt: subscription.attempt,
                error: subscription.error.clone().unwrap_or_default(),
            })
            .collect(),
        pending_revision: known.pending.as_ref().map(|pending| PendingRevision {
            component_type: pending.full_type.clone(),
            state: pending.state.to_owned(),
            class: pending.class.unwrap_or_default().to_owned(),
            message: pending.message.clone().unwrap_or_default(),
            attempt: pending.attempt,
            next_retry: pending.next_retry.map(span),
            since: at(pending.since),
        }),
        ..bare
    }
}

fn span(duration: Duration) -> Span {
    Span {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

fn timestamp(at: SystemTime) -> Option<Timestamp> {
    let Span { seconds, nanos } = span(at.duration_since(SystemTime::UNIX_EPOCH).ok()?);
    Some(Timestamp { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_blocks::health::judge;

    fn item(standing: Standing) -> Item {
        Item::plain(
            "orders",
            "pubsub",
            standing,
            Some("ERR_PING_FAILED"),
            Some("x".repeat(512)),
        )
    }

    fn report(items: Vec<Item>) -> Report {
        let groups = vec![(Subject::Components, items)];
        outrigger_blocks::health::judge::report(groups, Reading::default())
    }

    fn listed(status: &Status) -> GetComponentHealthResponse {
        let rich = status.rich();
        assert_eq!(rich.details[0].type_url, LIST);
        GetComponentHealthResponse::decode(rich.details[0].value.clone()).unwrap()
    }

    #[test]
    fn each_case_has_its_code() {
        let code = |items| refusal(report(items).verdict).map_or(0, |(code, _)| code.number());
        assert_eq!(code(vec![]), 0);
        assert_eq!(code(vec![item(Standing::Ok)]), 0);
        assert_eq!(code(vec![item(Standing::NotOk)]), 2);
        assert_eq!(
            code(vec![item(Standing::NotOk), item(Standing::Undefined)]),
            2
        );
        assert_eq!(code(vec![item(Standing::Undefined)]), 12);
        assert_eq!(code(vec![item(Standing::Ok), item(Standing::Undefined)]), 0);
    }

    #[test]
    fn the_list_travels_with_a_refusal_and_loses_its_messages_when_it_is_long() {
        let told = |count| {
            let report = report(vec![item(Standing::NotOk); count]);
            let list = list(&report, SystemTime::now());
            listed(&with_list(GrpcCode::Unknown, "no", list)).components_health
        };
        assert_eq!(told(1)[0].message.len(), 512);
        let many = told(30);
        assert_eq!(many.len(), 30);
        assert_eq!(
            (many[29].message.as_str(), many[29].error_code.as_str()),
            ("", "ERR_PING_FAILED")
        );
    }

    #[test]
    fn a_changed_definition_that_waits_is_told() {
        let pending = judge::PendingRevision {
            full_type: "state.redis/v2".to_owned(),
            state: "unavailable",
            class: Some("TRANSIENT"),
            message: Some("connection refused".to_owned()),
            attempt: 3,
            next_retry: Some(Duration::from_secs(2)),
            since: Duration::from_secs(40),
        };
        let changing = Item {
            detail: Some(judge::Detail {
                pending: Some(pending),
                ..judge::Detail::default()
            }),
            ..item(Standing::Ok)
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let told = health(&changing, now).pending_revision.unwrap();
        let expected = PendingRevision {
            component_type: "state.redis/v2".to_owned(),
            state: "unavailable".to_owned(),
            class: "TRANSIENT".to_owned(),
            message: "connection refused".to_owned(),
            attempt: 3,
            next_retry: Some(span(Duration::from_secs(2))),
            since: timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(60)),
        };
        assert_eq!(told, expected);
        assert_eq!(health(&changing.bare(), now).pending_revision, None);
    }

    #[test]
    fn a_wrong_question_is_refused() {
        let asked = |request: GetComponentHealthRequest| {
            read(&request).map_err(|error| (error.grpc, error.tag))
        };
        let include = GetComponentHealthRequest {
            include: vec!["queues".to_owned()],
            ..GetComponentHealthRequest::default()
        };
        assert_eq!(
            asked(include),
            Err((
                GrpcCode::InvalidArgument,
                "ERR_HEALTH_INCLUDE_UNKNOWN".into()
            ))
        );
        for (seconds, nanos) in [(11, 0), (0, 0), (-1, 0), (i64::MAX, i32::MAX)] {
            let request = GetComponentHealthRequest {
                timeout: Some(Span { seconds, nanos }),
                ..GetComponentHealthRequest::default()
            };
            assert!(asked(request).is_err(), "{seconds}");
        }
    }
}
