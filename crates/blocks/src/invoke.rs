//! Service invocation: from a name to the app behind it.
//!
//! A call goes to an external endpoint, to our own app, or to a peer's sidecar; the caller does not see which. Verbs and
//! fields use the vocabulary of the `http` crate, which is types only: the app at the other end may speak gRPC, and
//! `outrigger-channel` translates.

mod policy;
mod replay;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method};
use outrigger_core::error::{ApiError, GrpcCode, rpc_text};
use outrigger_core::{AppId, Body, Namespace};
use outrigger_lifecycle::{Clock, Moment};
use outrigger_policy::{Attempts, Failure, Next, Pushback};
use outrigger_resiliency::{Resiliency, RetryRule, Slot, tell_recovery, tell_retry};
use outrigger_telemetry::Metrics;
use tokio::sync::watch;
use tracing::warn;

use crate::activity::Activity;
use crate::app::AppChannel;
use crate::errors::invoke as told;
use crate::guard::whole_millis;
use crate::resolve::Resolver;
use replay::Source;

pub use replay::REPLAY_LIMIT;

const SCOPE: &str = "dapr.runtime.resiliency";

/// Through which API a call came in; decides how its fields are named further on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Surface {
    #[default]
    Http,
    Grpc,
}

/// A call to an app.
#[derive(Debug)]
pub struct Call {
    /// The path behind the app, without leading slash; normalised before it is used.
    pub method: String,
    /// It was written with one slash too many in front, which breakers tell apart.
    pub doubled_slash: bool,
    /// `None` where the gRPC API gave none, which HTTP apps refuse.
    pub verb: Option<Method>,
    /// The gRPC API named no HTTP extension at all.
    pub lacks_extension: bool,
    pub query: String,
    /// The caller's fields or metadata, trace context included.
    pub fields: HeaderMap,
    pub surface: Surface,
    /// `:authority` of a gRPC caller.
    pub authority: Option<String>,
    pub content_type: Option<String>,
    /// The type behind the data of a gRPC message.
    pub type_url: String,
    pub body: Body,
    /// When the caller stops waiting, where it said so.
    pub until: Option<Moment>,
}

impl Call {
    /// The same call without its body.
    fn again(&self) -> Self {
        Self {
            method: self.method.clone(),
            doubled_slash: self.doubled_slash,
            verb: self.verb.clone(),
            lacks_extension: self.lacks_extension,
            query: self.query.clone(),
            fields: self.fields.clone(),
            surface: self.surface,
            authority: self.authority.clone(),
            content_type: self.content_type.clone(),
            type_url: self.type_url.clone(),
            body: Body::EMPTY,
            until: self.until,
        }
    }
}

/// How a call ended at the app.
#[derive(Clone, PartialEq, Debug)]
pub enum ReplyStatus {
    Http(u16),
    Grpc {
        code: GrpcCode,
        message: String,
        details: Option<Bytes>,
    },
}

impl ReplyStatus {
    /// The number as it stands in metrics and on the wire between sidecars.
    pub fn number(&self) -> u16 {
        match self {
            Self::Http(status) => *status,
            Self::Grpc { code, .. } => u16::from(code.number()),
        }
    }
}

/// The app's answer.
#[derive(Debug)]
pub struct Reply {
    pub status: ReplyStatus,
    pub fields: HeaderMap,
    pub trailers: HeaderMap,
    pub content_type: Option<String>,
    pub type_url: String,
    pub body: Body,
    /// What a gRPC server asks of whoever would call it again.
    pub pushback: Pushback,
}

/// No answer from the app.
#[derive(Clone, PartialEq, Debug)]
pub struct CallFailure {
    /// `None` for a failure that has no code of its own.
    pub code: Option<GrpcCode>,
    pub message: String,
    /// The call did not reach the other side: making it again cannot do it twice.
    pub unsent: bool,
    /// The caller is told this, in place of the usual words.
    pub told: Option<Box<ApiError>>,
    /// Seconds after which another call may be worth it.
    pub retry_after: Option<u32>,
    /// How often the call was made by the retry that is built in, which is used up.
    pub attempts: Option<u32>,
}

