//! `spec.tracing`, and the variables of OpenTelemetry.

use std::time::Duration;

use outrigger_core::duration::GoDuration;

use super::{DEFAULT_SAMPLING, OtelExporter, OtelProtocol, Tracing};
use crate::Lookup;
use crate::diagnostic::{Diagnostic, Place};
use crate::read::{Field, Object};
use crate::yaml::Content;

/// What the files say so far.
#[derive(Default)]
pub(super) struct TracingDraft {
    sampling_rate: Option<f64>,
    stdout: bool,
    zipkin_endpoint: Option<String>,
    protocol: Option<(String, Place)>,
    endpoint: Option<(String, Place)>,
    secure: Option<bool>,
    headers: Vec<(String, String)>,
    timeout: Option<Duration>,
}

impl TracingDraft {
    pub(super) fn lay_over(&mut self, object: &Object<'_>) {
        if let Some(field) = object.field("samplingRate") {
            self.sampling_rate = sampling_rate(&field).or(self.sampling_rate);
        }
        self.stdout = object.boolean("stdout").unwrap_or(self.stdout);
        if object.is_null("zipkin") {
            self.zipkin_endpoint = None;
        }
        if let Some(zipkin) = object.object("zipkin") {
            if let Some(endpoint) = zipkin.text("endpointAddress") {
                self.zipkin_endpoint = Some(endpoint).filter(|endpoint| !endpoint.is_empty());
            }
            zipkin.finish();
        }
        if let Some(otel) = object.object("otel") {
            self.otel(&otel);
            otel.finish();
        }
    }

    fn otel(&mut self, otel: &Object<'_>) {
        let placed = |name| {
            otel.field(name)
                .and_then(|field| Some((field.text()?, field.place())))
        };
        self.protocol = placed("protocol").or_else(|| self.protocol.take());
        self.endpoint = placed("endpointAddress").or_else(|| self.endpoint.take());
        self.secure = otel.boolean("isSecure").or(self.secure);
        if let Some(fields) = otel.list("headers") {
            self.headers = fields.iter().filter_map(header).collect();
        }
        if let Some(field) = otel.field("timeout") {
            self.timeout = field.duration().map(GoDuration::clamped);
        }
    }

    /// Dapr: pkg/config/configuration.go: the variables count only where the files name no endpoint.
    pub(super) fn finish(
        mut self,
        environment: Lookup<'_>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Tracing {
        let has_endpoint = self
            .endpoint
            .as_ref()
            .is_some_and(|(endpoint, _)| !endpoint.is_empty());
        if !has_endpoint {
            self.read_environment(environment, diagnostics);
        }
        let default = Tracing::default();
        Tracing {
            sampling_rate: self.sampling_rate.unwrap_or(default.sampling_rate),
            stdout: self.stdout,
            zipkin_endpoint: self.zipkin_endpoint.take(),
            otel: self.exporter(diagnostics),
        }
    }

    fn read_environment(&mut self, environment: Lookup<'_>, diagnostics: &mut Vec<Diagnostic>) {
        let first = |names: [&'static str; 2]| {
            names
                .into_iter()
                .find_map(|name| Some((name, environment(name).filter(|value| !value.is_empty())?)))
        };
        if let Some((name, endpoint)) = first([
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
        ]) {
            let bare = endpoint.strip_prefix("http://").unwrap_or(&endpoint);
            let bare = bare.strip_prefix("https://").unwrap_or(bare);
            self.endpoint = Some((bare.to_owned(), variable(name)));
            self.sampling_rate.get_or_insert(1.0);
            let protocol = first([
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
                "OTEL_EXPORTER_OTLP_PROTOCOL",
            ]);
            let is_http = protocol.is_some_and(|(_, protocol)| protocol.starts_with("http"));
            self.protocol = Some((
                if is_http { "http" } else { "grpc" }.to_owned(),
                variable(name),
            ));
            if environment("OTEL_EXPORTER_OTLP_INSECURE").as_deref() == Some("true") {
                self.secure = Some(false);
            }
        }
        if let Some((name, headers)) = first([
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ]) {
            match parse_headers(&headers) {
                Ok(headers) => self.headers.extend(headers),
                Err(message) => diagnostics.push(
                    Diagnostic::error("CFG-HEADERS", variable(name), message)
                        .expected("`name=value,name=value`"),
                ),
            }
        }
        if let Some((name, timeout)) = first([
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ]) {
            match timeout.parse::<i64>() {
                Ok(milliseconds) => {
                    self.timeout = u64::try_from(milliseconds)
                        .ok()
                        .filter(|n| *n > 0)
                        .map(Duration::from_millis)
                        .or(self.timeout)
                }
                Err(_) => {
                    let told = Diagnostic::error(
                        "CFG-DURATION",
                        variable(name),
                        "the time-out is not a number",
                    )
                    .found(timeout);
                    diagnostics.push(told.expected("milliseconds"));
                }
            }
        }
    }

