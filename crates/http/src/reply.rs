//! The form of replies.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use outrigger_core::error::ApiError;
use outrigger_core::json::{Numbers, Style, Value, encode};
use outrigger_core::{Body, Metadata};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Nothing to say.
pub(crate) fn empty() -> Response<Body> {
    let mut response = Response::new(Body::EMPTY);
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// It will be done; nothing else to say.
pub(crate) fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::EMPTY);
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// Bytes that are JSON already.
pub(crate) fn data(status: u16, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Bytes(bytes.into()));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// A value with the newline that Go's encoder puts behind it.
pub(crate) fn json(status: u16, value: &Value) -> Response<Body> {
    let mut bytes = encode(value, Style::Standard, Numbers::Exact);
    bytes.push(b'\n');
    data(status, bytes)
}

/// The members in their own order, as Go writes structures.
pub(crate) fn structure(status: u16, value: &Value) -> Response<Body> {
    let mut bytes = encode(value, Style::Ours, Numbers::Exact);
    bytes.push(b'\n');
    data(status, bytes)
}

/// An error in its own words.
pub(crate) fn error(error: &ApiError) -> Response<Body> {
    let mut response = data(
        error.http,
        encode(&error.to_json(), Style::Ours, Numbers::Exact),
    );
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// As Go's `http.Error` writes it: a line of text.
pub(crate) fn text(status: StatusCode, line: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{line}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response.headers_mut().insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// No such page, where there is such a thing.
pub(crate) fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found")
}

/// Such a page, but not for this verb.
pub(crate) fn not_allowed(verbs: &[&Method]) -> Response<Body> {
    let mut response = Response::new(Body::EMPTY);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    for verb in verbs {
        if let Ok(verb) = HeaderValue::from_str(verb.as_str()) {
            response.headers_mut().append(ALLOW, verb);
        }
    }
    response
}

/// Metadata of a component as headers; the case of the names is lost.
pub(crate) fn add_metadata(response: &mut Response<Body>, metadata: &Metadata) {
    for (name, value) in metadata {
        if let (Ok(name), Ok(value)) = (
            HeaderName::try_from(format!("metadata.{name}")),
            HeaderValue::from_str(value),
        ) {
            response.headers_mut().insert(name, value);
        }
    }
}
