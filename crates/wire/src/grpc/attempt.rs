//! A call that may be made again until it commits.
//!
//! It commits at the first of: a second message of the caller, the first of the other side, the status OK. Until then
//! the caller has seen nothing, and its first message is kept so that it can be sent once more.
//! Who makes attempts, when, and for how long is not decided here.
//! Start at [`Replayed::attempt`]. Tests: `tests.rs`, against real peers in memory.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_core::error::GrpcCode;

use super::flow::{Part, Source};
use super::relay::{Passage, pass_part};
use super::{Call, Ended, FrameError, Messages, Reply, Status};

/// The caller's side of a call that may have to be made more than once.
#[derive(Debug)]
pub struct Replayed {
    source: Source,
    message_limit: usize,
}

/// How far an attempt came.
pub enum Attempt {
    /// A second message of the caller came, or the first of the other side, or its status OK. Not repeatable from here on.
    Committed(Committed),
    /// The call ended with a status other than OK before any message of the other side. The caller has seen nothing.
    Failed(Failure),
    /// The caller went away.
    Gone,
}

/// A call that is made for good. Dropping it cancels the call at the other side.
pub struct Committed {
    passage: Passage,
}

/// An attempt that failed, with all that the other side said.
#[derive(Debug)]
pub struct Failure {
    /// With its details; its metadata are the other trailers.
    pub status: Status,
    /// The caller broke a rule, which no further attempt and no other side would change.
    pub by_caller: bool,
    said: VecDeque<Part>,
}

impl Replayed {
    /// `message_limit` bounds every message, `replay_limit` the one that is kept.
    pub fn new(messages: Messages, message_limit: usize, replay_limit: usize) -> Self {
        Self {
            source: Source::new(messages, message_limit).keeping(replay_limit),
            message_limit,
        }
    }

    /// Whether another attempt may be made: all that the caller has sent so far is still here.
    pub fn can_repeat(&self) -> bool {
        self.source.keeps()
    }

    /// Sends what the caller sent so far and goes on from there, until the call commits or ends before that. Waits as long
    /// as neither happens.
    ///
    /// # Cancel safety
    /// Dropping it cancels the call at the other side. Another attempt sends the same bytes from the start, as long as
    /// [`Self::can_repeat`] says so.
    pub async fn attempt(&mut self, reply: &mut Reply, call: Call) -> Attempt {
        if !self.can_repeat() {
            return Attempt::Failed(Failure::ours(Status::internal(
                "the call cannot be made again: its first message is gone",
            )));
        }
        let mut passage = Passage::new(call, self.source.replay(), self.message_limit);
        let step = poll_fn(|context| {
            if reply.poll_gone(context).is_ready() {
                return Poll::Ready(Step::Gone);
            }
            // Ahead of the requests: a side that has refused the call needs no more of it.
            if let Poll::Ready(verdict) = passage.answer.poll_verdict(context) {
                return Poll::Ready(verdict.map_or_else(Step::Refused, |()| Step::Answered));
            }
            match passage.outlet.poll_pass(&mut self.source, context) {
                Poll::Ready(Err(FrameError::Stream(_))) => Poll::Ready(Step::Gone),
                Poll::Ready(Err(error)) => Poll::Ready(Step::Unfit(error.to_status())),
                _ if self.source.has_second() => Poll::Ready(Step::Streaming),
                _ => Poll::Pending,
            }
        });
        match step.await {
            Step::Gone => Attempt::Gone,
            Step::Refused(status) => Attempt::Failed(Failure {
                status,
                by_caller: false,
                said: passage.answer.into_held(),
            }),
            Step::Unfit(status) => Attempt::Failed(Failure {
                by_caller: true,
                ..Failure::ours(status)
            }),
            step @ (Step::Answered | Step::Streaming) => {
                self.source.keep_no_more();
                passage.answered = matches!(step, Step::Answered);
                Attempt::Committed(Committed { passage })
            }
        }
    }
}

enum Step {
    /// By the other side, with a message or OK.
    Answered,
    /// The caller has begun a second message.
    Streaming,
    Refused(Status),
    /// The caller sent what cannot be passed on.
    Unfit(Status),
    Gone,
}

impl Committed {
    /// A header beside those of the other side, which have not been passed on yet.
    pub fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.passage.answer.add_header(name, value);
    }

    /// Whether a message of the other side or its status OK was seen. A second message of the caller may come earlier.
    pub fn answered(&self) -> bool {
        self.passage.answered
    }

    /// Passes on the rest, from the headers that were held back. `on_answer` is called at the first message of the other
    /// side or its status OK, unless that was [seen](Self::answered) before.
    ///
    /// # Cancel safety
    /// Dropping it cancels the call at the other side.
    pub async fn finish(
        mut self,
        from: &mut Replayed,
        reply: &mut Reply,
        on_answer: impl FnOnce(),
    ) -> Ended {
        let passage = &mut self.passage;
        let mut on_answer = (!passage.answered).then_some(on_answer);
        poll_fn(|context| {
            let ended = passage.poll_pass(&mut from.source, reply, context);
            if passage.answered
                && let Some(on_answer) = on_answer.take()
            {
                on_answer();
            }
            ended
        })
        .await
    }
}

impl Failure {
    fn ours(status: Status) -> Self {
        Self {
            status,
            by_caller: false,
            said: VecDeque::new(),
        }
    }

    /// The number of the status, as it came: the protocol knows 17, and some servers others.
    pub fn number(&self) -> u16 {
        let told = self.said.iter().rev().find_map(|part| match part {
            Part::Trailers(fields)
            | Part::Head {
                headers: fields,
                last: true,
            } => fields.get("grpc-status")?.to_str().ok()?.parse().ok(),
            Part::Head { .. } | Part::Piece(_) | Part::Broken(_) => None,
        });
        told.unwrap_or_else(|| u16::from(self.status.code.number()))
    }

    /// A trailer beside those of the other side.
    pub fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.status.metadata.insert(name.clone(), value.clone());
        let last = self.said.iter_mut().rev().find_map(|part| match part {
            Part::Trailers(fields)
            | Part::Head {
                headers: fields,
                last: true,
            } => Some(fields),
            Part::Head { .. } | Part::Piece(_) | Part::Broken(_) => None,
        });
        if let Some(fields) = last {
            fields.insert(name, value);
        } else if let Some(Part::Broken(status)) = self.said.back_mut() {
            status.metadata.insert(name, value);
        }
    }

    /// Ends the call as the other side did: headers and trailers go on as they came.
    pub fn pass_on(self, reply: &mut Reply) -> GrpcCode {
        let mut said = self.said.into_iter();
        match said.find_map(|part| pass_part(reply, part)) {
            Some(Ended::Failed(_)) | None => {
                reply.end(HeaderMap::new(), &self.status);
                self.status.code
            }
            Some(ended) => ended.code(),
        }
    }
}
