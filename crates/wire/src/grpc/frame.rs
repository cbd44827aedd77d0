//! Length-prefixed messages on a stream.

use std::fmt;
use std::task::{Context, Poll};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::RecvStream;

use outrigger_core::error::GrpcCode;
use outrigger_proto::Message;

use super::Status;
use crate::http2::Slot;

/// Flag and length.
pub(super) const PREFIX: usize = 5;

/// A message with its prefix, ready to be sent.
pub fn encode(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut out);
    out.freeze()
}

/// Bytes of an encoded message with their prefix.
pub fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

#[derive(Debug)]
pub enum FrameError {
    TooLarge {
        length: usize,
        limit: usize,
    },
    Compressed,
    /// The stream ended inside a message.
    Cut,
    Stream(h2::Error),
}

impl FrameError {
    /// As Go's gRPC puts it.
    pub fn to_status(&self) -> Status {
        match self {
            Self::TooLarge { length, limit } => Status::new(
                GrpcCode::ResourceExhausted,
                format!("grpc: received message larger than max ({length} vs. {limit})"),
            ),
            Self::Compressed => {
                Status::unimplemented("grpc: compressed flag set with identity or empty encoding")
            }
            Self::Cut => Status::internal("unexpected EOF"),
            Self::Stream(error) => match error.reason() {
                Some(h2::Reason::CANCEL) => {
                    Status::new(GrpcCode::Cancelled, "context canceled".to_owned())
                }
                Some(h2::Reason::REFUSED_STREAM) => Status::unavailable(format!(
                    "stream terminated by RST_STREAM with error code: {}",
                    h2::Reason::REFUSED_STREAM.description()
                )),
                Some(reason) => Status::internal(format!(
                    "stream terminated by RST_STREAM with error code: {}",
                    reason.description()
                )),
                None => Status::unavailable(format!("error reading from server: {error}")),
            },
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_status().message)
    }
}

impl std::error::Error for FrameError {}

/// Cuts the bytes of a stream into messages. A message that lies whole in one frame is not copied.
#[derive(Debug)]
pub struct MessageReader {
    held: Held,
    limit: usize,
}

/// Bytes that came in one or more frames.
#[derive(Debug)]
pub(super) enum Held {
    /// Bytes of one frame, shared with it.
    Whole(Bytes),
    /// Bytes gathered from several frames.
    Gathered(BytesMut),
}

impl Held {
    pub(super) fn new() -> Self {
        Self::Whole(Bytes::new())
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Gathered(bytes) => bytes,
        }
    }

    /// Takes the bytes of one more frame. `limit` is that of a message.
    pub(super) fn push(&mut self, frame: Bytes, limit: usize) {
        *self = match std::mem::replace(self, Self::new()) {
            Self::Whole(bytes) if !bytes.is_empty() => {
                let room = Self::expected(&bytes, frame.len(), limit);
                let mut gathered = BytesMut::with_capacity(room);
                gathered.extend_from_slice(&bytes);
                gathered.extend_from_slice(&frame);
                Self::Gathered(gathered)
            }
            Self::Gathered(mut bytes) if !bytes.is_empty() => {
                bytes.extend_from_slice(&frame);
                Self::Gathered(bytes)
            }
            Self::Whole(_) | Self::Gathered(_) => Self::Whole(frame),
        };
    }

    /// Room for the message that has begun, within reason.
    fn expected(held: &[u8], more: usize, limit: usize) -> usize {
        let announced = held
            .split_first_chunk::<PREFIX>()
            .map_or(0, |([_, a, b, c, d], _)| {
                u32::from_be_bytes([*a, *b, *c, *d]) as usize + PREFIX
            });
        announced.min(limit).min(1 << 20).max(held.len() + more)
    }

    /// The bytes, which stay here too.
    pub(super) fn share(&mut self) -> Bytes {
        let bytes = std::mem::replace(self, Self::new()).into_bytes();
        *self = Self::Whole(bytes.clone());
        bytes
    }

    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Gathered(bytes) => bytes.freeze(),
        }
    }
}

