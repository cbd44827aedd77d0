//! Calls to servers that are no Dapr apps: HTTPEndpoint resources and absolute URLs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, LOCATION, REFERER};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use outrigger_blocks::fields;
use outrigger_blocks::invoke::{Call, CallFailure, EndpointClient, Reply};
use outrigger_core::Body;
use outrigger_telemetry::metrics::{Metrics, Sizes};
use outrigger_wire::Target;
use outrigger_wire::http1;
use outrigger_wire::tls::ClientTls;

use crate::app::reply;
use crate::url;

/// As Go's client.
const MAX_REDIRECTS: usize = 10;
/// Clients for absolute URLs that are kept.
const KEPT: usize = 128;
const CONNECTIONS: usize = 1024;
const MAX_HEAD: usize = 1 << 20;

/// A named external server.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Without anything behind the path.
    pub base_url: String,
    /// Set on top of the caller's.
    pub headers: Vec<(String, String)>,
    pub tls: Option<ClientTls>,
}

/// Named endpoints, and clients for any URL.
#[derive(Debug)]
pub struct Endpoints {
    named: HashMap<String, Endpoint>,
    clients: Mutex<HashMap<Key, http1::Client>>,
    metrics: Arc<Metrics>,
}

/// Which client serves a URL: scheme, host and port, and whose TLS settings.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Key {
    https: bool,
    host: String,
    port: u16,
    endpoint: Option<String>,
}

impl Endpoints {
    pub fn new(named: HashMap<String, Endpoint>, metrics: Arc<Metrics>) -> Self {
        Self {
            named,
            clients: Mutex::default(),
            metrics,
        }
    }

    /// The names, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.named.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn client(&self, key: &Key) -> Result<http1::Client, String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(key) {
            return Ok(client.clone());
        }
        if clients.len() >= KEPT {
            clients.clear();
        }
        let own = key
            .endpoint
            .as_ref()
            .and_then(|name| self.named.get(name))
            .and_then(|endpoint| endpoint.tls.clone());
        let tls = match (key.https, own) {
            (false, _) => None,
            (true, Some(tls)) => Some(tls),
            (true, None) => Some(
                ClientTls::verifying(None, None, &[b"http/1.1"])
                    .map_err(|error| error.to_string())?,
            ),
        };
        let client = http1::Client::new(
            Target {
                host: key.host.clone(),
                port: key.port,
                tls,
            },
            CONNECTIONS,
            MAX_HEAD,
        );
        clients.insert(key.clone(), client.clone());
        Ok(client)
    }

    async fn exchange(
        &self,
        url: &Url,
        name: Option<&str>,
        method: Method,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Body>, String> {
        let key = Key {
            https: url.https,
            host: url.host.clone(),
            port: url.port,
            endpoint: name.map(str::to_owned),
        };
        let client = self.client(&key)?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from(url.target.clone());
        *request.headers_mut() = headers;
        client
            .send(request)
            .await
            .map_err(|error| error.to_string())
    }
}

/// An absolute URL, taken apart.
#[derive(Clone, Debug)]
struct Url {
    https: bool,
    host: String,
    port: u16,
    target: PathAndQuery,
}

impl Url {
    /// From a base with the path and query of a call behind it.
    fn of(base: &str, method: &str, query: &str) -> Result<Self, String> {
        let (https, rest) = split_scheme(base)
            .ok_or_else(|| format!("parse {base:?}: an absolute http or https URL is expected"))?;
        let (authority, path) = rest
            .find('/')
            .map_or((rest, ""), |place| rest.split_at(place));
        let target = url::target(path, method, query)
            .map_err(|why| format!("parse \"{base}/{method}\": {why}"))?;
        Self::with(https, authority, target)
    }

    /// As it stands in a `Location`, relative to where it came from.
    fn resolve(&self, location: &str) -> Result<Self, String> {
        if let Some((https, rest)) = split_scheme(location) {
            let (authority, path) = rest
                .find(['/', '?'])
                .map_or((rest, "/"), |place| rest.split_at(place));
            return Self::with(https, authority, path_and_query(path)?);
        }
        let target = if location.starts_with('/') {
            path_and_query(location)?
        } else if let Some(query) = location.strip_prefix('?') {
            path_and_query(&format!("{}?{query}", self.target.path()))?
        } else {
            let folder = self
                .target
                .path()
                .rsplit_once('/')
                .map_or("", |(folder, _)| folder);
            path_and_query(&format!("{folder}/{location}"))?
        };
        Ok(Self {
            target,
            ..self.clone()
        })
    }

    fn with(https: bool, authority: &str, target: PathAndQuery) -> Result<Self, String> {
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let default = if https { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (
                host,
                port.parse().map_err(|_| format!("invalid port {port:?}"))?,
            ),
            _ => (authority, default),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err("http: no Host in request URL".to_owned());
        }
        Ok(Self {
            https,
            host: host.to_owned(),
            port,
            target,
        })
    }

    fn text(&self) -> String {
        let (scheme, default) = if self.https {
            ("https", 443)
        } else {
            ("http", 80)
        };
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let port = if self.port == default {
            String::new()
        } else {
            format!(":{}", self.port)
        };
        format!("{scheme}://{host}{port}{}", self.target)
    }
}

