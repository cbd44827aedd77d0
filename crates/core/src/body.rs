//! The bytes of a request or answer on their way through the sidecar.
//!
//! Most bodies are small and arrive whole: they are [`Body::Bytes`], shared and never copied. A body of
//! unknown or large size is a stream that is read only as fast as the other side takes it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;

/// Pieces of a body, in order. Ends with `None`, or with one error.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;

pub enum Body {
    Bytes(Bytes),
    Stream {
        stream: ByteStream,
        /// The announced length, when there is one.
        length: Option<u64>,
    },
}

/// Why a body ended before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes came than `--max-body-size` allows.
    TooLarge,
    /// The sender went away, or broke the framing.
    Cut(String),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Dapr: pkg/api/http/middlewares.go wraps the reader, whose text shows up in each route's own error.
            Self::TooLarge => f.write_str("stream too large"),
            Self::Cut(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for BodyError {}

impl Body {
    pub const EMPTY: Self = Self::Bytes(Bytes::new());

    /// The length, where it is known without reading.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Stream { length, .. } => *length,
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if bytes.is_empty())
    }

    /// Wraps a stream of unknown length.
    pub fn stream(stream: impl Stream<Item = Result<Bytes, BodyError>> + Send + 'static) -> Self {
        Self::Stream {
            stream: Box::pin(stream),
            length: None,
        }
    }

    /// The next piece, or `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        match self {
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::Stream { stream, .. } => stream.as_mut().poll_next(context),
        }
    }

    /// Reads everything. A body that is already whole is returned without a copy.
    ///
    /// # Errors
    /// The body's own, or [`BodyError::TooLarge`] once more than `limit` bytes came.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, BodyError> {
        if let Self::Bytes(bytes) = self {
            return if bytes.len() > limit {
                Err(BodyError::TooLarge)
            } else {
                Ok(bytes)
            };
        }
        let Some(first) = self.next().await else {
            return Ok(Bytes::new());
        };
        let first = first?;
        let Some(second) = self.next().await else {
            return if first.len() > limit {
                Err(BodyError::TooLarge)
            } else {
                Ok(first)
            };
        };
        let mut whole = BytesMut::from(first);
        let mut piece = second;
        loop {
            whole.extend_from_slice(&piece?);
            if whole.len() > limit {
                return Err(BodyError::TooLarge);
            }
            match self.next().await {
                Some(next) => piece = next,
                None => return Ok(whole.freeze()),
            }
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Self::Stream { length, .. } => write!(f, "Body(stream, {length:?} bytes)"),
        }
    }
}