impl MessageReader {
    pub fn new(limit: usize) -> Self {
        Self {
            held: Held::new(),
            limit,
        }
    }

    /// The next whole message among the bytes so far.
    ///
    /// # Errors
    /// When its prefix is not acceptable.
    pub fn take(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some((prefix, rest)) = self.held.as_slice().split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let [flag, a, b, c, d] = *prefix;
        if flag != 0 {
            return Err(FrameError::Compressed);
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            return Err(FrameError::TooLarge {
                length,
                limit: self.limit,
            });
        }
        if rest.len() < length {
            return Ok(None);
        }
        Ok(Some(match &mut self.held {
            Held::Whole(bytes) => {
                bytes.advance(PREFIX);
                bytes.split_to(length)
            }
            Held::Gathered(bytes) => {
                bytes.advance(PREFIX);
                bytes.split_to(length).freeze()
            }
        }))
    }

    /// Takes the bytes of one more frame.
    pub fn push(&mut self, frame: Bytes) {
        self.held.push(frame, self.limit);
    }

    pub fn is_empty(&self) -> bool {
        self.held.as_slice().is_empty()
    }
}

/// The messages that arrive on a stream.
#[derive(Debug)]
pub struct Messages {
    stream: RecvStream,
    reader: MessageReader,
    /// Of the connection that they come on, where we opened the stream.
    _slot: Option<Slot>,
}

impl Messages {
    pub fn new(stream: RecvStream, limit: usize) -> Self {
        Self {
            stream,
            reader: MessageReader::new(limit),
            _slot: None,
        }
    }

    pub(super) fn holding(stream: RecvStream, limit: usize, slot: Option<Slot>) -> Self {
        Self {
            _slot: slot,
            ..Self::new(stream, limit)
        }
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// When the peer broke the framing, sent too much, or reset the stream.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, FrameError>> {
        loop {
            if let Some(message) = self.reader.take()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match std::task::ready!(self.stream.poll_data(context)) {
                Some(Ok(frame)) => {
                    self.stream
                        .flow_control()
                        .release_capacity(frame.len())
                        .ok();
                    self.reader.push(frame);
                }
                Some(Err(error)) => return Poll::Ready(Err(FrameError::Stream(error))),
                None if self.reader.is_empty() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(FrameError::Cut)),
            }
        }
    }

    /// The trailers behind the last message.
    ///
    /// # Errors
    /// When the stream was reset.
    pub async fn trailers(&mut self) -> Result<Option<http::HeaderMap>, h2::Error> {
        std::future::poll_fn(|context| self.stream.poll_trailers(context)).await
    }

    pub fn poll_trailers(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<http::HeaderMap>, h2::Error>> {
        self.stream.poll_trailers(context)
    }

    /// Gives the stream back for relaying, with the bytes that were read ahead.
    pub fn into_parts(self) -> (Bytes, RecvStream) {
        (self.reader.held.into_bytes(), self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_in_one_frame_is_not_copied() {
        let frame = framed(b"hello");
        let start = frame.as_ptr() as usize;
        let mut reader = MessageReader::new(100);
        reader.push(frame);
        let message = reader.take().unwrap().unwrap();
        assert_eq!(message.as_ptr() as usize, start + PREFIX);
    }

    #[test]
    fn oversized_and_compressed_messages_are_refused() {
        let mut reader = MessageReader::new(3);
        reader.push(framed(b"hello"));
        assert_eq!(
            reader.take().unwrap_err().to_string(),
            "grpc: received message larger than max (5 vs. 3)"
        );
        let mut reader = MessageReader::new(3);
        reader.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert!(matches!(reader.take(), Err(FrameError::Compressed)));
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..8), cut in 1_usize..50) {
            let wire: Vec<u8> = messages.iter().flat_map(|message| framed(message).to_vec()).collect();
            let (mut reader, mut got) = (MessageReader::new(100), Vec::new());
            for piece in wire.chunks(cut) {
                reader.push(Bytes::copy_from_slice(piece));
                while let Some(message) = reader.take().unwrap() {
                    got.push(message.to_vec());
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert!(reader.is_empty());
        }
    }
}
