//! The streams of a call that is passed on: what the caller sends, where it goes, and what comes back.
//!
//! Each goes as far as it can without waiting and keeps what is under way, so that nothing is lost when its future is
//! dropped. Frames are counted against the message limit and otherwise not looked at.
//! Start at `super::relay`, which joins both directions.

use std::collections::VecDeque;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use outrigger_core::error::GrpcCode;

use super::client::stream_status;
use super::frame::{Held, PREFIX};
use super::{FrameError, Messages, Status};

/// Bytes on their way, and whether the stream ends with them.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    last: bool,
}

/// What the caller sends.
#[derive(Debug)]
pub(super) struct Source {
    /// Read before it came here, and not looked at.
    ahead: Bytes,
    stream: RecvStream,
    meter: Meter,
    /// The last piece has been read.
    ended: bool,
    kept: Option<Kept>,
}

/// The first message as far as it was read, for another attempt.
#[derive(Debug)]
struct Kept {
    bytes: Held,
    limit: usize,
}

impl Source {
    pub(super) fn new(messages: Messages, limit: usize) -> Self {
        let (ahead, stream) = messages.into_parts();
        Self {
            ahead,
            stream,
            meter: Meter::new(limit),
            ended: false,
            kept: None,
        }
    }

    /// Keeps the first message unless it is longer than `limit`. From the second on nothing is kept.
    pub(super) fn keeping(mut self, limit: usize) -> Self {
        self.kept = Some(Kept {
            bytes: Held::new(),
            limit,
        });
        self
    }

    pub(super) fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    pub(super) fn keep_no_more(&mut self) {
        self.kept = None;
    }

    /// Whether more than one message was begun.
    pub(super) fn has_second(&self) -> bool {
        self.meter.begun > 1
    }

    /// All that was read so far, to be sent once more.
    pub(super) fn replay(&mut self) -> Option<Piece> {
        let bytes = self.kept.as_mut()?.bytes.share();
        (self.ended || !bytes.is_empty()).then_some(Piece {
            bytes,
            last: self.ended,
        })
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Piece, FrameError>> {
        let read = if self.ahead.is_empty() {
            ready!(self.poll_read(context))
        } else {
            Some(Ok(std::mem::take(&mut self.ahead)))
        };
        Poll::Ready(self.take(read).inspect_err(|_| self.kept = None))
    }

    /// Gives the caller room at once: no more is read until this has been sent.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let read = ready!(self.stream.poll_data(context));
        if let Some(Ok(bytes)) = &read {
            let window = self.stream.flow_control();
            window.release_capacity(bytes.len()).ok();
        }
        Poll::Ready(read)
    }

    fn take(&mut self, read: Option<Result<Bytes, h2::Error>>) -> Result<Piece, FrameError> {
        let bytes = read.transpose().map_err(FrameError::Stream)?;
        self.ended = bytes.is_none() || self.stream.is_end_stream();
        let bytes = bytes.unwrap_or_default();
        self.meter.pass(&bytes)?;
        self.keep(&bytes);
        Ok(Piece {
            bytes,
            last: self.ended,
        })
    }

    fn keep(&mut self, bytes: &Bytes) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        let message = kept.bytes.as_slice().len() + bytes.len() + self.meter.left;
        if self.meter.begun > 1 || message > kept.limit.saturating_add(PREFIX) {
            self.kept = None;
        } else if !bytes.is_empty() {
            kept.bytes.push(bytes.clone(), self.meter.limit);
        }
    }
}

/// The way to the other side.
#[derive(Debug)]
pub(super) struct Outlet {
    stream: SendStream<Bytes>,
    piece: Option<Piece>,
    done: bool,
}

impl Outlet {
    /// Begins with `piece`.
    pub(super) fn new(stream: SendStream<Bytes>, piece: Option<Piece>) -> Self {
        Self {
            stream,
            piece,
            done: false,
        }
    }

