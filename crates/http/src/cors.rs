//! Cross-origin requests from browsers.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response};
use outrigger_core::Body;

/// `--allowed-origins`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Origins {
    /// No CORS at all.
    #[default]
    Off,
    Every,
    /// Each may hold one `*`.
    Only(Vec<String>),
}

impl Origins {
    pub(crate) fn is_on(&self) -> bool {
        *self != Self::Off
    }

    /// Whether a request asks what it may ask.
    pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers
                .get(ACCESS_CONTROL_REQUEST_METHOD)
                .is_some_and(|value| !value.is_empty())
    }

    /// What a preflight is told.
    pub(crate) fn preflight(&self, headers: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::EMPTY);
        let out = response.headers_mut();
        for name in [
            "Origin",
            "Access-Control-Request-Method",
            "Access-Control-Request-Headers",
        ] {
            out.append(VARY, HeaderValue::from_static(name));
        }
        let Some(origin) = self.allowed(headers) else {
            return response;
        };
        let asked = headers
            .get(ACCESS_CONTROL_REQUEST_METHOD)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_ascii_uppercase();
        if !is_allowed(&asked) {
            return response;
        }
        out.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if let Ok(asked) = HeaderValue::try_from(asked) {
            out.insert(ACCESS_CONTROL_ALLOW_METHODS, asked);
        }
        let names: Vec<String> = headers
            .get(ACCESS_CONTROL_REQUEST_HEADERS)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .split([',', ' '])
            .filter(|name| !name.is_empty())
            .map(title)
            .collect();
        if !names.is_empty()
            && let Ok(names) = HeaderValue::try_from(names.join(", "))
        {
            out.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        response
    }

    /// What every other reply carries.
    pub(crate) fn mark(&self, method: &Method, request: &HeaderMap, response: &mut HeaderMap) {
        response.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = self.allowed(request)
            && (*method == Method::OPTIONS || is_allowed(method.as_str()))
        {
            response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
    }

    fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN).filter(|origin| !origin.is_empty())?;
        match self {
            Self::Off => None,
            Self::Every => Some(HeaderValue::from_static("*")),
            Self::Only(list) => {
                let text = origin.to_str().ok()?.to_lowercase();
                list.iter()
                    .any(|allowed| fits(&allowed.to_lowercase(), &text))
                    .then(|| origin.clone())
            }
        }
    }
}

fn fits(allowed: &str, origin: &str) -> bool {
    match allowed.split_once('*') {
        Some((start, end)) => {
            origin.len() >= start.len() + end.len()
                && origin.starts_with(start)
                && origin.ends_with(end)
        }
        None => allowed == origin,
    }
}

fn is_allowed(method: &str) -> bool {
    matches!(
        method,
        "HEAD" | "GET" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS"
    )
}

fn title(name: &str) -> String {
    let mut start = true;
    let letter = |c: char| {
        let out = if start {
            c.to_ascii_uppercase()
        } else {
            c.to_ascii_lowercase()
        };
        start = c == '-';
        out
    };
    name.chars().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    const ASK: [(&str, &str); 3] = [
        ("origin", "http://good"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-a, Content-Type"),
    ];

    #[test]
    fn a_preflight_names_what_was_asked() {
        let reply = Origins::Every.preflight(&headers(&ASK));
        assert_eq!(reply.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert_eq!(
            reply.headers()[ACCESS_CONTROL_ALLOW_HEADERS],
            "X-A, Content-Type"
        );
        assert_eq!(reply.headers()[ACCESS_CONTROL_ALLOW_METHODS], "POST");
    }

    #[test]
    fn foreign_origins_are_told_nothing() {
        let origins = Origins::Only(vec!["http://*.ok".into()]);
        assert!(
            !origins
                .preflight(&headers(&ASK))
                .headers()
                .contains_key(ACCESS_CONTROL_ALLOW_ORIGIN)
        );
        let mut out = HeaderMap::new();
        origins.mark(
            &Method::GET,
            &headers(&[("origin", "http://a.OK")]),
            &mut out,
        );
        assert_eq!(out[ACCESS_CONTROL_ALLOW_ORIGIN], "http://a.OK");
    }
}