impl CallFailure {
    pub fn plain(message: impl Into<String>) -> Self {
        Self {
            code: None,
            message: message.into(),
            unsent: false,
            told: None,
            retry_after: None,
            attempts: None,
        }
    }

    pub fn coded(code: GrpcCode, message: impl Into<String>) -> Self {
        Self {
            code: Some(code),
            message: message.into(),
            unsent: false,
            told: None,
            retry_after: None,
            attempts: None,
        }
    }

    pub fn told(error: ApiError) -> Self {
        Self {
            code: Some(error.grpc),
            message: error.message.clone(),
            unsent: true,
            told: Some(Box::new(error)),
            retry_after: None,
            attempts: None,
        }
    }

    /// As Go prints it.
    pub fn text(&self) -> String {
        match self.code {
            Some(code) => rpc_text(code, &self.message),
            None => self.message.clone(),
        }
    }

    fn is_transient(&self) -> bool {
        matches!(
            self.code,
            Some(GrpcCode::Unavailable | GrpcCode::Unauthenticated)
        )
    }

    /// Another call cannot come to anything else: the callee's policy says no, or the sidecar is on its way out.
    fn is_permanent(&self) -> bool {
        self.code == Some(GrpcCode::PermissionDenied)
            || self
                .told
                .as_ref()
                .is_some_and(|error| error.tag == "ERR_SIDECAR_DRAINING")
    }

    /// The answer to the caller of `target`.
    pub fn to_api(&self, target: &str) -> ApiError {
        let mut error = match (&self.told, self.code) {
            (Some(error), _) => (**error).clone(),
            (None, Some(GrpcCode::PermissionDenied)) => told::denied(target, &self.text()),
            (None, _) => told::failed(target, &self.text()),
        };
        error.retry_after = error.retry_after.or(self.retry_after);
        error
    }
}

/// Calls to the sidecars of other apps.
#[async_trait]
pub trait PeerClient: Send + Sync + 'static {
    /// A body of bytes stays in the call, which may then be made again; a stream is taken out of it.
    ///
    /// # Errors
    /// When no answer came.
    async fn call(
        &self,
        address: &str,
        target: &AppId,
        namespace: &Namespace,
        call: &mut Call,
    ) -> Result<Reply, CallFailure>;

    /// The address does not answer: connections to it are of no use.
    fn forget(&self, address: &str);
}

/// Calls to servers that are no Dapr apps.
#[async_trait]
pub trait EndpointClient: Send + Sync + 'static {
    /// Whether an HTTPEndpoint of this name exists.
    fn knows(&self, name: &str) -> bool;

    /// Where the HTTPEndpoint of this name is.
    fn base_url(&self, name: &str) -> Option<String>;

    /// `target` is the name of an HTTPEndpoint or an absolute URL.
    ///
    /// # Errors
    /// When no answer came.
    async fn call(&self, target: &str, call: Call) -> Result<Reply, CallFailure>;
}

/// What the gate in front of the app allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    Open,
    /// The app was never ready.
    NotReadyYet,
    /// The app was ready, and is not now.
    Unhealthy,
    /// The sidecar takes no new calls for its app.
    Draining,
}

/// The invocation API.
pub struct Invoke {
    pub app_id: AppId,
    pub namespace: Namespace,
    pub app: Option<Arc<dyn AppChannel>>,
    pub admission: watch::Receiver<Admission>,
    pub peers: Arc<dyn PeerClient>,
    pub endpoints: Arc<dyn EndpointClient>,
    pub resolver: Arc<Resolver>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub resiliency: Arc<Resiliency>,
    pub activity: Arc<Activity>,
    /// Bodies up to this many bytes are kept for another attempt.
    pub replay_limit: u64,
}

