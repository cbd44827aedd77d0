//! A call under its policies: retry around breaker around time-out.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use outrigger_core::error::{ApiError, GrpcCode};
use outrigger_core::{Body, error};
use outrigger_policy::{Code, Failure, Pushback};
use outrigger_resiliency::{
    Ending, Judged, Key, Operation, Refusal, Step, Target as Policies, limited, report,
};

use super::replay::{Source, held};
use super::{Call, CallFailure, Invoke, Reply, ReplyStatus, Surface, Target};
use crate::errors::policy as told;

/// Tells an HTTP app which attempt a retry is.
const ATTEMPT: HeaderName = HeaderName::from_static("outrigger-attempt");
/// Tells a gRPC app how many attempts went before.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

impl Invoke {
    /// Runs a call under the policies that apply to it.
    pub(super) async fn run(
        &self,
        written: &str,
        target: &Target<'_>,
        mut call: Call,
    ) -> Result<Reply, CallFailure> {
        let app = self.resiliency.app(written);
        let verb = call.verb.as_ref().map(http::Method::as_str);
        let choice = app.choose(&call.method, verb);
        let built_in = app.built_in.as_deref().filter(|_| target.is_remote_app());
        let repeats = choice.target.retries() || built_in.is_some();
        let body = std::mem::replace(&mut call.body, Body::EMPTY);
        let mut source = Source::new(body, repeats, self.replay_limit);
        // What only policies want to know is not made without them.
        let (method, mut base_url);
        let mut operation = None;
        if !choice.is_empty() {
            method = if call.doubled_slash {
                format!("/{}", call.method)
            } else {
                call.method.clone()
            };
            base_url = None;
            if let Target::Endpoint(name) = target {
                base_url = self.endpoints.base_url(name);
            }
            let key = key(written, target, base_url.as_deref(), &method);
            let begun = Operation::begin(choice.target, choice.key(key), call.until);
            operation = Some(begun);
        }
        let can_repeat = source.can_repeat();
        let outcome = self
            .attempts(&mut operation, target, call, &mut source, built_in)
            .await;
        if !can_repeat && repeats && operation.is_some() && !is_good(&outcome) {
            report::body_not_buffered(choice.target);
        }
        outcome
    }

    /// With policies or without, the call stands here once: its future is large.
    async fn attempts(
        &self,
        operation: &mut Option<Operation<'_>>,
        target: &Target<'_>,
        call: Call,
        source: &mut Source,
        built_in: Option<&super::BuiltIn>,
    ) -> Result<Reply, CallFailure> {
        let surface = call.surface;
        let retries = operation
            .as_ref()
            .is_some_and(|operation| operation.target().retries());
        let may_repeat = source.can_repeat() && retries;
        let mut whole = Some(call);
        let mut avoid = None;
        loop {
            let pass = operation.as_mut().map(Operation::attempt).transpose();
            let pass = pass.map_err(|refusal| rejected(&refusal, surface))?;
            let next = if may_repeat {
                whole.as_ref().map(Call::again)
            } else {
                whole.take()
            };
            let Some(mut call) = next else {
                return Err(CallFailure::plain("the request is gone"));
            };
            if let Some(operation) = operation.as_ref().filter(|one| one.marks()) {
                mark(&mut call, operation.number());
            }
            let judged = pass.is_some();
            let attempt = async {
                let reply = self
                    .once(target, call, source, built_in, &mut avoid)
                    .await?;
                if judged {
                    read_where_judged(reply, surface, may_repeat).await
                } else {
                    Ok(reply)
                }
            };
            let outcome = limited(pass.as_ref(), pin!(attempt)).await;
            let is_broken = source.is_broken();
            let (Some(operation), Some(pass)) = (operation.as_mut(), pass) else {
                return outcome.unwrap_or_else(|| Err(CallFailure::plain(told::TIMED_OUT)));
            };
            let policies = operation.target().clone();
            let late = || Err(timed_out(&policies, surface));
            let step = match &outcome {
                None => operation.conclude(pass, Ending::TimedOut),
                Some(Ok(reply)) if reply.status.is_good() => {
                    let pass = operation.hold(pass);
                    return outcome.unwrap_or_else(late).map(|reply| Reply {
                        body: held(reply.body, pass),
                        ..reply
                    });
                }
                Some(Ok(reply)) => {
                    let ending = Ending::Failed(Judged {
                        failure: Failure {
                            code: Some(reply.status.code()),
                            permanent: !may_repeat && retries,
                            pushback: pushback(reply),
                        },
                        neutral: false,
                        why: &reply.status,
                    });
                    operation.conclude(pass, ending)
                }
                Some(Err(failure)) => {
                    let text = failure.text();
                    let ending = Ending::Failed(Judged {
                        failure: Failure {
                            code: None,
                            permanent: (!may_repeat && retries)
                                || is_broken
                                || failure.is_permanent(),
                            pushback: Pushback::None,
                        },
                        neutral: false,
                        why: &text,
                    });
                    operation.conclude(pass, ending)
                }
            };
            match step {
                Step::Deliver => {
                    return outcome.unwrap_or_else(late);
                }
                Step::Retry(at) => {
                    drop(outcome);
                    operation.pause(at).await;
                }
            }
        }
    }
}

