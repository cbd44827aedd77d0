//! gRPC calls of user services, passed on without being decoded.
//!
//! A call that no service of ours knows names its target in metadata: our own app, or another one behind its sidecar.
//! Policies of the named app apply until the call commits: from then on it runs as long as its caller wants.

mod passing;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_blocks::fields::{API_TOKEN, APP_ID, CALLEE_APP_ID, CALLER_APP_ID, CALLER_NAMESPACE};
use outrigger_blocks::invoke::{Admission, Invoke, normalise_method, split_id};
use outrigger_core::Secret;
use outrigger_core::error::GrpcCode;
use outrigger_core::trace::TraceContext;
use outrigger_telemetry::span::Tracer;
use outrigger_wire::grpc::{Call, CallError, Channel, Exchange, Status};

use crate::peer::{Access, PeerPool};
use passing::Passing;

/// Which of our servers a call came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// From our app.
    Api,
    /// From another sidecar.
    Internal,
}

/// Passes calls on.
pub struct Proxy {
    pub invoke: Arc<Invoke>,
    pub peers: Arc<PeerPool>,
    /// The connection to our app.
    pub app: Option<Arc<Channel>>,
    pub app_token: Option<Secret>,
    /// May change while calls are served.
    pub access: Arc<ArcSwap<Access>>,
    /// Bytes of a message.
    pub max_message: usize,
    /// Where it is on, spans and traces are passed on.
    pub tracer: Tracer,
}

impl Proxy {
    /// Passes one call on. `trace` is what its span hands down.
    pub async fn pass(
        &self,
        exchange: Exchange,
        side: Side,
        trace: Option<&TraceContext>,
    ) -> GrpcCode {
        let limit = timeout_of(&exchange.head.headers);
        let Exchange {
            head,
            messages,
            mut reply,
            ..
        } = exchange;
        let marked = head.headers.contains_key(APP_ID);
        let app_id = match self.target(&head.headers, head.uri.path()) {
            Ok(app_id) => app_id,
            Err(status) => {
                reply.end(HeaderMap::new(), &status);
                return status.code;
            }
        };
        let started = Instant::now();
        let streaming = head
            .headers
            .get("dapr-stream")
            .is_some_and(|value| is_marked(value.as_bytes()));
        let kind = if streaming { "streaming" } else { "unary" };
        if marked && side == Side::Api {
            self.invoke
                .metrics
                .invocation_req_sent
                .add([&app_id, kind], 1);
        }
        let passing = Passing {
            proxy: self,
            app_id: &app_id,
            path: head.uri.path(),
            headers: head.headers.clone(),
            side,
            trace,
            until: limit.map(|limit| self.invoke.clock.now() + limit),
        };
        let passing = async {
            // Policies live with the caller, and are those of the app that the caller names.
            if marked && side == Side::Api {
                passing
                    .under_policies(messages, &mut reply, streaming)
                    .await
            } else {
                passing.plainly(messages, &mut reply, None).await
            }
        };
        let outcome = match limit {
            Some(limit) => tokio::time::timeout(limit, passing)
                .await
                .unwrap_or_else(|_| Err(timed_out())),
            None => passing.await,
        };
        let code = match outcome {
            Ok(code) => code,
            Err(status) => {
                reply.end(HeaderMap::new(), &status);
                status.code
            }
        };
        if marked && side == Side::Api {
            let mut number = [0; 5];
            let status = outrigger_blocks::invoke::decimal(u16::from(code.number()), &mut number);
            self.invoke
                .metrics
                .invocation_res_recv
                .add([&app_id, status, kind], 1);
            self.invoke
                .metrics
                .invocation_res_recv_latency
                .observe([&app_id, status], started.elapsed().as_millis() as f64);
        }
        code
    }

