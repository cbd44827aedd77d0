//! Secrets.

use outrigger_core::Metadata;
use outrigger_proto::dapr::proto::runtime::v1 as runtime;
use outrigger_wire::grpc::Status;

use crate::pipeline::{Api, Context};

pub(super) async fn get(
    api: &Api,
    _: &mut Context,
    request: runtime::GetSecretRequest,
) -> Result<runtime::GetSecretResponse, Status> {
    let found = api
        .blocks
        .secrets
        .get(&request.store_name, &request.key, &request.metadata)
        .await?;
    Ok(runtime::GetSecretResponse {
        data: found.map(revealed).unwrap_or_default(),
    })
}

pub(super) async fn bulk_get(
    api: &Api,
    _: &mut Context,
    request: runtime::GetBulkSecretRequest,
) -> Result<runtime::GetBulkSecretResponse, Status> {
    let all = api
        .blocks
        .secrets
        .bulk_get(&request.store_name, &request.metadata)
        .await?;
    let data = all.into_iter().map(|(name, secret)| {
        (
            name,
            runtime::SecretResponse {
                secrets: revealed(secret),
            },
        )
    });
    Ok(runtime::GetBulkSecretResponse {
        data: data.collect(),
    })
}

fn revealed(secret: std::collections::BTreeMap<String, outrigger_core::Secret>) -> Metadata {
    secret
        .into_iter()
        .map(|(name, value)| (name, value.reveal().to_owned()))
        .collect()
}