fn path_and_query(text: &str) -> Result<PathAndQuery, String> {
    let text = text.split('#').next().unwrap_or_default();
    let slashed = if text.starts_with('/') {
        text.to_owned()
    } else {
        format!("/{text}")
    };
    PathAndQuery::try_from(slashed).map_err(|error| error.to_string())
}

fn split_scheme(url: &str) -> Option<(bool, &str)> {
    url.strip_prefix("http://")
        .map(|rest| (false, rest))
        .or_else(|| url.strip_prefix("https://").map(|rest| (true, rest)))
}

/// Go repeats a request under these rules.
fn redirected(status: u16, method: &Method) -> Option<(Method, bool)> {
    match status {
        301..=303 => Some((
            if matches!(*method, Method::GET | Method::HEAD) {
                method.clone()
            } else {
                Method::GET
            },
            false,
        )),
        307 | 308 => Some((method.clone(), true)),
        _ => None,
    }
}

#[async_trait]
impl EndpointClient for Endpoints {
    fn knows(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    fn base_url(&self, name: &str) -> Option<String> {
        Some(self.named.get(name)?.base_url.clone())
    }

    async fn call(&self, target: &str, call: Call) -> Result<Reply, CallFailure> {
        let named = self.named.get(target);
        let base = named.map_or(target, |endpoint| endpoint.base_url.as_str());
        let verb = call.verb.clone().unwrap_or(Method::POST);
        let mut url = Url::of(base, &call.method, &call.query).map_err(CallFailure::plain)?;
        let mut headers = call.fields;
        fields::into_http(&mut headers);
        if let Some(kind) = call
            .content_type
            .as_deref()
            .and_then(|kind| HeaderValue::from_str(kind).ok())
        {
            headers.insert(CONTENT_TYPE, kind);
        }
        for (name, value) in named.into_iter().flat_map(|endpoint| &endpoint.headers) {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(value),
            ) {
                headers.insert(name, value);
            }
        }
        let started = std::time::Instant::now();
        let sent = call.body.length().unwrap_or(0);
        let spare = match &call.body {
            Body::Bytes(bytes) => Some(bytes.clone()),
            Body::Stream { .. } => None,
        };
        let (mut method, mut body, mut hops) = (verb.clone(), call.body, 0);
        let outcome = loop {
            let answer = self
                .exchange(
                    &url,
                    named.map(|_| target),
                    method.clone(),
                    headers.clone(),
                    body,
                )
                .await;
            let Ok(answer) = answer else {
                break answer.map_err(|why| (why, url.text()));
            };
            // Only named endpoints follow.
            let location = named
                .and_then(|_| answer.headers().get(LOCATION))
                .and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| {
                Some((redirected(answer.status().as_u16(), &method)?, location))
            });
            let Some(((next_method, keeps_body), location)) = next else {
                break Ok(answer);
            };
            hops += 1;
            if hops > MAX_REDIRECTS {
                break Err(("stopped after 10 redirects".to_owned(), url.text()));
            }
            let next_url = match url.resolve(location) {
                Ok(next) => next,
                Err(why) => {
                    break Err((
                        format!("failed to parse Location header {location:?}: {why}"),
                        url.text(),
                    ));
                }
            };
            body = match (keeps_body, &spare) {
                (true, Some(bytes)) => Body::Bytes(bytes.clone()),
                // A body that is gone cannot be sent again.
                (true, None) => break Ok(answer),
                (false, _) => {
                    headers.remove(CONTENT_TYPE);
                    Body::EMPTY
                }
            };
            if next_url.host != url.host {
                headers.remove(AUTHORIZATION);
                headers.remove(COOKIE);
            }
            if let Ok(referer) = HeaderValue::try_from(url.text()) {
                headers.insert(REFERER, referer);
            }
            (method, url) = (next_method, next_url);
        };
        let (status, received) = outcome.as_ref().map_or((500, 0), |answer| {
            (
                answer.status().as_u16(),
                answer.body().length().unwrap_or(0),
            )
        });
        self.metrics.http_client(
            verb.as_str(),
            &call.method,
            status,
            Sizes { sent, received },
            started.elapsed(),
        );
        outcome.map(reply).map_err(|(why, url)| {
            CallFailure::plain(format!(
                "{} {url:?}: {why}",
                crate::app::title(verb.as_str())
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::of("https://h:8443/base/", "a b", "q=1").unwrap();
        assert_eq!(
            (url.https, url.host.as_str(), url.port, url.target.as_str()),
            (true, "h", 8443, "/base//a%20b?q=1")
        );
        assert_eq!(
            Url::of("http://[::1]", "x", "").unwrap().text(),
            "http://[::1]/x"
        );
        assert_eq!(Url::of("http://h", "", "").unwrap().target, "/");
        assert!(Url::of("ftp://h", "", "").is_err());
        assert!(Url::of("http://", "", "").is_err());
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let url = Url::of("http://h/a/b", "c", "").unwrap();
        for (location, expected) in [
            ("/x", "http://h/x"),
            ("d", "http://h/a/b/d"),
            ("https://o:1/y?z", "https://o:1/y?z"),
            ("?q=2", "http://h/a/b/c?q=2"),
            ("http://o", "http://o/"),
        ] {
            assert_eq!(url.resolve(location).unwrap().text(), expected);
        }
        assert_eq!(redirected(302, &Method::POST), Some((Method::GET, false)));
        assert_eq!(redirected(307, &Method::POST), Some((Method::POST, true)));
        assert_eq!(redirected(304, &Method::GET), None);
    }
}
