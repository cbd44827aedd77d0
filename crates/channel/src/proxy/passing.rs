//! One call on its way through the proxy, plainly or under policies.
//!
//! A call that is not marked as a stream may still be one. It is held back until it commits: before that it may be made
//! again and has to end in time, afterwards it is left alone. A marked one commits as soon as it is open.

use std::pin::pin;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_blocks::errors::policy as told;
use outrigger_blocks::fields::{APP_ID, TRACE_PARENT};
use outrigger_blocks::invoke::REPLAY_LIMIT;
use outrigger_core::error::GrpcCode;
use outrigger_core::trace::TraceContext;
use outrigger_lifecycle::Moment;
use outrigger_policy::{Attempts, Code, Failure, Next, Pushback};
use outrigger_resiliency::{
    Choice, Ending, Judged, Key, Operation, Pass, Refusal, RetryRule, Slot, Step, limited, report,
    tell_retry,
};
use outrigger_wire::grpc::{
    self, Attempt, Call, CallError, Committed, Ended, Messages, Replayed, Reply, Status, relay,
};

use super::{Place, Proxy, Side, timed_out};
use crate::pushback;
use crate::trace::add_trace;

const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Tells the other side how many attempts went before.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");

pub(super) struct Passing<'a> {
    pub proxy: &'a Proxy,
    pub app_id: &'a str,
    pub path: &'a str,
    pub headers: HeaderMap,
    pub side: Side,
    pub trace: Option<&'a TraceContext>,
    /// When the caller stops waiting.
    pub until: Option<Moment>,
}

/// The retry of calls that did not even begin.
type BuiltIn<'a> = Option<&'a Slot<RetryRule>>;

/// How far one attempt came.
enum Came {
    /// It could not be opened.
    NotOpen(CallError),
    To(Attempt),
}