    fn exporter(self, diagnostics: &mut Vec<Diagnostic>) -> Option<OtelExporter> {
        let (endpoint, place) = self.endpoint.filter(|(endpoint, _)| !endpoint.is_empty())?;
        let Some((protocol, at)) = self.protocol.filter(|(protocol, _)| !protocol.is_empty())
        else {
            let told = Diagnostic::warning(
                "CFG-OTEL",
                place,
                "without a `protocol` no spans are exported",
            );
            diagnostics
                .push(told.expected("`protocol: grpc` or `protocol: http` beside the address"));
            return None;
        };
        let protocol = match protocol.as_str() {
            "grpc" => OtelProtocol::Grpc,
            "http" => OtelProtocol::Http,
            _ => {
                diagnostics.push(
                    Diagnostic::error("CFG-WORD", at, "there is no such protocol")
                        .found(protocol)
                        .expected("`grpc` or `http`"),
                );
                return None;
            }
        };
        Some(OtelExporter {
            protocol,
            endpoint,
            secure: self.secure.unwrap_or(true),
            headers: self.headers,
            timeout: self.timeout,
        })
    }
}

fn variable(name: &str) -> Place {
    Place {
        path: name.to_owned(),
        ..Place::file("environment")
    }
}

/// Dapr: what is no number means the default.
fn sampling_rate(field: &Field<'_>) -> Option<f64> {
    let text = field.text().filter(|text| !text.is_empty())?;
    let rate = text
        .trim()
        .parse::<f64>()
        .ok()
        .filter(|rate| rate.is_finite());
    if rate.is_none_or(|rate| !(0.0..=1.0).contains(&rate)) {
        let what = if rate.is_none() {
            "`samplingRate` is not a number, the default is used"
        } else {
            "`samplingRate` is out of range"
        };
        field.ignored("CFG-SAMPLING", what, "a number from 0 to 1");
    }
    Some(rate.unwrap_or(DEFAULT_SAMPLING))
}

/// `name=value`, or a map of `name` and `value`.
fn header(field: &Field<'_>) -> Option<(String, String)> {
    if let Content::Map(_) = field.node.content {
        let pair = field.object()?;
        let name = pair.required("name");
        pair.knows(&["secretKeyRef", "envRef"]);
        if pair.field("secretKeyRef").is_some() || pair.field("envRef").is_some() {
            let message = format!("header `{name}` is left out: references are not resolved here");
            pair.reader().tell(
                Diagnostic::warning("CFG-HEADERS", pair.place(), message).expected("a `value`"),
            );
            return None;
        }
        let value = pair.text("value").unwrap_or_default();
        pair.finish();
        return Some((name, value));
    }
    let text = field.text()?;
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => {
            field.reader().tell(
                Diagnostic::warning(
                    "CFG-HEADERS",
                    field.place(),
                    "a header without `=` is left out",
                )
                .expected("`name=value`"),
            );
            None
        }
    }
}

/// `name=value,name=value` with percent-encoded values.
fn parse_headers(text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(',')
        .map(|pair| {
            let (name, value) = pair.split_once('=').ok_or("a header has no `=`")?;
            let name = name.trim();
            let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if name.is_empty() || !name.chars().all(is_token) {
                return Err("a header's name is not valid".to_owned());
            }
            let value = percent_decoded(value)
                .ok_or_else(|| format!("the value of header `{name}` is not percent-encoded"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn headers_of_the_environment_are_decoded() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            parse_headers("a=1, b = x%20y "),
            Ok(vec![pair("a", "1"), pair("b", "x y")])
        );
        for bad in ["a", "=x", "a b=1", "a=%zz", "a=%1", ""] {
            assert!(parse_headers(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_headers_panic(text in "\\PC*") {
            parse_headers(&text).ok();
        }
    }
}