/// What a breaker protects, and what logs call it.
fn key<'k>(
    written: &'k str,
    target: &Target<'_>,
    base_url: Option<&'k str>,
    method: &'k str,
) -> Key<'k> {
    let (joint, within) = match (target, base_url) {
        (Target::Endpoint(_), Some(url)) => (":", url),
        (Target::Endpoint(_), None) => ("/", method),
        (Target::App { .. }, _) => (":", method),
    };
    Key {
        prefix: written,
        joint,
        within,
    }
}

impl Target<'_> {
    fn is_remote_app(&self) -> bool {
        matches!(self, Self::App { own: false, .. })
    }
}

impl ReplyStatus {
    /// Whether policies take the call for a success.
    pub fn is_good(&self) -> bool {
        match self {
            Self::Http(status) => (200..400).contains(status),
            Self::Grpc { code, .. } => *code == GrpcCode::Ok,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::Http(status) => Code::Http(*status),
            Self::Grpc { code, .. } => Code::Grpc(u16::from(code.number())),
        }
    }
}

impl std::fmt::Display for ReplyStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(status) => write!(f, "the app answered {status}"),
            Self::Grpc { code, message, .. } => f.write_str(&error::rpc_text(*code, message)),
        }
    }
}

fn is_good(outcome: &Result<Reply, CallFailure>) -> bool {
    matches!(outcome, Ok(reply) if reply.status.is_good())
}

/// Bad answers are judged, and the gRPC API passes nothing on before it has everything: both are read within the
/// attempt's time.
async fn read_where_judged(
    reply: Reply,
    surface: Surface,
    judged: bool,
) -> Result<Reply, CallFailure> {
    if surface == Surface::Http && (reply.status.is_good() || !judged) {
        return Ok(reply);
    }
    let Reply { body, .. } = reply;
    let body = match body.collect(usize::MAX).await {
        Ok(bytes) => Body::Bytes(bytes),
        Err(error) => return Err(CallFailure::plain(error.to_string())),
    };
    Ok(Reply { body, ..reply })
}

fn mark(call: &mut Call, number: u32) {
    match call.surface {
        Surface::Http => call.fields.insert(ATTEMPT, HeaderValue::from(number)),
        Surface::Grpc => call.fields.insert(
            PREVIOUS_ATTEMPTS,
            HeaderValue::from(number.saturating_sub(1)),
        ),
    };
}

/// What the other side asks for: `Retry-After` of a busy HTTP server, `RetryInfo` or the pushback field of a gRPC one.
fn pushback(reply: &Reply) -> Pushback {
    match reply.status {
        ReplyStatus::Http(429 | 503) => {
            let text = reply
                .fields
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok());
            text.and_then(retry_after)
                .map_or(Pushback::None, Pushback::After)
        }
        ReplyStatus::Http(_) => Pushback::None,
        ReplyStatus::Grpc { .. } => reply.pushback,
    }
}

/// Seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(
        date.duration_since(SystemTime::now())
            .unwrap_or(Duration::ZERO),
    )
}

/// The breaker lets no call through.
fn rejected(refusal: &Refusal, surface: Surface) -> CallFailure {
    if refusal.precise {
        return CallFailure::told(told::circuit_open(refusal));
    }
    let mut failure = CallFailure::plain(refusal.to_string());
    failure.retry_after = u32::try_from(refusal.retry_after_seconds()).ok();
    if surface == Surface::Grpc {
        let message = refusal.to_string();
        failure.told = Some(Box::new(plain(GrpcCode::Unknown, message)));
    }
    failure
}

/// No attempt ended in time.
fn timed_out(policies: &Policies, surface: Surface) -> CallFailure {
    if policies.is_precise() {
        return CallFailure::told(told::timed_out());
    }
    let mut failure = CallFailure::plain(told::TIMED_OUT);
    if surface == Surface::Grpc {
        let message = told::TIMED_OUT.to_owned();
        failure.told = Some(Box::new(plain(GrpcCode::DeadlineExceeded, message)));
    }
    failure
}

/// Without the words that usually stand in front.
fn plain(code: GrpcCode, message: String) -> ApiError {
    ApiError::legacy(
        500,
        code,
        "ERR_DIRECT_INVOKE",
        "service-invocation",
        message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_asks_for_seconds_or_names_a_date() {
        assert_eq!(retry_after(" 3 "), Some(Duration::from_secs(3)));
        let soon = SystemTime::now() + Duration::from_secs(90);
        let asked = retry_after(&httpdate::fmt_http_date(soon)).unwrap();
        assert!((88..=90).contains(&asked.as_secs()), "{asked:?}");
        assert_eq!(
            retry_after("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(Duration::ZERO)
        );
        assert_eq!(retry_after("soon"), None);
    }
}
