//! A call passed on as it is.
//!
//! Both directions run in one task. A request that came with its end goes out with its end, so that a unary call costs
//! one data frame each way.
//! The streams are in `super::flow`; a call that may be made again is in `super::attempt`.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use outrigger_core::error::GrpcCode;

use super::flow::{Answer, Outlet, Part, Piece, Source, code_of, poll_send};
use super::{Call, FrameError, Messages, Reply, Status};
use crate::http2::Slot;

/// How a relayed call ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// As the other side said, or as we had to end a reply that broke off; it has been passed on.
    Passed(GrpcCode),
    /// Nothing of a reply had been sent to the caller: this is left to be told, or to be tried again elsewhere.
    Failed(Status),
    /// The caller went away.
    Gone,
}

impl Ended {
    pub fn code(&self) -> GrpcCode {
        match self {
            Self::Passed(code) => *code,
            Self::Failed(status) => status.code,
            Self::Gone => GrpcCode::Cancelled,
        }
    }
}

/// Passes a call on and its reply back. `limit` bounds each message.
///
/// # Cancel safety
/// Dropping it cancels the call at the other side.
pub async fn relay(messages: Messages, reply: &mut Reply, call: Call, limit: usize) -> Ended {
    let mut from = Source::new(messages, limit);
    let mut passage = Passage::new(call, None, limit);
    poll_fn(|context| passage.poll_pass(&mut from, reply, context)).await
}

/// A call at the other side, and what is on its way there and back. Dropping it cancels the call.
pub(super) struct Passage {
    pub(super) outlet: Outlet,
    pub(super) answer: Answer,
    /// Of the answer, waiting for the caller's window.
    piece: Bytes,
    /// A message or the status OK has come.
    pub(super) answered: bool,
    _slot: Option<Slot>,
}

impl Passage {
    /// Sends `first` before what the caller sends.
    pub(super) fn new(call: Call, first: Option<Piece>, limit: usize) -> Self {
        Self {
            outlet: Outlet::new(call.requests, first),
            answer: Answer::new(call.response, limit),
            piece: Bytes::new(),
            answered: false,
            _slot: call.slot,
        }
    }

    /// Passes on all that can be without waiting, until the call has ended.
    pub(super) fn poll_pass(
        &mut self,
        from: &mut Source,
        reply: &mut Reply,
        context: &mut Context<'_>,
    ) -> Poll<Ended> {
        if reply.poll_gone(context).is_ready() {
            return Poll::Ready(Ended::Gone);
        }
        // Requests flow on while the head of the reply is awaited, and while the reply flows back.
        if let Poll::Ready(Err(error)) = self.outlet.poll_pass(from, context) {
            return Poll::Ready(match error {
                FrameError::Stream(_) => Ended::Gone,
                error => break_off(reply, error.to_status()),
            });
        }
        self.poll_answer(reply, context)
    }

    fn poll_answer(&mut self, reply: &mut Reply, context: &mut Context<'_>) -> Poll<Ended> {
        loop {
            if !self.piece.is_empty() {
                let Some(to) = &mut reply.stream else {
                    return Poll::Ready(Ended::Gone);
                };
                if ready!(poll_send(to, &mut self.piece, false, context)).is_err() {
                    return Poll::Ready(Ended::Gone);
                }
            }
            match ready!(self.answer.poll_next(context)) {
                Part::Piece(piece) => {
                    self.answered |= !piece.is_empty();
                    self.piece = piece;
                }
                part => {
                    if let Some(ended) = pass_part(reply, part) {
                        self.answered |= matches!(ended, Ended::Passed(GrpcCode::Ok));
                        return Poll::Ready(ended);
                    }
                }
            }
        }
    }
}

/// Passes on what needs no window. Says how the call ended, if it did.
pub(super) fn pass_part(reply: &mut Reply, part: Part) -> Option<Ended> {
    let (code, sent) = match part {
        Part::Head { headers, last } => {
            let code = last.then(|| code_of(&headers));
            (code, reply.raw_head(headers, last).is_ok())
        }
        Part::Trailers(trailers) => {
            let code = code_of(&trailers);
            let stream = reply.stream.as_mut();
            let sent = stream.is_some_and(|stream| stream.send_trailers(trailers).is_ok());
            (Some(code), sent)
        }
        Part::Broken(status) => return Some(break_off(reply, status)),
        Part::Piece(_) => return None,
    };
    if sent {
        code.map(Ended::Passed)
    } else {
        Some(Ended::Gone)
    }
}

/// Ends a reply that has begun; of one that has not, the status is left to be told.
fn break_off(reply: &mut Reply, status: Status) -> Ended {
    match &mut reply.stream {
        Some(stream) => {
            stream.send_trailers(status.to_trailers()).ok();
            Ended::Passed(status.code)
        }
        None => Ended::Failed(status),
    }
}
