//! Trace contexts in the fields of calls.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderValue};
use outrigger_blocks::fields::{GRPC_TRACE, TRACE_PARENT, TRACE_STATE};
use outrigger_core::trace::TraceContext;

/// The text form.
pub(crate) fn put_trace(headers: &mut HeaderMap, context: &TraceContext) {
    if let Ok(parent) = HeaderValue::try_from(context.header()) {
        headers.insert(TRACE_PARENT, parent);
    }
    if !context.state.is_empty()
        && let Ok(state) = HeaderValue::from_str(&context.state)
    {
        headers.insert(TRACE_STATE, state);
    }
}

/// Both the text form and the binary one.
pub fn add_trace(headers: &mut HeaderMap, context: &TraceContext) {
    put_trace(headers, context);
    if let Ok(binary) = HeaderValue::try_from(STANDARD_NO_PAD.encode(context.to_binary())) {
        headers.insert(GRPC_TRACE, binary);
    }
}

/// Puts a context in the place of the one that a call came with.
pub fn hand_down(metadata: &mut HeaderMap, context: &TraceContext) {
    if metadata.contains_key(GRPC_TRACE) {
        add_trace(metadata, context);
    } else {
        put_trace(metadata, context);
    }
}

/// The text form among the fields of a call.
pub(crate) fn trace_in(fields: &HeaderMap) -> Option<TraceContext> {
    let text = |name| {
        fields
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    TraceContext::parse(text(TRACE_PARENT)?, text(TRACE_STATE))
}

/// The trace of a gRPC call: the binary form, else the text.
pub fn trace_of(metadata: &HeaderMap) -> Option<TraceContext> {
    let Some(binary) = metadata.get(GRPC_TRACE) else {
        return trace_in(metadata);
    };
    let bytes = STANDARD_NO_PAD
        .decode(binary.as_bytes())
        .or_else(|_| STANDARD.decode(binary.as_bytes()))
        .ok()?;
    TraceContext::parse_binary(&bytes)
}