    /// Sends what the caller sends, until its end.
    pub(super) fn poll_pass(
        &mut self,
        from: &mut Source,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), FrameError>> {
        while !self.done {
            if let Some(piece) = &mut self.piece {
                let sent = poll_send(&mut self.stream, &mut piece.bytes, piece.last, context);
                // A side that does not want more has answered, or will.
                self.done = ready!(sent).is_err() || piece.last;
                self.piece = None;
                continue;
            }
            match ready!(from.poll_next(context)) {
                Ok(piece) => self.piece = Some(piece),
                Err(error) => {
                    self.done = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Sends as much of a piece as the peer's window takes, and is ready when that was all of it.
pub(super) fn poll_send(
    stream: &mut SendStream<Bytes>,
    piece: &mut Bytes,
    end: bool,
    context: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>> {
    // What fits now goes out without asking.
    while piece.len() > stream.capacity() {
        stream.reserve_capacity(piece.len());
        match ready!(stream.poll_capacity(context)) {
            Some(granted) => {
                let granted = granted?.min(piece.len());
                if granted == piece.len() {
                    break;
                }
                if granted > 0 {
                    stream.send_data(piece.split_to(granted), false)?;
                }
            }
            None => return Poll::Ready(Err(h2::Error::from(Reason::CANCEL))),
        }
    }
    Poll::Ready(stream.send_data(std::mem::take(piece), end))
}

/// What comes back: a head, pieces, and trailers, unless it breaks off.
#[derive(Debug)]
pub(super) enum Part {
    /// `last` says that these are the trailers as well.
    Head {
        headers: HeaderMap,
        last: bool,
    },
    Piece(Bytes),
    Trailers(HeaderMap),
    Broken(Status),
}

/// The other side's reply.
pub(super) struct Answer {
    stage: Stage,
    meter: Meter,
    /// Read and held back.
    held: VecDeque<Part>,
}

enum Stage {
    Awaited(ResponseFuture),
    Begun(RecvStream),
}

impl Answer {
    pub(super) fn new(response: ResponseFuture, limit: usize) -> Self {
        Self {
            stage: Stage::Awaited(response),
            meter: Meter::new(limit),
            held: VecDeque::new(),
        }
    }

    /// The next part. None is to be asked for behind one that ends the reply.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Part> {
        match self.held.pop_front() {
            Some(part) => Poll::Ready(part),
            None => self.poll_read(context),
        }
    }

    /// Reads up to the first message or the end, and holds that back. A status other than OK is an error.
    pub(super) fn poll_verdict(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        loop {
            let part = ready!(self.poll_read(context));
            let verdict = match &part {
                Part::Head { last: false, .. } => None,
                Part::Piece(bytes) if bytes.is_empty() => continue,
                Part::Piece(_) => Some(Ok(())),
                Part::Head { headers, .. } | Part::Trailers(headers) => Some(verdict(headers)),
                Part::Broken(status) => Some(Err(status.clone())),
            };
            self.held.push_back(part);
            if let Some(verdict) = verdict {
                return Poll::Ready(verdict);
            }
        }
    }

    /// A header beside those that were held back.
    pub(super) fn add_header(&mut self, name: HeaderName, value: HeaderValue) {
        if let Some(Part::Head { headers, .. }) = self.held.front_mut() {
            headers.insert(name, value);
        }
    }

    /// What was held back.
    pub(super) fn into_held(self) -> VecDeque<Part> {
        self.held
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Part> {
        let stream = match &mut self.stage {
            Stage::Awaited(response) => {
                let response = ready!(Pin::new(response).poll(context));
                return Poll::Ready(match response.map_err(|error| stream_status(&error)) {
                    Ok(response) => self.begin(response),
                    Err(status) => Part::Broken(status),
                });
            }
            Stage::Begun(stream) => stream,
        };
        let part = match ready!(stream.poll_data(context)) {
            Some(Ok(piece)) => match self.meter.pass(&piece) {
                Ok(()) => {
                    stream.flow_control().release_capacity(piece.len()).ok();
                    Part::Piece(piece)
                }
                Err(error) => Part::Broken(error.to_status()),
            },
            Some(Err(error)) => Part::Broken(stream_status(&error)),
            None => match ready!(stream.poll_trailers(context)) {
                Ok(Some(trailers)) => Part::Trailers(trailers),
                Ok(None) => Part::Broken(Status::internal(
                    "server closed the stream without sending trailers",
                )),
                Err(error) => Part::Broken(stream_status(&error)),
            },
        };
        Poll::Ready(part)
    }

    fn begin(&mut self, response: Response<RecvStream>) -> Part {
        let (parts, stream) = response.into_parts();
        let kind = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        if parts.status != StatusCode::OK
            || !kind.is_some_and(|kind| kind.starts_with("application/grpc"))
        {
            let status = Status::from_trailers(parts.headers.clone())
                .unwrap_or_else(|| Status::from_http(parts.status.as_u16(), kind));
            return Part::Broken(status);
        }
        let last = stream.is_end_stream();
        self.stage = Stage::Begun(stream);
        Part::Head {
            headers: parts.headers,
            last,
        }
    }
}

/// The code that trailers carry.
pub(super) fn code_of(trailers: &HeaderMap) -> GrpcCode {
    let number = trailers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    number.map_or(GrpcCode::Unknown, GrpcCode::from_number)
}

fn verdict(trailers: &HeaderMap) -> Result<(), Status> {
    if code_of(trailers) == GrpcCode::Ok {
        return Ok(());
    }
    Err(Status::from_trailers(trailers.clone()).unwrap_or_else(|| Status::unknown("")))
}

/// Follows the message prefixes in a stream of bytes.
#[derive(Debug)]
struct Meter {
    limit: usize,
    /// Bytes of the current message that are still to come.
    left: usize,
    prefix: [u8; PREFIX],
    filled: usize,
    /// Messages of which at least a byte has passed.
    begun: usize,
}

impl Meter {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            left: 0,
            prefix: [0; PREFIX],
            filled: 0,
            begun: 0,
        }
    }

    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            if self.filled == 0 {
                self.begun += 1;
            }
            let (taken, rest) = bytes.split_at(bytes.len().min(PREFIX - self.filled));
            for byte in taken {
                if let Some(place) = self.prefix.get_mut(self.filled) {
                    *place = *byte;
                }
                self.filled += 1;
            }
            bytes = rest;
            if self.filled == PREFIX {
                let [_, a, b, c, d] = self.prefix;
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > self.limit {
                    return Err(FrameError::TooLarge {
                        length,
                        limit: self.limit,
                    });
                }
                (self.left, self.filled) = (length, 0);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::framed;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_meter_finds_the_message_that_is_too_large(lengths in proptest::collection::vec(0_usize..40, 0..8), cut in 1_usize..20) {
            let wire: Vec<u8> = lengths.iter().flat_map(|length| framed(&vec![7; *length]).to_vec()).collect();
            let mut meter = Meter::new(30);
            let outcome = wire.chunks(cut).try_for_each(|piece| meter.pass(piece));
            prop_assert_eq!(outcome.is_err(), lengths.iter().any(|length| *length > 30));
        }
    }
}
