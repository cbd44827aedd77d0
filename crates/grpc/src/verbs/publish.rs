//! Publishing.

use std::collections::HashSet;

use outrigger_blocks::errors::pubsub as told;
use outrigger_blocks::invoke::Surface;
use outrigger_blocks::pubsub::{BulkEntryIn, Publish, PublishError};
use outrigger_core::Metadata;
use outrigger_core::metadata::raw_payload;
use outrigger_proto::dapr::proto::runtime::v1 as runtime;
use outrigger_telemetry::span::Kind;
use outrigger_wire::grpc::Status;

use crate::pipeline::{Api, Context};

pub(super) async fn single(
    api: &Api,
    context: &mut Context,
    request: runtime::PublishEventRequest,
) -> Result<(), Status> {
    let runtime::PublishEventRequest {
        pubsub_name,
        topic,
        data,
        data_content_type,
        metadata,
    } = request;
    check_name(&pubsub_name, &metadata)?;
    let bus = api.blocks.publisher.find(&pubsub_name, None).await?;
    if topic.is_empty() {
        return Err(told::topic_empty(&pubsub_name, shown(&metadata)).into());
    }
    let (trace_parent, trace_state) = context.trace();
    let request = Publish {
        topic,
        data,
        content_type: data_content_type,
        metadata: (!metadata.is_empty()).then_some(metadata),
        trace_parent,
        trace_state,
        raw_trace: true,
        surface: Surface::Grpc,
    };
    bus.publish(request).await.map_err(failed)
}

fn check_name(pubsub: &str, metadata: &Metadata) -> Result<(), Status> {
    if pubsub.is_empty() {
        Err(told::name_empty(shown(metadata)).into())
    } else {
        Ok(())
    }
}

/// Metadata that is not there is not shown.
fn shown(metadata: &Metadata) -> Option<Metadata> {
    (!metadata.is_empty()).then(|| metadata.clone())
}

fn failed(error: PublishError) -> Status {
    match error {
        PublishError::Told(error) => Status::from(&*error),
        // Over HTTP Dapr hangs up here.
        PublishError::Hangup => {
            Status::unknown("cannot create cloudevent from a body that is null")
        }
    }
}

pub(super) async fn bulk(
    api: &Api,
    context: &mut Context,
    request: runtime::BulkPublishRequest,
) -> Result<runtime::BulkPublishResponse, Status> {
    publish_all(
        api,
        context,
        request,
        "/dapr.proto.runtime.v1.Dapr/BulkPublishEvent/",
    )
    .await
}

pub(super) async fn bulk_alpha(
    api: &Api,
    context: &mut Context,
    request: runtime::BulkPublishRequest,
) -> Result<runtime::BulkPublishResponse, Status> {
    publish_all(
        api,
        context,
        request,
        "/dapr.proto.runtime.v1.Dapr/BulkPublishEventAlpha1/",
    )
    .await
}

async fn publish_all(
    api: &Api,
    context: &mut Context,
    request: runtime::BulkPublishRequest,
    name: &str,
) -> Result<runtime::BulkPublishResponse, Status> {
    let runtime::BulkPublishRequest {
        pubsub_name,
        topic,
        entries,
        metadata,
    } = request;
    check_name(&pubsub_name, &metadata)?;
    let bus = api.blocks.publisher.find(&pubsub_name, None).await?;
    if topic.is_empty() {
        return Err(told::topic_empty(&pubsub_name, shown(&metadata)).into());
    }
    raw_payload(&metadata)
        .map_err(|value| Status::from(told::bad_metadata(&pubsub_name, value, metadata.clone())))?;
    let mut known = HashSet::new();
    let mut spans = Vec::new();
    let mut messages = Vec::with_capacity(entries.len());
    for entry in entries {
        if entry.entry_id.is_empty() || !known.insert(entry.entry_id.clone()) {
            return Err(told::entries(
                &pubsub_name,
                &topic,
                api.blocks.app_id.as_str(),
                "entryId is duplicated or not present for entry",
            )
            .into());
        }
        let own = (!entry.metadata.is_empty()).then(|| {
            metadata
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .chain(entry.metadata)
                .collect::<Metadata>()
        });
        let parent = context.span.context();
        let span =
            api.blocks
                .tracer
                .start(parent.is_valid().then_some(parent), Kind::Producer, || {
                    name.to_owned()
                });
        let trace = span.context();
        let (trace_parent, trace_state) = if trace.is_valid() {
            (trace.header(), trace.state.clone())
        } else {
            Default::default()
        };
        spans.push(span);
        messages.push(BulkEntryIn {
            entry_id: entry.entry_id,
            data: entry.event,
            content_type: entry.content_type,
            metadata: own,
            trace_parent,
            trace_state,
        });
    }
    let outcome = bus
        .bulk_publish(&topic, messages, &metadata, Surface::Grpc)
        .await;
    for mut span in spans {
        if outcome.is_err() {
            span.fail(|| "the messages were not all published".to_owned());
        }
        span.finish();
    }
    match outcome {
        Ok(()) => Ok(runtime::BulkPublishResponse::default()),
        Err(Ok(some)) => Err(Status::from(&*some.error)),
        Err(Err(error)) => Err(failed(error)),
    }
}
