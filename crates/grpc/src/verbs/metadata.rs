//! The metadata document as a message.

use outrigger_blocks::metadata::{Document, Reader};
use outrigger_blocks::pubsub::Origin;
use outrigger_blocks::pubsub::subscription::Listed;
use outrigger_core::duration::format_go;
use outrigger_proto::dapr::proto::runtime::v1 as runtime;
use outrigger_wire::grpc::Status;

use crate::pipeline::{Api, Context};

pub(super) async fn get(
    api: &Api,
    _: &mut Context,
    _: runtime::GetMetadataRequest,
) -> Result<runtime::GetMetadataResponse, Status> {
    Ok(message(api.blocks.metadata.document(Reader::Trusted)))
}

pub(super) async fn set(
    api: &Api,
    _: &mut Context,
    request: runtime::SetMetadataRequest,
) -> Result<(), Status> {
    api.blocks.metadata.set(&request.key, &request.value);
    Ok(())
}

fn message(document: Document) -> runtime::GetMetadataResponse {
    let component =
        |component: outrigger_blocks::metadata::Component| runtime::RegisteredComponents {
            name: component.name,
            r#type: component.type_name,
            version: component.version,
            capabilities: component
                .capabilities
                .into_iter()
                .map(str::to_owned)
                .collect(),
        };
    use runtime::actor_runtime::ActorRuntimeStatus as ActorState;
    let (state, placement) = if document.initializing {
        (ActorState::Initializing, String::new())
    } else {
        (ActorState::Disabled, "placement: disconnected".to_owned())
    };
    runtime::GetMetadataResponse {
        id: document.id,
        registered_components: document.components.into_iter().map(component).collect(),
        extended_metadata: document.extended,
        subscriptions: document.subscriptions.iter().map(subscription).collect(),
        http_endpoints: document
            .http_endpoints
            .into_iter()
            .map(|name| runtime::MetadataHttpEndpoint { name })
            .collect(),
        app_connection_properties: Some(runtime::AppConnectionProperties {
            port: i32::from(document.app.port.unwrap_or(0)),
            protocol: document.app.protocol,
            channel_address: document.app.channel_address,
            max_concurrency: document.app.max_concurrency,
            health: document
                .app
                .health
                .map(|health| runtime::AppConnectionHealthProperties {
                    health_check_path: health.path,
                    health_probe_interval: format_go(health.interval),
                    health_probe_timeout: format_go(health.timeout),
                    health_threshold: i32::try_from(health.threshold).unwrap_or(i32::MAX),
                }),
        }),
        runtime_version: document.runtime_version,
        enabled_features: document.features,
        actor_runtime: Some(runtime::ActorRuntime {
            runtime_status: state as i32,
            active_actors: Vec::new(),
            host_ready: false,
            placement,
        }),
        workflows: Some(runtime::MetadataWorkflows::default()),
        resiliencies: document
            .resiliencies
            .into_iter()
            .map(|name| runtime::MetadataResiliency { name })
            .collect(),
        ..Default::default()
    }
}

fn subscription(listed: &Listed) -> runtime::PubsubSubscription {
    let plan = &listed.plan;
    let rules = plan
        .rules
        .list()
        .map(|(expression, path)| runtime::PubsubSubscriptionRule {
            r#match: expression.to_owned(),
            path: path.to_owned(),
        });
    let kind = match plan.origin {
        Origin::Declarative => runtime::PubsubSubscriptionType::Declarative,
        Origin::Programmatic => runtime::PubsubSubscriptionType::Programmatic,
        Origin::Streaming => runtime::PubsubSubscriptionType::Streaming,
    };
    runtime::PubsubSubscription {
        pubsub_name: plan.pubsub.clone(),
        topic: plan.topic.clone(),
        metadata: plan.metadata.clone(),
        rules: Some(runtime::PubsubSubscriptionRules {
            rules: rules.collect(),
        }),
        dead_letter_topic: plan.dead_letter_topic.clone(),
        r#type: kind as i32,
    }
}