/// The retry of lost connections, where no policy names the target.
type BuiltIn = Slot<RetryRule>;

/// A target as it was addressed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Target<'a> {
    Endpoint(&'a str),
    App {
        id: &'a str,
        namespace: &'a str,
        /// It is the app of this sidecar.
        own: bool,
    },
}

impl Invoke {
    /// Calls the app behind `target`.
    ///
    /// # Errors
    /// When no answer came.
    ///
    /// # Cancel safety
    /// Dropping it cancels the call.
    pub async fn invoke(&self, target: &str, mut call: Call) -> Result<Reply, CallFailure> {
        call.method = normalise_method(&call.method).map_err(|reason| {
            CallFailure::coded(
                GrpcCode::InvalidArgument,
                format!("invalid method: {reason}"),
            )
        })?;
        self.run(target, &self.target(target)?, call).await
    }

    /// Calls a target, without its policies. What is built in is made here.
    async fn once(
        &self,
        target: &Target<'_>,
        mut call: Call,
        source: &mut Source,
        built_in: Option<&BuiltIn>,
        avoid: &mut Option<String>,
    ) -> Result<Reply, CallFailure> {
        match target {
            Target::Endpoint(name) => {
                call.body = source.body();
                self.call_endpoint(name, call).await
            }
            Target::App { own: true, .. } => {
                call.body = source.body();
                let share = self.activity.invocation();
                let mut reply = self.call_own_app(call).await?;
                reply.body = replay::accompanied(reply.body, share);
                Ok(reply)
            }
            Target::App { id, namespace, .. } => {
                self.call_peer(id, namespace, call, source, built_in, avoid)
                    .await
            }
        }
    }

    fn target<'a>(&'a self, target: &'a str) -> Result<Target<'a>, CallFailure> {
        if target.is_empty() {
            return Err(CallFailure::plain("app id is empty"));
        }
        if target.starts_with("http://") || target.starts_with("https://") {
            return Ok(Target::Endpoint(target));
        }
        let (id, namespace) = split_id(target)
            .ok_or_else(|| CallFailure::plain(format!("invalid app id {target}")))?;
        if self.endpoints.knows(id) {
            return Ok(Target::Endpoint(id));
        }
        let namespace = namespace.unwrap_or(self.namespace.as_str());
        Ok(Target::App {
            id,
            namespace,
            own: id == self.app_id.as_str() && namespace == self.namespace.as_str(),
        })
    }

    /// Whether a name stands for an external endpoint.
    pub fn is_endpoint(&self, target: &str) -> bool {
        target.starts_with("http://")
            || target.starts_with("https://")
            || self.endpoints.knows(target)
    }

    /// The app behind this sidecar, also for calls that come from peers.
    ///
    /// # Errors
    /// When there is no app, or it cannot be called now.
    pub async fn call_own_app(&self, call: Call) -> Result<Reply, CallFailure> {
        let app = self.own_app()?;
        app.invoke(call).await
    }

    /// The channel to the app, if calls may go there now.
    ///
    /// # Errors
    /// When there is no app, or it cannot be called now.
    pub fn own_app(&self) -> Result<&Arc<dyn AppChannel>, CallFailure> {
        let Some(app) = &self.app else {
            return Err(CallFailure::plain(
                "cannot invoke local endpoint: app channel not initialized",
            ));
        };
        match *self.admission.borrow() {
            Admission::Open => Ok(app),
            Admission::NotReadyYet => Err(CallFailure::told(told::app_not_ready())),
            Admission::Draining => Err(CallFailure::told(told::draining())),
            Admission::Unhealthy => Err(CallFailure::coded(
                GrpcCode::Internal,
                "app is not in a healthy state",
            )),
        }
    }

