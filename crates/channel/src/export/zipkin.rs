//! Zipkin's JSON.

use outrigger_core::json::{Numbers, Style, Value, encode};
use outrigger_telemetry::span::{Event, Finished, Kind};

use super::{Resource, Server, client_of, hex, post};

/// A Zipkin server.
pub struct Zipkin(Server);

impl Zipkin {
    /// `url` is that of the spans collection, usually ending in `/api/v2/spans`.
    ///
    /// # Errors
    /// When it is no URL.
    pub fn new(url: &str) -> Result<Self, String> {
        client_of(url).map(Self)
    }

    pub(super) async fn export(
        &self,
        resource: &Resource,
        batch: &[Finished],
    ) -> Result<(), String> {
        let spans = Value::Array(batch.iter().map(|span| json(resource, span)).collect());
        post(
            &self.0,
            "application/json",
            &[],
            encode(&spans, Style::Ours, Numbers::Exact),
        )
        .await
    }
}

fn json(resource: &Resource, span: &Finished) -> Value {
    let mut members = vec![
        (
            "traceId".to_owned(),
            Value::String(hex(&span.context.trace_id)),
        ),
        ("id".to_owned(), Value::String(hex(&span.context.span_id))),
        ("name".to_owned(), Value::string(span.name.as_str())),
        ("timestamp".to_owned(), integer(span.start_nanos / 1_000)),
        (
            "duration".to_owned(),
            integer((span.end_nanos.saturating_sub(span.start_nanos) / 1_000).max(1)),
        ),
        (
            "localEndpoint".to_owned(),
            Value::object([("serviceName", Value::string(resource.service_name.as_str()))]),
        ),
    ];
    if let Some(parent) = &span.parent {
        members.push(("parentId".to_owned(), Value::String(hex(parent))));
    }
    let kind = match span.kind {
        Kind::Internal => None,
        Kind::Server => Some("SERVER"),
        Kind::Client => Some("CLIENT"),
        Kind::Producer => Some("PRODUCER"),
        Kind::Consumer => Some("CONSUMER"),
    };
    members.extend(kind.map(|kind| ("kind".to_owned(), Value::string(kind))));
    if !span.events.is_empty() {
        members.push((
            "annotations".to_owned(),
            Value::Array(span.events.iter().map(annotation).collect()),
        ));
    }
    let mut tags: Vec<(String, Value)> = span
        .attributes
        .iter()
        .map(|(name, value)| (name.to_string(), Value::string(value.as_str())))
        .collect();
    tags.push(("otel.library.name".to_owned(), Value::string(super::TRACER)));
    if let Some(error) = &span.error {
        tags.push(("error".to_owned(), Value::string(error.as_str())));
        tags.push(("otel.status_code".to_owned(), Value::string("Error")));
    }
    members.push(("tags".to_owned(), Value::Object(tags)));
    Value::Object(members)
}

/// Zipkin's events are one text each.
fn annotation(event: &Event) -> Value {
    let mut text = event.name.to_owned();
    for (name, value) in &event.attributes {
        text.push_str(&format!(" {name}={value}"));
    }
    Value::object([
        ("timestamp", integer(event.nanos / 1_000)),
        ("value", Value::String(text)),
    ])
}

fn integer(number: u64) -> Value {
    Value::Number(number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::trace::TraceContext;

    #[test]
    fn a_span_has_the_members_that_zipkin_reads() {
        let context = TraceContext {
            trace_id: [0xab; 16],
            span_id: [1; 8],
            flags: 1,
            state: String::new(),
        };
        let span = Finished {
            context,
            parent: None,
            name: "/x".into(),
            kind: Kind::Client,
            start_nanos: 5_000,
            end_nanos: 9_000,
            attributes: Vec::new(),
            events: Vec::new(),
            error: None,
        };
        let json = json(
            &Resource {
                service_name: "app".into(),
                attributes: Vec::new(),
            },
            &span,
        );
        assert_eq!(
            json.get("traceId").and_then(Value::as_str),
            Some("abababababababababababababababab")
        );
        assert_eq!(json.get("duration"), Some(&Value::Number("4".into())));
        assert_eq!(json.get("parentId"), None);
        assert_eq!(json.get("kind").and_then(Value::as_str), Some("CLIENT"));
    }
}
