//! Service invocation, and every path that is no route.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use outrigger_blocks::errors::invoke as told;
use outrigger_blocks::fields::{self, APP_ID, STAMPS};
use outrigger_blocks::invoke::{Call, Reply, ReplyStatus, Surface};
use outrigger_core::Body;
use outrigger_core::error::GrpcCode;
use outrigger_core::json::{Numbers, Style, Value, encode};

use outrigger_resiliency::report;

use super::Outcome;
use crate::path::{clean, unescaped};
use crate::pipeline::{Api, Asked, streamed};

/// Calls the app that a request names; `path` is the request's, decoded.
pub(crate) async fn call(api: &Api, asked: Asked<'_>, path: &str) -> Outcome {
    let Asked {
        head, body, trail, ..
    } = asked;
    let Some((target, method)) = target(path, &mut head.headers) else {
        return Err(Box::new(told::no_target()));
    };
    trail.target = Some(format!("{target}/{method}"));

    let streaming = matches!(&body, Body::Stream { length: None, .. });
    let mut headers = std::mem::take(&mut head.headers);
    for name in STAMPS {
        headers.remove(name);
    }
    headers.remove(HOST);
    let call = Call {
        doubled_slash: path.contains("/method//"),
        until: None,
        method,
        verb: Some(verb(&head.method)),
        lacks_extension: false,
        query: head.uri.query().unwrap_or_default().to_owned(),
        content_type: headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
        fields: headers,
        surface: Surface::Http,
        authority: None,
        type_url: String::new(),
        body,
    };
    match api.blocks.invoke.invoke(&target, call).await {
        Ok(reply) => Ok(response(api, reply, streaming).await),
        Err(failure) => {
            let error = failure.to_api(&target);
            let Some(attempts) = failure.attempts else {
                return Err(Box::new(error));
            };
            api.blocks.metrics.error(&error.tag, error.category);
            let mut response = crate::reply::error(&error);
            let told = format!("retries-exhausted; attempts={attempts}");
            if let Ok(value) = HeaderValue::try_from(told) {
                response.headers_mut().insert(report::FIELD, value);
            }
            Ok(response)
        }
    }
}

/// The app and the method that a request means: by header, by name and password, by path.
fn target(path: &str, headers: &mut HeaderMap) -> Option<(String, String)> {
    let whole = || clean(path).trim_start_matches('/').to_owned();
    if let Some(id) = headers
        .get(APP_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty())
        .map(str::to_owned)
    {
        headers.remove(APP_ID);
        return Some((id, whole()));
    }
    if let Some(id) = headers
        .get(AUTHORIZATION)
        .and_then(|value| basic(value.to_str().ok()?))
    {
        return Some((id, whole()));
    }
    let rest = behind(path, &["v1.0", "invoke"])?;
    let (id, method) = rest
        .split_once("/method/")
        .filter(|(id, _)| !id.is_empty())?;
    let id = match unescaped(id) {
        Cow::Owned(id) if !id.is_empty() => id,
        Cow::Borrowed(_) | Cow::Owned(_) => id.to_owned(),
    };
    Some((id, clean(method).trim_start_matches('/').to_owned()))
}

/// `Basic` credentials whose user is `dapr-app-id`.
fn basic(value: &str) -> Option<String> {
    let text = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(text).ok()?;
    let (user, id) = text.split_once(':')?;
    (user.eq_ignore_ascii_case(APP_ID.as_str()) && !id.contains(':') && !id.is_empty())
        .then(|| id.to_owned())
}

/// What stands behind leading segments, however many slashes part them.
fn behind<'a>(path: &'a str, segments: &[&str]) -> Option<&'a str> {
    let mut rest = path;
    for segment in segments {
        rest = rest.trim_start_matches('/').strip_prefix(segment)?;
        if !rest.starts_with('/') {
            return None;
        }
    }
    Some(rest.trim_start_matches('/'))
}

/// Verbs that Dapr does not know become POST.
fn verb(method: &Method) -> Method {
    match method.as_str().to_ascii_uppercase().as_str() {
        "GET" => Method::GET,
        "HEAD" => Method::HEAD,
        "PUT" => Method::PUT,
        "DELETE" => Method::DELETE,
        "CONNECT" => Method::CONNECT,
        "OPTIONS" => Method::OPTIONS,
        "TRACE" => Method::TRACE,
        "PATCH" => Method::PATCH,
        _ => Method::POST,
    }
}