impl Passing<'_> {
    /// Opens the call and relays it.
    pub(super) async fn plainly(
        mut self,
        messages: Messages,
        reply: &mut Reply,
        built_in: BuiltIn<'_>,
    ) -> Result<GrpcCode, Status> {
        let headers = self.prepared()?;
        let call = self
            .open(headers, built_in, &mut None)
            .await
            .map_err(|failure| failure.status)?;
        self.relay(messages, reply, call).await
    }

    async fn relay(
        &self,
        messages: Messages,
        reply: &mut Reply,
        call: Call,
    ) -> Result<GrpcCode, Status> {
        match relay(messages, reply, call, self.proxy.max_message).await {
            Ended::Failed(status) => Err(status),
            ended => Ok(ended.code()),
        }
    }

    /// The same under the policies of the app that the caller named.
    pub(super) async fn under_policies(
        mut self,
        messages: Messages,
        reply: &mut Reply,
        is_stream: bool,
    ) -> Result<GrpcCode, Status> {
        if matches!(self.proxy.place(self.app_id)?, Place::Own) {
            return self.plainly(messages, reply, None).await;
        }
        let app = self.proxy.invoke.resiliency.app(self.app_id);
        let choice = app.choose(self.path, None);
        let built_in = app.built_in.as_deref();
        if choice.is_empty() {
            return self.plainly(messages, reply, built_in).await;
        }
        let headers = self.prepared()?;
        let key = choice.key(Key {
            prefix: self.app_id,
            joint: ":",
            within: self.path,
        });
        let operation = Operation::begin(choice.target, key, self.until);
        if is_stream {
            self.stream(operation, headers, built_in, messages, reply)
                .await
        } else {
            self.adaptive(&choice, operation, headers, built_in, messages, reply)
                .await
        }
    }

    /// Policies end with the opening.
    async fn stream(
        &self,
        mut operation: Operation<'_>,
        headers: HeaderMap,
        built_in: BuiltIn<'_>,
        messages: Messages,
        reply: &mut Reply,
    ) -> Result<GrpcCode, Status> {
        let mut avoid = None;
        let (call, pass) = loop {
            let pass = operation.attempt().map_err(|refusal| rejected(&refusal))?;
            let sent = self.stamped(&headers, &operation);
            let opening = self.open(sent, built_in, &mut avoid);
            let (status, step) = match limited(Some(&pass), pin!(opening)).await {
                None => (timed_out(), operation.conclude(pass, Ending::TimedOut)),
                Some(Ok(call)) => break (call, operation.hold(pass)),
                Some(Err(failure)) => {
                    let step = operation.conclude(pass, not_open(&failure));
                    (failure.status, step)
                }
            };
            match step {
                Step::Deliver => return Err(with_field(status)),
                Step::Retry(at) => {
                    if gone(reply, operation.pause(at)).await {
                        return Ok(GrpcCode::Cancelled);
                    }
                }
            }
        };
        let mut pass = Some(pass);
        if !counts_stream_errors(&operation)
            && let Some(pass) = pass.take()
        {
            pass.succeed();
        }
        let outcome = self.relay(messages, reply, call).await;
        match &outcome {
            Ok(code) => ended(pass, *code),
            Err(status) => ended(pass, status.code),
        }
        outcome
    }

    /// Held back until it commits.
    async fn adaptive(
        &self,
        choice: &Choice<'_>,
        mut operation: Operation<'_>,
        headers: HeaderMap,
        built_in: BuiltIn<'_>,
        messages: Messages,
        reply: &mut Reply,
    ) -> Result<GrpcCode, Status> {
        let limit = self.proxy.max_message;
        let replay = match operation.target().retries() {
            true => usize::try_from(REPLAY_LIMIT).unwrap_or(limit).min(limit),
            false => 0,
        };
        let mut replayed = Replayed::new(messages, limit, replay);
        let mut avoid = None;
        loop {
            let pass = operation.attempt().map_err(|refusal| rejected(&refusal))?;
            let sent = self.stamped(&headers, &operation);
            let attempt = async {
                match self.open(sent, built_in, &mut avoid).await {
                    Ok(call) => Came::To(replayed.attempt(reply, call).await),
                    Err(failure) => Came::NotOpen(failure),
                }
            };
            let came = limited(Some(&pass), pin!(attempt)).await;
            let can_repeat = replayed.can_repeat();
            let (failed, step) = match came {
                None => {
                    let step = operation.conclude(pass, Ending::TimedOut);
                    (Err(timed_out()), step)
                }
                Some(Came::NotOpen(failure)) => {
                    let step = operation.conclude(pass, not_open(&failure));
                    (Err(failure.status), step)
                }
                Some(Came::To(Attempt::Gone)) => return Ok(GrpcCode::Cancelled),
                // What the caller did wrong says nothing of the other side.
                Some(Came::To(Attempt::Failed(failure))) if failure.by_caller => {
                    return Ok(failure.pass_on(reply));
                }
                Some(Came::To(Attempt::Failed(failure))) => {
                    let step = operation.conclude(pass, refused(&failure, can_repeat));
                    (Ok(failure), step)
                }
                Some(Came::To(Attempt::Committed(mut committed))) => {
                    let pass = operation.hold(pass).unlimited();
                    for (name, value) in report::fields(false) {
                        committed.add(name, value);
                    }
                    let counts = counts_stream_errors(&operation);
                    return finish(committed, pass, counts, &mut replayed, reply).await;
                }
            };
            match step {
                Step::Retry(at) if can_repeat => {
                    if gone(reply, operation.pause(at)).await {
                        return Ok(GrpcCode::Cancelled);
                    }
                }
                Step::Retry(_) | Step::Deliver => {
                    if !can_repeat && choice.target.retries() {
                        report::body_not_buffered(choice.target);
                    }
                    return match failed {
                        Ok(mut failure) => {
                            for (name, value) in report::fields(true) {
                                failure.add(name, value);
                            }
                            Ok(failure.pass_on(reply))
                        }
                        Err(status) => Err(with_field(status)),
                    };
                }
            }
        }
    }

    /// Who calls whom, and in which trace.
    fn prepared(&mut self) -> Result<HeaderMap, Status> {
        let mut headers = std::mem::take(&mut self.headers);
        headers.remove(APP_ID);
        let Place::Peer { id, .. } = self.proxy.place(self.app_id)? else {
            return Ok(headers);
        };
        self.proxy.stamp(&mut headers, id);
        if let Some(trace) = self.trace {
            add_trace(&mut headers, trace);
        } else if self.proxy.tracer.is_on() && !headers.contains_key(TRACE_PARENT) {
            add_trace(&mut headers, &TraceContext::default());
        }
        Ok(headers)
    }

    /// What one attempt is sent with: the time that is left to the caller, and which attempt it is.
    fn stamped(&self, headers: &HeaderMap, operation: &Operation<'_>) -> HeaderMap {
        let mut headers = headers.clone();
        if let Some(until) = self.until {
            let left = until.since(self.proxy.invoke.clock.now());
            if let Ok(value) = HeaderValue::try_from(timeout_text(left)) {
                headers.insert(TIMEOUT, value);
            }
        }
        if operation.marks() {
            let before = HeaderValue::from(operation.number().saturating_sub(1));
            headers.insert(PREVIOUS_ATTEMPTS, before);
        }
        headers
    }

    /// Opens the call at its target, again if nothing has left us and that is what is built in.
    async fn open(
        &self,
        headers: HeaderMap,
        built_in: BuiltIn<'_>,
        avoid: &mut Option<String>,
    ) -> Result<Call, CallError> {
        let ours = |status| CallError {
            status,
            unsent: true,
        };
        let place = self.proxy.place(self.app_id).map_err(ours)?;
        let Place::Peer { id, namespace } = place else {
            let opened = self.proxy.open_app(self.path, headers, self.side).await;
            return opened.map_err(|status| CallError {
                status,
                unsent: false,
            });
        };
        let path = PathAndQuery::try_from(self.path)
            .map_err(|error| ours(Status::internal(error.to_string())))?;
        let clock = self.proxy.invoke.clock;
        let mut attempts = Attempts::new(clock.now(), self.until);
        loop {
            let opened = self
                .proxy
                .open_peer(id, namespace, path.clone(), headers.clone(), avoid)
                .await;
            let failure = match opened {
                Ok(call) => return Ok(call),
                Err(failure) => failure,
            };
            let transient = failure.unsent
                && matches!(
                    failure.status.code,
                    GrpcCode::Unavailable | GrpcCode::Unauthenticated
                );
            let Some(built_in) = built_in.filter(|_| transient) else {
                return Err(failure);
            };
            let retry = &built_in.rule.retry;
            let lost = Failure::default();
            match attempts.after(retry, None, &lost, clock.now(), rand::random()) {
                Next::Retry { at, pause } => {
                    if attempts.retries() == 1 {
                        tell_retry(&built_in.name, pause);
                    }
                    clock.until(at).await;
                }
                Next::GiveUp(_) => return Err(failure),
            }
        }
    }
}

