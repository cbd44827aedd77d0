//! The OpenTelemetry protocol, over gRPC and over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use outrigger_lifecycle::Scope;
use outrigger_proto::Message as _;
use outrigger_proto::opentelemetry::proto as otlp;
use outrigger_telemetry::span::{Event, Finished};
use outrigger_wire::tls::ClientTls;
use outrigger_wire::{grpc, http2};

use super::{Resource, Server, TRACER, client_of, post};

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A collector behind gRPC.
pub struct OtlpGrpc {
    channel: grpc::Channel,
    headers: Vec<(String, String)>,
    limit: Duration,
}

/// A collector behind HTTP.
pub struct OtlpHttp {
    server: Server,
    headers: Vec<(String, String)>,
    limit: Duration,
}

impl OtlpGrpc {
    /// `endpoint` is `host:port`.
    ///
    /// # Errors
    /// When the endpoint is none.
    pub fn new(
        endpoint: &str,
        secure: bool,
        headers: Vec<(String, String)>,
        limit: Duration,
        scope: &Scope,
    ) -> Result<Self, String> {
        let mut target = crate::peer::target_of(endpoint)
            .ok_or_else(|| format!("host:port is expected, found {endpoint:?}"))?;
        if secure {
            target.tls = Some(
                ClientTls::verifying(None, None, &[b"h2"]).map_err(|error| error.to_string())?,
            );
        }
        let channel =
            grpc::Channel::new(target, http2::Settings::default(), 4 << 20, scope.clone())
                .map_err(|status| status.message)?;
        Ok(Self {
            channel,
            headers,
            limit,
        })
    }

    pub(super) async fn export(
        &self,
        resource: &Resource,
        batch: &[Finished],
    ) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            outrigger_blocks::fields::add(&mut headers, name, value);
        }
        let request = request(resource, batch);
        let exporting = self
            .channel
            .unary::<otlp::ExportTraceServiceResponse>(EXPORT, headers, &request);
        match tokio::time::timeout(self.limit, exporting).await {
            Ok(outcome) => outcome
                .map(|_| ())
                .map_err(|error| error.status.to_string()),
            Err(_) => Err("timed out".to_owned()),
        }
    }
}

impl OtlpHttp {
    /// `endpoint` is `host:port`, with or without a path.
    ///
    /// # Errors
    /// When the endpoint is none.
    pub fn new(
        endpoint: &str,
        secure: bool,
        headers: Vec<(String, String)>,
        limit: Duration,
    ) -> Result<Self, String> {
        let scheme = if secure { "https" } else { "http" };
        let mut server = client_of(&format!("{scheme}://{endpoint}"))?;
        if server.path == "/" {
            "/v1/traces".clone_into(&mut server.path);
        }
        Ok(Self {
            server,
            headers,
            limit,
        })
    }

    pub(super) async fn export(
        &self,
        resource: &Resource,
        batch: &[Finished],
    ) -> Result<(), String> {
        let body = request(resource, batch).encode_to_vec();
        let posting = post(&self.server, "application/x-protobuf", &self.headers, body);
        tokio::time::timeout(self.limit, posting)
            .await
            .unwrap_or_else(|_| Err("timed out".to_owned()))
    }
}

fn request(resource: &Resource, batch: &[Finished]) -> otlp::ExportTraceServiceRequest {
    let named = std::iter::once(attribute("service.name", &resource.service_name));
    let attributes = named
        .chain(
            resource
                .attributes
                .iter()
                .map(|(name, value)| attribute(name, value)),
        )
        .collect();
    otlp::ExportTraceServiceRequest {
        resource_spans: vec![otlp::ResourceSpans {
            resource: Some(otlp::Resource { attributes }),
            scope_spans: vec![otlp::ScopeSpans {
                scope: Some(otlp::InstrumentationScope {
                    name: TRACER.to_owned(),
                    version: String::new(),
                }),
                spans: batch.iter().map(span).collect(),
            }],
        }],
    }
}

fn span(from: &Finished) -> otlp::Span {
    otlp::Span {
        trace_id: Bytes::copy_from_slice(&from.context.trace_id),
        span_id: Bytes::copy_from_slice(&from.context.span_id),
        trace_state: from.context.state.clone(),
        parent_span_id: from
            .parent
            .map(|id| Bytes::copy_from_slice(&id))
            .unwrap_or_default(),
        name: from.name.clone(),
        kind: from.kind as i32,
        start_time_unix_nano: from.start_nanos,
        end_time_unix_nano: from.end_nanos,
        attributes: from
            .attributes
            .iter()
            .map(|(name, value)| attribute(name, value))
            .collect(),
        events: from.events.iter().map(event).collect(),
        status: from.error.as_ref().map(|message| otlp::SpanStatus {
            message: message.clone(),
            code: 2,
        }),
        flags: u32::from(from.context.flags),
    }
}

fn event(from: &Event) -> otlp::span::Event {
    let attributes = from.attributes.iter();
    otlp::span::Event {
        time_unix_nano: from.nanos,
        name: from.name.to_owned(),
        attributes: attributes
            .map(|(name, value)| attribute(name, value))
            .collect(),
    }
}

fn attribute(name: &str, value: &str) -> otlp::KeyValue {
    let value = otlp::AnyValue {
        value: Some(otlp::any_value::Value::StringValue(value.to_owned())),
    };
    otlp::KeyValue {
        key: name.to_owned(),
        value: Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::trace::TraceContext;
    use outrigger_telemetry::span::Kind;

    #[test]
    fn a_failed_span_says_so() {
        let finished = Finished {
            context: TraceContext::root(true),
            parent: Some([1; 8]),
            name: "n".into(),
            kind: Kind::Client,
            start_nanos: 1,
            end_nanos: 2,
            attributes: vec![("dapr.api".into(), "GET /".into())],
            events: vec![Event {
                name: "e",
                nanos: 1,
                attributes: vec![("k", "v".into())],
            }],
            error: Some("Code(500): x".into()),
        };
        let out = span(&finished);
        assert_eq!(
            out.status,
            Some(otlp::SpanStatus {
                message: "Code(500): x".into(),
                code: 2
            })
        );
        assert_eq!((out.events.len(), out.events[0].attributes.len()), (1, 1));
        assert_eq!((out.kind, &out.parent_span_id[..]), (3, &[1; 8][..]));
        let resource = Resource {
            service_name: "app".into(),
            attributes: vec![("k".into(), "v".into())],
        };
        assert_eq!(
            request(&resource, &[finished]).resource_spans[0]
                .resource
                .as_ref()
                .unwrap()
                .attributes
                .len(),
            2
        );
    }
}
