//! Subscriptions over a stream: events go out, answers come in, several at a time.

use outrigger_blocks::app::Delivery;
use outrigger_blocks::drain::Drain;
use outrigger_blocks::pubsub::stream::Connection;
use outrigger_channel::app::{topic_event, verdict};
use outrigger_core::error::GrpcCode;
use outrigger_lifecycle::phase::Phase;
use outrigger_proto::dapr::proto::runtime::v1 as runtime;
use outrigger_wire::grpc::{Messages, Reply, Status, decode, encode};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::pipeline::{Api, Context, finish};

use runtime::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as Asked;
use runtime::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as Told;

const SCOPE: &str = "dapr.runtime.processor.pubsub.streamer";

/// Serves a stream until one side ends it.
pub(crate) async fn serve(
    api: &Api,
    mut messages: Messages,
    mut reply: Reply,
    mut context: Context,
) -> GrpcCode {
    let initial = match initial(&mut messages).await {
        Ok(initial) => initial,
        Err(status) => return finish(reply, context, &status),
    };
    let opening = api.blocks.subscriptions.open_stream(
        &initial.pubsub_name,
        &initial.topic,
        initial.metadata,
        initial.dead_letter_topic.as_deref().unwrap_or_default(),
    );
    let opened = tokio::select! {
        opened = opening => opened,
        () = reply.cancelled() => return GrpcCode::Cancelled,
    };
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) => return finish(reply, context, &error.into()),
    };
    if reply.start(std::mem::take(&mut context.headers)).is_err() {
        return GrpcCode::Cancelled;
    }
    // The app hears of its subscription when the broker knows it.
    let (mut standing, mut refusal) = (stream.watch(), stream.watch());
    let obstacle = tokio::select! {
        () = standing.registered() => None,
        () = reply.cancelled() => return GrpcCode::Cancelled,
        refused = refusal.refused() => Some(refused.into()),
        () = ending(api) => Some(closed()),
    };
    if let Some(status) = obstacle {
        return finish(reply, context, &status);
    }
    if reply
        .send(encode(&answer(Told::InitialResponse(
            runtime::SubscribeTopicEventsResponseInitialAlpha1 {},
        ))))
        .await
        .is_err()
    {
        return GrpcCode::Cancelled;
    }
    let events = std::mem::replace(&mut stream.connection.events, mpsc::channel(1).1);
    let status = tokio::select! {
        biased;
        status = answers(&mut messages, &stream.connection) => status,
        sent = send(&mut reply, events, &stream.connection) => match sent {
            Some(status) => status,
            None => return GrpcCode::Cancelled,
        },
        // No waiting can mend it; an app that comes back is told the same until it is mended.
        refused = refusal.refused() => refused.into(),
        () = ending(api) => closed(),
    };
    finish(reply, context, &status)
}

/// The first message of a stream.
async fn initial(
    messages: &mut Messages,
) -> Result<runtime::SubscribeTopicEventsRequestInitialAlpha1, Status> {
    let message = match messages.next().await {
        Ok(Some(message)) => message,
        Ok(None) => return Err(Status::unknown("EOF")),
        Err(error) => return Err(error.to_status()),
    };
    let request: runtime::SubscribeTopicEventsRequestAlpha1 = decode(message)?;
    let Some(Asked::InitialRequest(initial)) = request.subscribe_topic_events_request_type else {
        return Err(Status::unknown("initial request is required"));
    };
    if initial.pubsub_name.is_empty() {
        return Err(Status::unknown("pubsubName is required"));
    }
    if initial.topic.is_empty() {
        return Err(Status::unknown("topic is required"));
    }
    Ok(initial)
}

/// Takes the app's answers until the app ends the stream.
async fn answers(messages: &mut Messages, connection: &Connection) -> Status {
    loop {
        let message = match messages.next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Status::unknown("EOF"),
            Err(error) => return error.to_status(),
        };
        let request: runtime::SubscribeTopicEventsRequestAlpha1 = match decode(message) {
            Ok(request) => request,
            Err(status) => return status,
        };
        match request.subscribe_topic_events_request_type {
            Some(Asked::EventProcessed(processed)) => {
                let word = processed
                    .status
                    .map(|status| status.status)
                    .unwrap_or_default();
                connection.processed(&processed.id, verdict(word));
            }
            Some(Asked::InitialRequest(_)) => {
                return Status::unknown("duplicate initial request received");
            }
            None => {}
        }
    }
}

/// Sends events until the subscription ends; `None` when the app is gone.
async fn send(
    reply: &mut Reply,
    mut events: mpsc::Receiver<Delivery>,
    connection: &Connection,
) -> Option<Status> {
    loop {
        let delivery = tokio::select! {
            delivery = events.recv() => delivery,
            () = reply.cancelled() => return None,
        };
        let Some(delivery) = delivery else {
            return Some(closed());
        };
        match topic_event(&delivery) {
            Ok(event) => reply
                .send(encode(&answer(Told::EventMessage(event))))
                .await
                .ok()?,
            Err(why) => {
                debug!(target: SCOPE, pubsub = &*delivery.pubsub, topic = &*delivery.topic, error = why, "the event cannot be sent");
                let id = delivery
                    .event
                    .get("id")
                    .and_then(outrigger_core::json::Value::as_str)
                    .unwrap_or_default();
                connection.processed(id, outrigger_blocks::app::Verdict::Retry(why));
            }
        }
    }
}

fn answer(told: Told) -> runtime::SubscribeTopicEventsResponseAlpha1 {
    runtime::SubscribeTopicEventsResponseAlpha1 {
        subscribe_topic_events_response_type: Some(told),
    }
}

async fn ending(api: &Api) {
    let blocks = &api.blocks;
    closing(blocks.health.phase.clone(), blocks.drains.view.clone()).await;
}

/// Completes when streams are to end. A drain that may be taken back leaves them: their apps may not come a second time.
async fn closing(mut phase: watch::Receiver<Phase>, mut drain: watch::Receiver<Option<Drain>>) {
    loop {
        let exits = drain.borrow_and_update().is_some_and(|drain| drain.exits);
        match *phase.borrow_and_update() {
            Phase::Stopping => return,
            Phase::Lingering if exits => return,
            _ => {}
        }
        let changed = tokio::select! {
            changed = phase.changed() => changed,
            changed = drain.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Clients take it as a reason to connect again.
fn closed() -> Status {
    Status::unavailable("stream closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_stream_makes_clients_come_back() {
        assert_eq!(closed().code, GrpcCode::Unavailable);
    }
}