    async fn call_endpoint(&self, target: &str, call: Call) -> Result<Reply, CallFailure> {
        let started = Instant::now();
        self.metrics
            .invocation_req_sent
            .add([target, kind(&call)], 1);
        let reply = self.endpoints.call(target, call).await;
        if let Ok(reply) = &reply {
            self.received(target, reply, started);
        }
        reply
    }

    /// `avoid` is the address that failed last.
    async fn call_peer(
        &self,
        id: &str,
        namespace: &str,
        mut call: Call,
        source: &mut Source,
        built_in: Option<&BuiltIn>,
        avoid: &mut Option<String>,
    ) -> Result<Reply, CallFailure> {
        let (target, namespace) = (AppId::from(id), Namespace::from(namespace));
        let mut attempts = Attempts::new(self.clock.now(), None);
        loop {
            call.body = source.body();
            let address = self
                .resolver
                .resolve(id, namespace.as_str(), avoid.as_deref())
                .await
                .map_err(|error| error.failure())?;
            let started = Instant::now();
            self.metrics.invocation_req_sent.add([id, kind(&call)], 1);
            let failure = match self
                .peers
                .call(&address, &target, &namespace, &mut call)
                .await
            {
                Ok(reply) => {
                    self.received(id, &reply, started);
                    if let Some(built_in) = built_in.filter(|_| attempts.retries() > 0) {
                        tell_recovery(&built_in.name, attempts.retries() + 1);
                        self.count_built_in(id, "failure", attempts.retries());
                        self.count_built_in(id, "success", 1);
                    }
                    return Ok(reply);
                }
                Err(failure) => failure,
            };
            if !failure.is_transient() {
                return Err(failure);
            }
            // A dead address is forgotten, so that the next attempt may find another.
            self.peers.forget(&address);
            self.resolver
                .unreachable(id, namespace.as_str(), &address)
                .await;
            *avoid = Some(address);
            let Some(built_in) = built_in.filter(|_| source.can_repeat()) else {
                return Err(failure);
            };
            let lost = Failure::default();
            let retry = &built_in.rule.retry;
            match attempts.after(retry, None, &lost, self.clock.now(), rand::random()) {
                Next::Retry { at, pause } => {
                    if attempts.retries() == 1 {
                        tell_retry(&built_in.name, pause);
                    }
                    self.clock.until(at).await;
                }
                Next::GiveUp(_) => {
                    let message = format!(
                        "failed to invoke target {id} after {} retries. Error: {}",
                        attempts.retries(),
                        failure.text()
                    );
                    let made = attempts.retries() + 1;
                    warn!(target: SCOPE, attempts = made, err = failure.text(), "Gave up on the sidecar of {id}");
                    self.count_built_in(id, "failure", made);
                    return Err(CallFailure {
                        code: None,
                        message,
                        attempts: Some(made),
                        ..failure
                    });
                }
            }
        }
    }

    /// Calls that needed the retry that is built in.
    fn count_built_in(&self, id: &str, outcome: &'static str, attempts: u32) {
        if self.metrics.settings.enabled {
            self.metrics.policy_attempts.add(
                [&format!("app_{id}"), "builtin", outcome],
                u64::from(attempts),
            );
        }
    }

    fn received(&self, target: &str, reply: &Reply, started: Instant) {
        if !self.metrics.settings.enabled {
            return;
        }
        let mut number = [0; 5];
        let status = decimal(reply.status.number(), &mut number);
        let streaming = matches!(&reply.body, Body::Stream { length: None, .. });
        self.metrics.invocation_res_recv.add(
            [
                target,
                status,
                if streaming { "streaming" } else { "unary" },
            ],
            1,
        );
        self.metrics
            .invocation_res_recv_latency
            .observe([target, status], whole_millis(started.elapsed()));
    }
}

impl std::fmt::Debug for Invoke {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invoke({})", self.app_id)
    }
}