async fn response(api: &Api, reply: Reply, streaming: bool) -> Response<Body> {
    let mut headers = reply.fields;
    fields::into_http(&mut headers);
    // What is said of our policies is said by us.
    headers.remove(report::FIELD);
    headers.remove(report::LAST_ERROR);
    if let Some(kind) = reply
        .content_type
        .as_deref()
        .and_then(|kind| HeaderValue::from_str(kind).ok())
    {
        headers.insert(CONTENT_TYPE, kind);
    }
    let (status, body) = match reply.status {
        ReplyStatus::Http(status) => (status, reply.body),
        ReplyStatus::Grpc {
            code: GrpcCode::Ok, ..
        } => (200, reply.body),
        ReplyStatus::Grpc { code, message, .. } => {
            api.blocks
                .metrics
                .error("ERR_DIRECT_INVOKE", "service-invocation");
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            let mut members = vec![("code".to_owned(), Value::integer(code.number()))];
            if !message.is_empty() {
                members.push(("message".to_owned(), Value::String(message)));
            }
            (
                code.to_http(),
                Body::from(encode(&Value::Object(members), Style::Ours, Numbers::Exact)),
            )
        }
    };
    let good = (200..400).contains(&status);
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    headers.remove(CONTENT_LENGTH);
    *response.headers_mut() = headers;
    if good || streaming {
        streamed(&mut response);
        return response;
    }
    // A bad answer is read whole, so that policies can judge it.
    api.blocks
        .metrics
        .error("ERR_DIRECT_INVOKE", "service-invocation");
    let (mut parts, body) = response.into_parts();
    let body = body.collect(usize::MAX).await.unwrap_or_default();
    parts
        .headers
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Body::Bytes(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, pairs: &[(&'static str, &str)]) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            fields::add(&mut headers, name, value);
        }
        target(path, &mut headers)
    }

    fn pair(id: &str, method: &str) -> Option<(String, String)> {
        Some((id.to_owned(), method.to_owned()))
    }

    #[test]
    fn there_are_three_ways_to_name_an_app() {
        assert_eq!(of("/a/b", &[("dapr-app-id", "x")]), pair("x", "a/b"));
        assert_eq!(
            of("/v1.0/invoke/y/method/m", &[("dapr-app-id", "x")]),
            pair("x", "v1.0/invoke/y/method/m")
        );
        let credentials = format!("Basic {}", STANDARD.encode("DAPR-app-id:z"));
        assert_eq!(of("/a", &[("authorization", &credentials)]), pair("z", "a"));
        assert_eq!(of("/v1.0/invoke/y/method/m/n", &[]), pair("y", "m/n"));
    }

    #[test]
    fn odd_paths_are_read_like_those_of_the_reference() {
        assert_eq!(of("//v1.0//invoke//y/method//m/", &[]), pair("y", "m"));
        assert_eq!(of("/v1.0/invoke/a//method/m", &[]), pair("a/", "m"));
        assert_eq!(
            of("/v1.0/invoke/http://h:1/method/m", &[]),
            pair("http://h:1", "m")
        );
        assert_eq!(of("/v1.0/invoke/y/method/", &[]), pair("y", ""));
        for none in [
            "/v1.0/invoke/y/method",
            "/v1.0/invoke//method/m",
            "/v1.0/invoke",
            "/",
            "/v1.0/other/y/method/m",
            "/v1.0/invokes/y/method/m",
        ] {
            assert_eq!(of(none, &[]), None, "{none}");
        }
    }

    #[test]
    fn credentials_of_others_are_none_of_ours() {
        for text in ["user:x", "dapr-app-id", "dapr-app-id:a:b"] {
            assert_eq!(
                basic(&format!("Basic {}", STANDARD.encode(text))),
                None,
                "{text}"
            );
        }
        assert_eq!(basic("Bearer x"), None);
        assert_eq!(basic("Basic ?"), None);
    }
}
