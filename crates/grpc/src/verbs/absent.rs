//! Building blocks that are not there yet: requests are read as far as Dapr reads them before it finds nothing.

use bytes::Bytes;
use outrigger_blocks::errors::absent as told;
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_proto::Message;
use outrigger_proto::dapr::proto::runtime::v1 as runtime;
use outrigger_wire::grpc::{Messages, Status, decode};

use crate::method::Method;
use crate::pipeline::{Api, framed};

/// Methods with one request.
pub(super) fn unary(api: &Api, method: Method, request: Bytes) -> Result<Bytes, Status> {
    let blocks = &api.blocks;
    let error = match method {
        Method::UnsubscribeConfiguration | Method::UnsubscribeConfigurationAlpha1 => {
            let request: runtime::UnsubscribeConfigurationRequest = decode(request)?;
            let message = format!(
                "failed to unsubscribe to configuration request {}: subscription does not exist",
                request.id
            );
            return Ok(framed(&runtime::UnsubscribeConfigurationResponse {
                ok: false,
                message,
            }));
        }
        Method::GetConfiguration | Method::GetConfigurationAlpha1 => {
            blocks.configuration(&decode::<runtime::GetConfigurationRequest>(request)?.store_name)
        }
        Method::InvokeBinding => {
            let request: runtime::InvokeBindingRequest = decode(request)?;
            blocks.output_binding(&request.name, &request.operation)
        }
        Method::TryLockAlpha1 => {
            let request: runtime::TryLockRequest = decode(request)?;
            blocks.lock(&request.store_name, i64::from(request.expiry_in_seconds))
        }
        Method::UnlockAlpha1 => {
            blocks.unlock(&decode::<runtime::UnlockRequest>(request)?.store_name)
        }
        Method::ScheduleJob | Method::ScheduleJobAlpha1 => {
            match decode::<runtime::ScheduleJobRequest>(request)?.job {
                Some(job) => {
                    blocks.schedule_job(&job.name, job.schedule.is_some() || job.due_time.is_some())
                }
                None => blocks.schedule_no_job(),
            }
        }
        Method::GetJob | Method::GetJobAlpha1 => {
            blocks.get_job(&decode::<runtime::GetJobRequest>(request)?.name)
        }
        Method::DeleteJob | Method::DeleteJobAlpha1 => {
            blocks.delete_job(&decode::<runtime::DeleteJobRequest>(request)?.name)
        }
        Method::ListJobs | Method::ListJobsAlpha1 => blocks.list_jobs(),
        Method::DeleteJobsByPrefix | Method::DeleteJobsByPrefixAlpha1 => blocks.delete_jobs(),
        Method::ConverseAlpha1 => {
            blocks.conversation(&decode::<runtime::ConversationRequest>(request)?.name)
        }
        Method::ConverseAlpha2 => {
            blocks.conversation(&decode::<runtime::ConversationRequestAlpha2>(request)?.name)
        }
        _ => return Err(actors_and_others(api, method, request)?.into()),
    };
    Err(error.into())
}

fn actors_and_others(api: &Api, method: Method, request: Bytes) -> Result<ApiError, Status> {
    let blocks = &api.blocks;
    let (group, _) = method.group();
    Ok(match method {
        Method::InvokeActor => blocks.actor(
            &decode::<runtime::InvokeActorRequest>(request)?.actor_type,
            true,
        ),
        Method::RegisterActorTimer => blocks.actor(
            &decode::<runtime::RegisterActorTimerRequest>(request)?.actor_type,
            false,
        ),
        Method::UnregisterActorTimer => blocks.actor(
            &decode::<runtime::UnregisterActorTimerRequest>(request)?.actor_type,
            false,
        ),
        Method::RegisterActorReminder => blocks.actor(
            &decode::<runtime::RegisterActorReminderRequest>(request)?.actor_type,
            false,
        ),
        Method::UnregisterActorReminder => blocks.actor(
            &decode::<runtime::UnregisterActorReminderRequest>(request)?.actor_type,
            false,
        ),
        Method::GetActorState => blocks.actor(
            &decode::<runtime::GetActorStateRequest>(request)?.actor_type,
            false,
        ),
        Method::ExecuteActorStateTransaction => blocks.actor(
            &decode::<runtime::ExecuteActorStateTransactionRequest>(request)?.actor_type,
            false,
        ),
        _ if group == "actors" => blocks.actor("", false),
        _ if group == "workflows" => blocks.workflow(),
        // Subtle crypto is compiled out of every release of Dapr.
        _ => told::unimplemented(),
    })
}

/// Methods that stream.
pub(crate) async fn stream(api: &Api, method: Method, mut messages: Messages) -> Status {
    let blocks = &api.blocks;
    let first = match messages.next().await {
        Ok(Some(message)) => message,
        Ok(None) => return Status::unknown("EOF"),
        Err(error) => return error.to_status(),
    };
    let outcome = match method {
        Method::EncryptAlpha1 => options::<runtime::EncryptRequest>(first)
            .map(|request| request.options.map(|options| options.component_name)),
        Method::DecryptAlpha1 => options::<runtime::DecryptRequest>(first)
            .map(|request| request.options.map(|options| options.component_name)),
        Method::SubscribeActorEventsAlpha1 => {
            return Status::new(
                GrpcCode::InvalidArgument,
                "first message must be SubscribeActorEventsRequestInitialAlpha1".to_owned(),
            );
        }
        _ => {
            return match decode::<runtime::SubscribeConfigurationRequest>(first) {
                Ok(request) => blocks.configuration(&request.store_name).into(),
                Err(status) => status,
            };
        }
    };
    match outcome {
        Ok(Some(name)) => blocks.crypto(&name).into(),
        Ok(None) => told::bad_request("first message does not contain the required options").into(),
        Err(status) => status,
    }
}

fn options<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    decode(message)
}
