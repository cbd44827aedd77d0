//! State.

use outrigger_blocks::errors::state as told;
use outrigger_blocks::state::{Change, NewValue, OpenStore, Remove, Save};
use outrigger_core::Metadata;
use outrigger_core::error::{ApiError, Detail};
use outrigger_core::json::{Value, is_float64, parse_all};
use outrigger_proto::dapr::proto::common::v1 as common;
use outrigger_proto::dapr::proto::runtime::v1 as runtime;
use outrigger_wire::grpc::Status;

use crate::pipeline::{Api, Context};

async fn find<'a>(api: &'a Api, store: &str) -> Result<OpenStore<'a>, Status> {
    api.blocks
        .state
        .find(store)
        .await
        .map_err(|error| without_app(error).into())
}

/// The app id stands in these errors over HTTP only.
fn without_app(mut error: ApiError) -> ApiError {
    for detail in &mut error.details {
        if let Detail::ErrorInfo {
            metadata, reason, ..
        } = detail
            && reason.starts_with("DAPR_STATE_NOT")
        {
            *metadata = None;
        }
    }
    error
}

pub(super) async fn get(
    api: &Api,
    _: &mut Context,
    request: runtime::GetStateRequest,
) -> Result<runtime::GetStateResponse, Status> {
    let store = find(api, &request.store_name).await?;
    let found = store
        .get(
            &request.key,
            consistency(request.consistency),
            request.metadata,
        )
        .await?;
    let item = found.unwrap_or_default();
    Ok(runtime::GetStateResponse {
        data: item.data,
        etag: item.etag.unwrap_or_default(),
        metadata: item.metadata,
    })
}

pub(super) async fn bulk_get(
    api: &Api,
    _: &mut Context,
    request: runtime::GetBulkStateRequest,
) -> Result<runtime::GetBulkStateResponse, Status> {
    let store = find(api, &request.store_name).await?;
    let found = store
        .bulk_get(
            &request.keys,
            i64::from(request.parallelism),
            &request.metadata,
        )
        .await?;
    let items = found.into_iter().map(|item| match item.outcome {
        Ok(found) => runtime::BulkStateItem {
            key: item.key,
            data: found.data,
            etag: found.etag.unwrap_or_default(),
            metadata: found.metadata,
            error: String::new(),
        },
        Err(error) => runtime::BulkStateItem {
            key: item.key,
            error,
            ..Default::default()
        },
    });
    Ok(runtime::GetBulkStateResponse {
        items: items.collect(),
    })
}

pub(super) async fn save(
    api: &Api,
    _: &mut Context,
    request: runtime::SaveStateRequest,
) -> Result<(), Status> {
    let store = find(api, &request.store_name).await?;
    let mut items = Vec::with_capacity(request.states.len());
    for item in request.states {
        if item.key.is_empty() {
            return Err(told::empty_key().into());
        }
        items.push(save_item(item, true)?);
    }
    Ok(store.save(items).await?)
}

/// `decodes` says that values of type JSON are stored as JSON is.
fn save_item(item: common::StateItem, decodes: bool) -> Result<Save, Status> {
    let value = if decodes
        && item
            .metadata
            .get("contentType")
            .is_some_and(|kind| kind == "application/json")
    {
        let value = parse_all(&item.value).map_err(|error| Status::unknown(error.to_string()))?;
        check_numbers(&value).map_err(Status::unknown)?;
        NewValue::Typed(value, item.value)
    } else {
        NewValue::Bytes(item.value)
    };
    let (concurrency, consistency) = options(item.options.as_ref());
    Ok(Save {
        key: item.key,
        value,
        etag: item.etag.map(|etag| etag.value),
        concurrency,
        consistency,
        metadata: item.metadata,
    })
}

fn check_numbers(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) if !is_float64(number) => Err(format!(
            "json: cannot unmarshal number {number} into Go value of type float64"
        )),
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(members) => members
            .iter()
            .try_for_each(|(_, member)| check_numbers(member)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn remove_item(
    key: String,
    etag: Option<common::Etag>,
    stated: Option<&common::StateOptions>,
    metadata: Metadata,
) -> Remove {
    let (concurrency, consistency) = options(stated);
    Remove {
        key,
        etag: etag.map(|etag| etag.value),
        concurrency,
        consistency,
        metadata,
    }
}

pub(super) async fn delete(
    api: &Api,
    _: &mut Context,
    request: runtime::DeleteStateRequest,
) -> Result<(), Status> {
    let store = find(api, &request.store_name).await?;
    Ok(store
        .delete(remove_item(
            request.key,
            request.etag,
            request.options.as_ref(),
            request.metadata,
        ))
        .await?)
}

pub(super) async fn bulk_delete(
    api: &Api,
    _: &mut Context,
    request: runtime::DeleteBulkStateRequest,
) -> Result<(), Status> {
    let store = find(api, &request.store_name).await?;
    let items = request
        .states
        .into_iter()
        .map(|item| remove_item(item.key, item.etag, item.options.as_ref(), item.metadata));
    Ok(store.bulk_delete(items.collect()).await?)
}

pub(super) async fn transact(
    api: &Api,
    _: &mut Context,
    request: runtime::ExecuteStateTransactionRequest,
) -> Result<(), Status> {
    let store = find(api, &request.store_name).await?;
    store.require_transactions().await?;
    let mut changes = Vec::with_capacity(request.operations.len());
    for operation in request.operations {
        let item = operation.request.unwrap_or_default();
        changes.push(match operation.operation_type.as_str() {
            "upsert" => Change::Upsert(save_item(item, false)?),
            "delete" => Change::Delete(remove_item(
                item.key,
                item.etag,
                item.options.as_ref(),
                item.metadata,
            )),
            other => return Err(told::operation_not_supported(other).into()),
        });
    }
    Ok(store.transact(changes, &request.metadata).await?)
}

pub(super) async fn query(
    api: &Api,
    _: &mut Context,
    request: runtime::QueryStateRequest,
) -> Result<runtime::QueryStateResponse, Status> {
    let store = find(api, &request.store_name).await?;
    Err(store.query().await.into())
}

fn options(options: Option<&common::StateOptions>) -> (String, String) {
    let Some(options) = options else {
        return Default::default();
    };
    (
        concurrency(options.concurrency).to_owned(),
        consistency(options.consistency).to_owned(),
    )
}

fn consistency(number: i32) -> &'static str {
    match number {
        1 => "eventual",
        2 => "strong",
        _ => "",
    }
}

fn concurrency(number: i32) -> &'static str {
    match number {
        1 => "first-write",
        2 => "last-write",
        _ => "",
    }
}
