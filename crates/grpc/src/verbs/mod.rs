//! One function for each verb: call the building block, put its answer into a message.

pub(crate) mod absent;
mod invoke;
mod metadata;
mod publish;
mod secrets;
mod state;
pub(crate) mod subscribe;

use bytes::Bytes;
use outrigger_blocks::StopRequest;
use outrigger_core::metadata::is_truthy;
use outrigger_wire::grpc::{Status, decode};

use crate::method::Method;
use crate::pipeline::{Api, Context, framed};

/// Calls a method that has one request and one answer.
pub(crate) async fn call(
    api: &Api,
    context: &mut Context,
    method: Method,
    request: Bytes,
) -> Result<Bytes, Status> {
    macro_rules! verb {
        ($verb:path) => {
            framed(&$verb(api, context, decode(request)?).await?)
        };
    }
    Ok(match method {
        Method::InvokeService => verb!(invoke::invoke),
        Method::GetState => verb!(state::get),
        Method::GetBulkState => verb!(state::bulk_get),
        Method::SaveState => verb!(state::save),
        Method::DeleteState => verb!(state::delete),
        Method::DeleteBulkState => verb!(state::bulk_delete),
        Method::ExecuteStateTransaction => verb!(state::transact),
        Method::QueryStateAlpha1 => verb!(state::query),
        Method::PublishEvent => verb!(publish::single),
        Method::BulkPublishEvent => verb!(publish::bulk),
        Method::BulkPublishEventAlpha1 => verb!(publish::bulk_alpha),
        Method::GetSecret => verb!(secrets::get),
        Method::GetBulkSecret => verb!(secrets::bulk_get),
        Method::GetMetadata => verb!(metadata::get),
        Method::SetMetadata => verb!(metadata::set),
        Method::Shutdown => {
            shut_down(api, context);
            framed(&())
        }
        other => absent::unary(api, other, request)?,
    })
}

fn shut_down(api: &Api, context: &Context) {
    let forced = context
        .metadata
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
}
