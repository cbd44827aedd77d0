//! Service invocation in its older form, one message each way.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_blocks::fields::{self, API_TOKEN, GRPC_TRACE, STAMPS, TRACE_PARENT, TRACE_STATE};
use outrigger_blocks::invoke::{Call, ReplyStatus, Surface};
use outrigger_channel::peer::codec::verb_of;
use outrigger_channel::trace::{add_trace, trace_of};
use outrigger_core::Body;
use outrigger_core::error::GrpcCode;
use outrigger_core::error_code::reason_phrase;
use outrigger_proto::dapr::proto::common::v1 as common;
use outrigger_proto::dapr::proto::runtime::v1 as runtime;
use outrigger_proto::google::protobuf::Any;
use outrigger_resiliency::report;
use outrigger_wire::grpc::Status;

use crate::pipeline::{Api, Context, http_status};

const HTTP_STATUS: HeaderName = HeaderName::from_static("dapr-http-status");

pub(super) async fn invoke(
    api: &Api,
    context: &mut Context,
    request: runtime::InvokeServiceRequest,
) -> Result<common::InvokeResponse, Status> {
    let message = request.message.unwrap_or_default();
    let data = message.data.unwrap_or_default();
    let extension = message.http_extension;
    let call = Call {
        doubled_slash: false,
        until: context.until,
        method: message.method,
        verb: extension
            .as_ref()
            .and_then(|extension| verb_of(u64::try_from(extension.verb).unwrap_or(0))),
        lacks_extension: extension.is_none(),
        query: extension
            .map(|extension| extension.querystring)
            .unwrap_or_default(),
        fields: passed_on(api, context),
        surface: Surface::Grpc,
        authority: context
            .target
            .authority()
            .map(|authority| authority.as_str().to_owned()),
        content_type: (!message.content_type.is_empty()).then_some(message.content_type),
        type_url: data.type_url,
        body: Body::Bytes(data.value),
    };
    let mut reply = match api.blocks.invoke.invoke(&request.id, call).await {
        Ok(reply) => reply,
        Err(failure) => {
            let mut status: Status = failure.to_api(&request.id).into();
            let told = failure
                .attempts
                .map(|attempts| format!("retries-exhausted; attempts={attempts}"));
            if let Some(value) = told.and_then(|told| HeaderValue::try_from(told).ok()) {
                status.metadata.insert(report::FIELD, value);
            }
            return Err(status);
        }
    };
    let body = std::mem::replace(&mut reply.body, Body::EMPTY)
        .collect(usize::MAX)
        .await;
    let body = body.map_err(|error| {
        Status::from(outrigger_blocks::errors::invoke::failed(
            &request.id,
            &error.to_string(),
        ))
    })?;
    let surface = if matches!(reply.status, ReplyStatus::Http(_)) {
        Surface::Http
    } else {
        Surface::Grpc
    };
    let outcome = match reply.status {
        ReplyStatus::Http(status) => {
            let number = status.to_string();
            if let Ok(value) = HeaderValue::from_str(&number) {
                context.headers.insert(HTTP_STATUS, value);
            }
            match GrpcCode::from_http(status) {
                GrpcCode::Ok => Ok(()),
                code => Err(http_status(
                    code,
                    reason_phrase(status),
                    &number,
                    &String::from_utf8_lossy(&body),
                )),
            }
        }
        ReplyStatus::Grpc {
            code,
            message,
            details,
        } => {
            fields::into_metadata(&mut reply.trailers, Surface::Grpc);
            trace_back(
                api,
                context.span.context(),
                &reply.fields,
                &mut reply.trailers,
            );
            context.trailers = reply.trailers;
            if code == GrpcCode::Ok {
                Ok(())
            } else {
                Err(Status {
                    details,
                    ..Status::new(code, message)
                })
            }
        }
    };
    let mut headers = reply.fields;
    let came = headers.clone();
    if let Some(kind) = reply
        .content_type
        .as_deref()
        .filter(|_| surface == Surface::Http)
        .and_then(|kind| HeaderValue::from_str(kind).ok())
    {
        headers.insert(CONTENT_TYPE, kind);
    }
    fields::into_metadata(&mut headers, surface);
    context.headers.extend(headers);
    trace_back(api, context.span.context(), &came, &mut context.headers);
    outcome.map(|()| common::InvokeResponse {
        data: Some(Any {
            type_url: reply.type_url,
            value: body,
        }),
        content_type: reply.content_type.unwrap_or_default(),
    })
}

/// The metadata that goes to the app.
fn passed_on(api: &Api, context: &Context) -> HeaderMap {
    let mut fields = context.metadata.clone();
    for name in STAMPS {
        fields.remove(name);
    }
    for name in [
        "te",
        "grpc-timeout",
        "grpc-encoding",
        "grpc-trace-bin",
        "host",
    ] {
        fields.remove(name);
    }
    if api.settings.token.is_some() {
        fields.remove(API_TOKEN);
    }
    if api.blocks.tracer.is_on() {
        fields.remove(TRACE_PARENT);
        fields.remove(TRACE_STATE);
        let mut trace = HeaderMap::new();
        add_trace(&mut trace, context.span.context());
        trace.remove(GRPC_TRACE);
        fields.extend(trace);
    }
    fields
}

/// The trace of the answer, or of the call.
fn trace_back(
    api: &Api,
    own: &outrigger_core::trace::TraceContext,
    came: &HeaderMap,
    out: &mut HeaderMap,
) {
    if api.blocks.tracer.is_on() {
        add_trace(out, &trace_of(came).unwrap_or_else(|| own.clone()));
    }
}
