//! A call passed on as it is: frames are counted against the message limit and otherwise not looked at.
//!
//! Both directions run in one task. A request that came with its end goes out with its end, so that a unary call costs
//! one data frame each way.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use outrigger_core::error::GrpcCode;

use super::client::stream_status;
use super::frame::PREFIX;
use super::{Call, FrameError, Messages, Reply, Status};
use crate::http2;

/// How a relayed call ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// As the other side said; it has been passed on.
    Passed(GrpcCode),
    /// Nothing of a reply had been sent to the caller: this is left to be told, or to be tried again elsewhere.
    Failed(Status),
    /// The caller went away.
    Gone,
}

/// Passes a call on and its reply back. `limit` bounds each message.
///
/// # Cancel safety
/// Dropping it cancels the call at the other side.
pub async fn relay(messages: Messages, reply: &mut Reply, call: Call, limit: usize) -> Ended {
    let Call {
        requests, response, ..
    } = call;
    let (held, from) = messages.into_parts();
    let mut up = pin!(forward(held, from, requests, limit));
    let mut response = pin!(response);
    let mut up_done = false;
    // Requests flow on while the head of the reply is awaited, and while the reply flows back.
    let head = poll_fn(|context| {
        if reply.poll_gone(context).is_ready() {
            return Poll::Ready(Err(Ended::Gone));
        }
        if !up_done && let Poll::Ready(outcome) = up.as_mut().poll(context) {
            up_done = true;
            if let Err(status) = outcome {
                return Poll::Ready(Err(Ended::Failed(status)));
            }
        }
        response
            .as_mut()
            .poll(context)
            .map_err(|error| Ended::Failed(stream_status(&error)))
    });
    let (parts, mut stream) = match head.await {
        Ok(response) => response.into_parts(),
        Err(ended) => return ended,
    };
    let kind = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if parts.status != StatusCode::OK
        || !kind.is_some_and(|kind| kind.starts_with("application/grpc"))
    {
        let status = Status::from_trailers(parts.headers.clone())
            .unwrap_or_else(|| Status::from_http(parts.status.as_u16(), kind));
        return Ended::Failed(status);
    }
    let mut head = Response::new(());
    *head.headers_mut() = parts.headers;
    if stream.is_end_stream() {
        let code = code_of(head.headers());
        return if reply.raw_head(head, true).is_ok() {
            Ended::Passed(code)
        } else {
            Ended::Gone
        };
    }
    if reply.raw_head(head, false).is_err() {
        return Ended::Gone;
    }
    let Some(back) = &mut reply.stream else {
        return Ended::Gone;
    };
    let down = backward(&mut stream, back, limit);
    let mut down = pin!(down);
    poll_fn(|context| {
        if !up_done && let Poll::Ready(outcome) = up.as_mut().poll(context) {
            up_done = true;
            // The other side will hear that the requests broke off, and its answer to that is what counts.
            drop(outcome);
        }
        down.as_mut().poll(context)
    })
    .await
}

/// Requests, until their end.
async fn forward(
    held: Bytes,
    mut from: RecvStream,
    mut to: SendStream<Bytes>,
    limit: usize,
) -> Result<(), Status> {
    let mut meter = Meter::new(limit);
    if !held.is_empty() {
        meter.pass(&held).map_err(|error| error.to_status())?;
        let end = from.is_end_stream();
        if http2::send(&mut to, held, end).await.is_err() || end {
            return Ok(());
        }
    }
    loop {
        match poll_fn(|context| from.poll_data(context)).await {
            Some(Ok(piece)) => {
                meter.pass(&piece).map_err(|error| error.to_status())?;
                from.flow_control().release_capacity(piece.len()).ok();
                let end = from.is_end_stream();
                // A side that does not want more has answered, or will.
                if http2::send(&mut to, piece, end).await.is_err() || end {
                    return Ok(());
                }
            }
            Some(Err(error)) => {
                to.send_reset(h2::Reason::CANCEL);
                return Err(FrameError::Stream(error).to_status());
            }
            None => {
                to.send_data(Bytes::new(), true).ok();
                return Ok(());
            }
        }
    }
}

/// Replies, until their status.
async fn backward(from: &mut RecvStream, to: &mut SendStream<Bytes>, limit: usize) -> Ended {
    let mut meter = Meter::new(limit);
    loop {
        let piece = poll_fn(|context| {
            if let Poll::Ready(outcome) = to.poll_reset(context) {
                drop(outcome);
                return Poll::Ready(Err(()));
            }
            from.poll_data(context).map(Ok)
        });
        match piece.await {
            Err(()) => return Ended::Gone,
            Ok(Some(Ok(piece))) => {
                if let Err(error) = meter.pass(&piece) {
                    return end(to, &error.to_status());
                }
                from.flow_control().release_capacity(piece.len()).ok();
                if http2::send(to, piece, false).await.is_err() {
                    return Ended::Gone;
                }
            }
            Ok(Some(Err(error))) => return end(to, &stream_status(&error)),
            Ok(None) => break,
        }
    }
    match poll_fn(|context| Pin::new(&mut *from).poll_trailers(context)).await {
        Ok(Some(trailers)) => {
            let code = code_of(&trailers);
            if to.send_trailers(trailers).is_ok() {
                Ended::Passed(code)
            } else {
                Ended::Gone
            }
        }
        Ok(None) => end(
            to,
            &Status::internal("server closed the stream without sending trailers"),
        ),
        Err(error) => end(to, &stream_status(&error)),
    }
}

fn end(to: &mut SendStream<Bytes>, status: &Status) -> Ended {
    to.send_trailers(status.to_trailers()).ok();
    Ended::Passed(status.code)
}

fn code_of(trailers: &http::HeaderMap) -> GrpcCode {
    let number = trailers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    number.map_or(GrpcCode::Unknown, GrpcCode::from_number)
}

/// Follows the message prefixes in a stream of bytes.
#[derive(Debug)]
struct Meter {
    limit: usize,
    /// Bytes of the current message that are still to come.
    left: usize,
    prefix: [u8; PREFIX],
    filled: usize,
}

impl Meter {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            left: 0,
            prefix: [0; PREFIX],
            filled: 0,
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