fn kind(call: &Call) -> &'static str {
    if matches!(&call.body, Body::Stream { length: None, .. }) {
        "streaming"
    } else {
        "unary"
    }
}

/// A number as text without an allocation.
pub fn decimal(number: u16, buffer: &mut [u8; 5]) -> &str {
    let mut rest = number;
    let mut start = buffer.len();
    loop {
        start -= 1;
        if let Some(place) = buffer.get_mut(start) {
            *place = b'0' + (rest % 10) as u8;
        }
        rest /= 10;
        if rest == 0 || start == 0 {
            break;
        }
    }
    buffer
        .get(start..)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .unwrap_or("0")
}

/// `app` or `app.namespace`.
pub fn split_id(id: &str) -> Option<(&str, Option<&str>)> {
    let mut parts = id.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(id), None, _) => Some((id, None)),
        (Some(id), Some(namespace), None) => Some((id, Some(namespace))),
        _ => None,
    }
}

/// Refuses what no path may hold, resolves `.` and `..`, drops what leads out of the app.
///
/// # Errors
/// In the words that Dapr's clients see.
pub fn normalise_method(method: &str) -> Result<String, String> {
    for (place, byte) in method.bytes().enumerate() {
        match byte {
            b'#' | b'?' | 0 => {
                return Err(format!(
                    "method contains forbidden character: {}",
                    quote(method)
                ));
            }
            1..=0x1f | 0x7f => {
                return Err(format!(
                    "method contains control character at position {place}: {}",
                    quote(method)
                ));
            }
            _ => {}
        }
    }
    // The usual method needs no work.
    if !method.contains("//")
        && !method.starts_with('/')
        && !method.ends_with('/')
        && !method.split('/').any(|part| matches!(part, "." | ".."))
    {
        return Ok(method.to_owned());
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in method.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// As Go quotes a text.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// How long a peer that is being looked for may keep a caller waiting.
pub const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn methods_are_cleaned_and_odd_ones_refused() {
        for (method, clean) in [
            ("a/b", "a/b"),
            ("", ""),
            ("a//b/", "a/b"),
            ("a/./b/../c", "a/c"),
            ("../../x", "x"),
            ("/x", "x"),
            ("..", ""),
        ] {
            assert_eq!(normalise_method(method).as_deref(), Ok(clean), "{method}");
        }
        assert_eq!(
            normalise_method("a?b").unwrap_err(),
            "method contains forbidden character: \"a?b\""
        );
        assert_eq!(
            normalise_method("a\nb").unwrap_err(),
            "method contains control character at position 1: \"a\\nb\""
        );
    }

    #[test]
    fn an_id_may_name_a_namespace() {
        assert_eq!(split_id("a"), Some(("a", None)));
        assert_eq!(split_id("a.ns"), Some(("a", Some("ns"))));
        assert_eq!(split_id("a.b.c"), None);
    }

    #[test]
    fn failures_read_like_those_of_the_reference() {
        let failure = CallFailure::coded(GrpcCode::Internal, "app is not in a healthy state");
        assert_eq!(
            failure.to_api("a").message,
            "failed to invoke, id: a, err: rpc error: code = Internal desc = app is not in a healthy state"
        );
        assert_eq!(
            CallFailure::coded(GrpcCode::PermissionDenied, "no")
                .to_api("a")
                .http,
            403
        );
    }

    proptest! {
        #[test]
        fn a_cleaned_method_never_leads_out(method in "[a./]{0,20}") {
            let clean = normalise_method(&method).unwrap();
            prop_assert!(!clean.split('/').any(|part| matches!(part, "." | "..")));
            prop_assert!(!clean.starts_with('/'));
            prop_assert_eq!(normalise_method(&clean).unwrap(), clean);
        }

        #[test]
        fn numbers_are_written_as_usual(number in any::<u16>()) {
            let mut buffer = [0; 5];
            prop_assert_eq!(decimal(number, &mut buffer), number.to_string());
        }
    }
}