/// Relays what has committed; the pass learns how it ends, as far as that counts.
async fn finish(
    committed: Committed,
    pass: Pass,
    counts: bool,
    replayed: &mut Replayed,
    reply: &mut Reply,
) -> Result<GrpcCode, Status> {
    let mut pass = Some(pass);
    if !counts
        && committed.answered()
        && let Some(pass) = pass.take()
    {
        pass.succeed();
    }
    let on_answer = || {
        if !counts && let Some(pass) = pass.take() {
            pass.succeed();
        }
    };
    let outcome = committed.finish(replayed, reply, on_answer).await;
    match outcome {
        // The caller went away: that says nothing.
        Ended::Gone => Ok(GrpcCode::Cancelled),
        Ended::Failed(status) => {
            ended(pass, status.code);
            Err(status)
        }
        other => {
            ended(pass, other.code());
            Ok(other.code())
        }
    }
}

/// Waits; true if the caller went away first.
async fn gone(reply: &mut Reply, wait: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = wait => false,
        () = reply.cancelled() => true,
    }
}

/// Tells a pass that is still open how its call ended.
fn ended(pass: Option<Pass>, code: GrpcCode) {
    let Some(pass) = pass else {
        return;
    };
    match code {
        GrpcCode::Ok => pass.succeed(),
        // Its caller went away.
        GrpcCode::Cancelled => drop(pass),
        code => pass.fail_late(code.name()),
    }
}

fn counts_stream_errors(operation: &Operation<'_>) -> bool {
    let breaker = operation.target().plan().breaker.as_ref();
    breaker.is_some_and(|slot| slot.rule.counts_stream_errors)
}

/// A call that could not be opened: without a status of the other side's own, unless it has given one.
fn not_open(failure: &CallError) -> Ending<'_> {
    let code = (!failure.unsent).then(|| Code::Grpc(u16::from(failure.status.code.number())));
    Ending::Failed(Judged {
        failure: Failure {
            code,
            permanent: failure.status.code == GrpcCode::PermissionDenied,
            pushback: Pushback::None,
        },
        neutral: false,
        why: &failure.status,
    })
}

/// A call that ended with a status before it committed.
fn refused(failure: &grpc::Failure, can_repeat: bool) -> Ending<'_> {
    let status = &failure.status;
    Ending::Failed(Judged {
        failure: Failure {
            code: Some(Code::Grpc(failure.number())),
            permanent: !can_repeat,
            pushback: pushback::of(&status.metadata, status.details.as_ref()),
        },
        neutral: false,
        why: status,
    })
}

/// The breaker lets no call through.
fn rejected(refusal: &Refusal) -> Status {
    let status = if refusal.precise {
        Status::from(&told::circuit_open(refusal))
    } else {
        Status::unknown(refusal.to_string())
    };
    with_field(status)
}

/// A status of ours, with what policies have to say.
fn with_field(mut status: Status) -> Status {
    status.metadata.extend(report::fields(true));
    status
}

/// A time in the notation of the protocol: at most eight digits and a unit.
fn timeout_text(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let nanos = left.as_nanos();
    for (unit, size) in [
        ("n", 1),
        ("u", 1_000),
        ("m", 1_000_000),
        ("S", 1_000_000_000),
        ("M", 60_000_000_000),
    ] {
        let count = nanos.div_ceil(size);
        if count <= MOST {
            return format!("{count}{unit}");
        }
    }
    format!("{}H", nanos.div_ceil(3_600_000_000_000).min(MOST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::timeout_of;
    use super::*;

    proptest! {
        #[test]
        fn a_time_that_is_written_is_read_back_and_never_shortened(nanos in 0_u64..=u64::MAX) {
            let left = Duration::from_nanos(nanos);
            let value = HeaderValue::try_from(timeout_text(left)).unwrap();
            let read = timeout_of(&HeaderMap::from_iter([(TIMEOUT, value)])).unwrap();
            prop_assert!(read >= left);
            prop_assert!(read.as_secs_f64() <= left.as_secs_f64() * 1.001 + 1e-6);
        }
    }
}