    /// Whom the metadata names.
    fn target(&self, headers: &HeaderMap, path: &str) -> Result<String, Status> {
        let named = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
                .filter(|id| !id.is_empty())
        };
        let missing = if self.tracer.is_on() && !path.starts_with("/dapr.proto.runtime.") {
            "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata"
        } else {
            "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
        };
        named(CALLEE_APP_ID)
            .or_else(|| named(APP_ID))
            .map(str::to_owned)
            .ok_or_else(|| Status::unknown(missing))
    }

    async fn open_peer(
        &self,
        id: &str,
        namespace: &str,
        path: PathAndQuery,
        headers: HeaderMap,
        avoid: &mut Option<String>,
    ) -> Result<Call, CallError> {
        let unsent = |status| CallError {
            status,
            unsent: true,
        };
        let address = self
            .invoke
            .resolver
            .resolve(id, namespace, avoid.as_deref())
            .await
            .map_err(|error| {
                let failure = error.failure();
                unsent(Status::new(
                    failure.code.unwrap_or(GrpcCode::Unknown),
                    failure.message,
                ))
            })?;
        let channel = self
            .peers
            .channel(&address)
            .map_err(|failure| unsent(Status::internal(failure.message)))?;
        let opened = channel.start(path, headers).await;
        if let Err(failure) = &opened
            && failure.unsent
        {
            use outrigger_blocks::invoke::PeerClient as _;
            self.peers.forget(&address);
            self.invoke
                .resolver
                .unreachable(id, namespace, &address)
                .await;
            *avoid = Some(address);
        }
        opened
    }

    async fn open_app(
        &self,
        path: &str,
        mut headers: HeaderMap,
        side: Side,
    ) -> Result<Call, Status> {
        let method = normalise_method(path).map_err(|reason| {
            Status::new(
                GrpcCode::InvalidArgument,
                format!("invalid method: {reason}"),
            )
        })?;
        self.access
            .load()
            .check(&self.invoke.metrics, &method, "NONE")
            .map_err(|reason| Status::new(GrpcCode::PermissionDenied, reason))?;
        if matches!(
            *self.invoke.admission.borrow(),
            Admission::NotReadyYet | Admission::Draining
        ) {
            // `own_app` has the words.
            let refusal = self
                .invoke
                .own_app()
                .err()
                .and_then(|failure| failure.told)
                .map(|error| Status::from(&*error));
            return Err(
                refusal.unwrap_or_else(|| Status::unavailable("the application is not ready yet"))
            );
        }
        let Some(app) = &self.app else {
            return Err(Status::unavailable(
                "connection error: desc = \"transport: Error while dialing: dial tcp 127.0.0.1:0: connect: connection refused\"",
            ));
        };
        headers.remove(API_TOKEN);
        if side == Side::Api {
            for name in [CALLER_APP_ID, CALLER_NAMESPACE] {
                headers.remove(name);
            }
        }
        if let Some(token) = self
            .app_token
            .as_ref()
            .and_then(|token| HeaderValue::from_str(token.reveal()).ok())
        {
            headers.insert(API_TOKEN, token);
        }
        let path = PathAndQuery::try_from(format!("/{}", method.trim_start_matches('/')))
            .map_err(|error| Status::internal(error.to_string()))?;
        app.start(path, headers)
            .await
            .map_err(|failure| failure.status)
    }

    /// Ours or another's, by the name in the metadata.
    fn place<'a>(&'a self, app_id: &'a str) -> Result<Place<'a>, Status> {
        let (id, namespace) =
            split_id(app_id).ok_or_else(|| Status::unknown(format!("invalid app id {app_id}")))?;
        Ok(if id == self.invoke.app_id.as_str() {
            Place::Own
        } else {
            Place::Peer {
                id,
                namespace: namespace.unwrap_or(self.invoke.namespace.as_str()),
            }
        })
    }

    /// Says who calls whom; what the caller said of that is gone.
    fn stamp(&self, headers: &mut HeaderMap, callee: &str) {
        let stamp = self.peers.stamp();
        headers.remove(CALLER_NAMESPACE);
        for (name, value) in [
            (CALLER_APP_ID, stamp.app_id.as_str()),
            (CALLEE_APP_ID, callee),
        ] {
            match HeaderValue::from_str(value) {
                Ok(value) => headers.insert(name, value),
                Err(_) => headers.remove(name),
            };
        }
    }
}

/// Where a call goes.
#[derive(Clone, Copy)]
enum Place<'a> {
    Own,
    Peer { id: &'a str, namespace: &'a str },
}

/// The values of `dapr-stream` that mean yes, in any case.
fn is_marked(value: &[u8]) -> bool {
    [&b"y"[..], b"yes", b"true", b"t", b"on", b"1"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word))
}

fn timed_out() -> Status {
    Status::new(
        GrpcCode::DeadlineExceeded,
        "context deadline exceeded".to_owned(),
    )
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxy")
    }
}

/// The caller's deadline.
pub fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Whether a request is gRPC at all.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_have_units() {
        let of = |text: &'static str| {
            timeout_of(&HeaderMap::from_iter([(
                HeaderName::from_static("grpc-timeout"),
                HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(of("100m"), Some(Duration::from_millis(100)));
        assert_eq!(of("2H"), Some(Duration::from_secs(7200)));
        for bad in ["", "5", "S", "123456789S", "1x", "-1S"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}
