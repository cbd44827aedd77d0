//! Bodies as numbered pieces, both directions.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use h2::SendStream;
use outrigger_core::error::GrpcCode;
use outrigger_core::{Body, BodyError};
use outrigger_wire::grpc::{FrameError, Messages, Status};
use outrigger_wire::http2;

use super::codec::{self, Malformed, Piece};

/// What a later message of a stream may hold: a piece, and nothing else.
pub(super) type ReadLater = fn(&Bytes) -> Result<(Option<Piece>, bool), Malformed>;

/// The rest of a body that arrives in messages.
pub(super) struct Incoming<S> {
    messages: Messages,
    /// The first message's piece.
    first: Option<Piece>,
    /// A message that was read ahead.
    ahead: Option<Bytes>,
    /// How the stream ended, if it did so badly.
    failed: Option<String>,
    expected: u64,
    read: ReadLater,
    /// Which side's metadata must not come again, for the error text.
    what: &'static str,
    done: bool,
    /// Work that goes on while the body is read.
    sending: Option<S>,
}

impl<S: Future + Unpin> Incoming<S> {
    pub(super) fn new(
        messages: Messages,
        first: Option<Piece>,
        read: ReadLater,
        what: &'static str,
        sending: Option<S>,
    ) -> Self {
        Self {
            messages,
            first,
            ahead: None,
            failed: None,
            expected: 0,
            read,
            what,
            done: false,
            sending,
        }
    }

    /// The whole body, if its end has arrived already.
    pub(super) fn poll_whole(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        if self.sending.is_some() || self.first.as_ref().is_some_and(|piece| piece.number != 0) {
            return None;
        }
        match self.messages.poll_next(context) {
            Poll::Ready(Ok(Some(message))) => {
                self.ahead = Some(message);
                None
            }
            Poll::Ready(Ok(None)) => match self.poll_end(context) {
                Poll::Ready(None) => Some(
                    self.first
                        .take()
                        .map(|piece| piece.data)
                        .unwrap_or_default(),
                ),
                Poll::Ready(failed) => {
                    self.failed = failed;
                    None
                }
                Poll::Pending => None,
            },
            Poll::Ready(Err(error)) => {
                self.failed = Some(format!("error receiving message: {error}"));
                None
            }
            Poll::Pending => None,
        }
    }

    /// Behind the last message: nothing, or why the stream failed.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Option<String>> {
        Poll::Ready(match ready!(self.messages.poll_trailers(context)) {
            Ok(trailers) => trailers
                .and_then(Status::from_trailers)
                .filter(|status| status.code != GrpcCode::Ok)
                .map(|status| format!("error receiving message: {status}")),
            Err(error) => Some(format!(
                "error receiving message: {}",
                FrameError::Stream(error)
            )),
        })
    }

    fn take(&mut self, piece: Piece) -> Result<Bytes, BodyError> {
        if piece.number != self.expected {
            return Err(BodyError::Cut(format!(
                "invalid sequence number received: {} (expected: {})",
                piece.number, self.expected
            )));
        }
        self.expected += 1;
        Ok(piece.data)
    }

    fn end(&mut self, error: String) -> Poll<Option<Result<Bytes, BodyError>>> {
        self.done = true;
        Poll::Ready(Some(Err(BodyError::Cut(error))))
    }
}

impl<S: Future + Unpin> Stream for Incoming<S> {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(sending) = &mut self.sending
            && Pin::new(sending).poll(context).is_ready()
        {
            self.sending = None;
        }
        if self.done {
            return Poll::Ready(None);
        }
        if let Some(piece) = self.first.take() {
            let taken = self.take(piece);
            self.done = taken.is_err();
            return Poll::Ready(Some(taken));
        }
        if let Some(failed) = self.failed.take() {
            return self.end(failed);
        }
        loop {
            let message = match self.ahead.take() {
                Some(message) => Ok(Some(message)),
                None => ready!(self.messages.poll_next(context)),
            };
            match message {
                Ok(Some(message)) => {
                    match (self.read)(&message) {
                        Ok((_, true)) => {
                            let what = self.what;
                            return self.end(format!("{what} metadata found in non-leading chunk"));
                        }
                        // There may be messages without anything in them.
                        Ok((None, false)) => {}
                        Ok((Some(piece), false)) => {
                            let taken = self.take(piece);
                            self.done = taken.is_err();
                            return Poll::Ready(Some(taken));
                        }
                        Err(Malformed) => return self.end(
                            "error receiving message: proto: cannot parse invalid wire-format data"
                                .to_owned(),
                        ),
                    }
                }
                Ok(None) => {
                    return match ready!(self.poll_end(context)) {
                        Some(failed) => self.end(failed),
                        None => {
                            self.done = true;
                            Poll::Ready(None)
                        }
                    };
                }
                Err(error) => return self.end(format!("error receiving message: {error}")),
            }
        }
    }
}

/// What may travel in the first message, and what follows in numbered pieces.
pub(super) fn split_first(body: Body, size: usize) -> (Option<Bytes>, Body) {
    match body {
        Body::Bytes(bytes) if bytes.is_empty() => (None, Body::EMPTY),
        Body::Bytes(mut bytes) => {
            let first = bytes.split_to(bytes.len().min(size));
            (Some(first), Body::Bytes(bytes))
        }
        stream => (None, stream),
    }
}

/// Sends the rest of a body. `number` is that of the next piece.
///
/// # Errors
/// The body's own error; that the other side does not take more is none, for it says why in its reply.
pub(super) async fn send_rest(
    stream: &mut SendStream<Bytes>,
    mut body: Body,
    mut number: u64,
    size: usize,
) -> Result<(), BodyError> {
    while let Some(piece) = body.next().await {
        let mut piece = piece?;
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(size));
            if http2::send(stream, codec::piece(&part, number), false)
                .await
                .is_err()
            {
                return Ok(());
            }
            number += 1;
        }
    }
    Ok(())
}
