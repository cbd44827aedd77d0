//! Names of fields on the borders between HTTP, gRPC, the app and other sidecars.
//!
//! HTTP headers and gRPC metadata share one map of lower-case names; where a name means something to the protocol that
//! it is about to enter, it is dropped or gets `dapr-` in front.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::invoke::Surface;

/// Fields with which sidecars tell apps who calls; what a caller sends under these names is thrown away.
pub const STAMPS: [HeaderName; 3] = [CALLER_APP_ID, CALLER_NAMESPACE, CALLEE_APP_ID];
pub const CALLER_APP_ID: HeaderName = HeaderName::from_static("dapr-caller-app-id");
pub const CALLER_NAMESPACE: HeaderName = HeaderName::from_static("dapr-caller-namespace");
pub const CALLEE_APP_ID: HeaderName = HeaderName::from_static("dapr-callee-app-id");
pub const APP_ID: HeaderName = HeaderName::from_static("dapr-app-id");
pub const API_TOKEN: HeaderName = HeaderName::from_static("dapr-api-token");
pub const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
pub const GRPC_TRACE: HeaderName = HeaderName::from_static("grpc-trace-bin");

/// Fields that concern one connection only.
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
            | "te"
            | "trailer"
            | "proxy-authorization"
            | "proxy-authenticate"
    )
}

/// Fields of HTTP itself, which as gRPC metadata get a prefix.
pub fn is_permanent(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-charset"
            | "accept-language"
            | "accept-ranges"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "cache-control"
            | "content-type"
            | "content-length"
            | "cookie"
            | "date"
            | "expect"
            | "from"
            | "host"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-schedule-tag-match"
            | "if-unmodified-since"
            | "max-forwards"
            | "origin"
            | "pragma"
            | "referer"
            | "via"
            | "warning"
    )
}

/// Makes fields fit for HTTP: of a call to an HTTP app, or of a reply to an HTTP caller.
pub fn into_http(fields: &mut HeaderMap) {
    if let Some(nominated) = nominated(fields) {
        for name in nominated {
            fields.remove(name);
        }
    }
    let unfit = |name: &HeaderName| {
        let text = name.as_str();
        *name == CONTENT_TYPE
            || *name == CONTENT_LENGTH
            || *name == HOST
            || is_hop_by_hop(text)
            || text.ends_with("-bin")
            || text == "destination-app-id"
    };
    drop_where(fields, unfit);
    rename_where(fields, |name| name.starts_with("grpc-"));
}

/// Makes fields fit to be gRPC metadata: of a call to a gRPC app, or of a reply to a gRPC caller.
pub fn into_metadata(fields: &mut HeaderMap, surface: Surface) {
    let unfit = |name: &HeaderName| {
        let text = name.as_str();
        *name == HOST
            || text == "destination-app-id"
            || is_reserved(text)
            || (surface == Surface::Grpc && (*name == CONTENT_TYPE || is_hop_by_hop(text)))
    };
    drop_where(fields, unfit);
    if surface == Surface::Http {
        rename_where(fields, is_permanent);
    }
    // What has no prefix now would still mean something to HTTP/2.
    drop_where(fields, |name| is_hop_by_hop(name.as_str()));
}

/// What gRPC says of a call in fields of its own.
fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "te" | "grpc-timeout"
            | "grpc-encoding"
            | "grpc-message"
            | "grpc-status"
            | "grpc-message-type"
            | "grpc-status-details-bin"
    )
}

/// Removes the fields that only the connection between the app and its sidecar needed.
pub fn strip_connection(fields: &mut HeaderMap) {
    if let Some(nominated) = nominated(fields) {
        for name in nominated {
            fields.remove(name);
        }
    }
    drop_where(fields, |name| {
        *name == CONTENT_LENGTH || is_hop_by_hop(name.as_str())
    });
}

/// Fields that `Connection` names.
fn nominated(fields: &HeaderMap) -> Option<Vec<HeaderName>> {
    fields.get(CONNECTION)?;
    let tokens = fields
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let names: Vec<HeaderName> = tokens
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| *name != CONNECTION)
        .collect();
    (!names.is_empty()).then_some(names)
}

fn drop_where(fields: &mut HeaderMap, unfit: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = fields.keys().find(|name| unfit(name)).cloned() {
        fields.remove(name);
    }
}

fn rename_where(fields: &mut HeaderMap, odd: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = fields
        .keys()
        .filter(|name| odd(name.as_str()))
        .cloned()
        .collect();
    for name in names {
        let values: Vec<HeaderValue> = fields.get_all(&name).iter().cloned().collect();
        fields.remove(&name);
        if let Ok(prefixed) = HeaderName::try_from(format!("dapr-{name}")) {
            for value in values {
                fields.append(prefixed.clone(), value);
            }
        }
    }
}

/// Adds a field whose name and value come from outside; what cannot be one is left out.
pub fn add(fields: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (
        HeaderName::from_bytes(name.as_bytes()),
        HeaderValue::from_str(value),
    ) {
        fields.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            add(&mut map, name, value);
        }
        map
    }

    fn names(fields: &HeaderMap) -> Vec<String> {
        let mut names: Vec<String> = fields.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn towards_http_hop_by_hop_and_binary_fields_are_dropped_and_those_of_grpc_marked() {
        let mut fields = map(&[
            ("Connection", "keep-alive, X-Own"),
            ("X-Own", "1"),
            ("te", "trailers"),
            ("a-bin", "AA"),
            ("grpc-accept-encoding", "gzip"),
            ("cookie", "c"),
            ("content-type", "x"),
        ]);
        into_http(&mut fields);
        assert_eq!(names(&fields), ["cookie", "dapr-grpc-accept-encoding"]);
    }

    #[test]
    fn as_metadata_the_fields_of_http_get_a_prefix() {
        let mut fields = map(&[
            ("accept", "*/*"),
            ("content-type", "a/b"),
            ("x-own", "1"),
            ("x-own", "2"),
            ("host", "h"),
            ("grpc-timeout", "1S"),
        ]);
        into_metadata(&mut fields, Surface::Http);
        assert_eq!(
            names(&fields),
            ["dapr-accept", "dapr-content-type", "x-own"]
        );
        assert_eq!(fields.get_all("x-own").iter().count(), 2);
    }

    #[test]
    fn metadata_stays_metadata() {
        let mut fields = map(&[
            ("content-type", "application/grpc"),
            ("x-own", "1"),
            ("cookie", "c"),
        ]);
        into_metadata(&mut fields, Surface::Grpc);
        assert_eq!(names(&fields), ["cookie", "x-own"]);
    }
}
