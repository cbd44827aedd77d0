//! Bodies of calls that may have to be made again, and answers whose time has not ended with their head.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use outrigger_core::body::ByteStream;
use outrigger_core::{Body, BodyError};
use outrigger_resiliency::Pass;
use tokio::time::Sleep;

use crate::activity::Share;

/// No body longer than this is kept, whatever the API lets in.
pub const REPLAY_LIMIT: u64 = 16 * 1024 * 1024;

/// A request's body, for one attempt or for several.
pub(super) enum Source {
    /// As often as wanted.
    Whole(Bytes),
    /// Kept while it is sent for the first time.
    Kept(Arc<Mutex<Kept>>),
    Once(Option<Body>),
}

/// What came so far, and where the rest comes from.
pub(super) struct Kept {
    pieces: Vec<Bytes>,
    rest: Option<ByteStream>,
    length: u64,
    failed: Option<BodyError>,
    /// Only the latest attempt reads on.
    reader: u64,
}

struct Reader {
    kept: Arc<Mutex<Kept>>,
    next: usize,
    number: u64,
}

impl Source {
    /// `repeats`: there may be more than one attempt. A body of unknown length, or of too great a one, is sent once.
    pub(super) fn new(body: Body, repeats: bool, limit: u64) -> Self {
        match body {
            Body::Bytes(bytes) => Self::Whole(bytes),
            Body::Stream {
                stream,
                length: Some(length),
            } if repeats && length <= limit => Self::Kept(Arc::new(Mutex::new(Kept {
                pieces: Vec::new(),
                rest: Some(stream),
                length,
                failed: None,
                reader: 0,
            }))),
            body => Self::Once(Some(body)),
        }
    }

    pub(super) fn can_repeat(&self) -> bool {
        !matches!(self, Self::Once(_))
    }

    /// The caller broke its request off, or sent too much: no attempt can change that.
    pub(super) fn is_broken(&self) -> bool {
        match self {
            Self::Kept(kept) => {
                let kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.failed.is_some()
            }
            Self::Whole(_) | Self::Once(_) => false,
        }
    }

    /// The body for the next attempt.
    pub(super) fn body(&mut self) -> Body {
        match self {
            Self::Whole(bytes) => Body::Bytes(bytes.clone()),
            Self::Once(body) => body.take().unwrap_or(Body::EMPTY),
            Self::Kept(kept) => {
                let mut inner = kept.lock().unwrap_or_else(PoisonError::into_inner);
                inner.reader += 1;
                Body::Stream {
                    length: Some(inner.length),
                    stream: Box::pin(Reader {
                        kept: kept.clone(),
                        next: 0,
                        number: inner.reader,
                    }),
                }
            }
        }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let kept = self.kept.clone();
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.reader != self.number {
            let why = "the attempt is over".to_owned();
            return Poll::Ready(Some(Err(BodyError::Cut(why))));
        }
        if let Some(piece) = kept.pieces.get(self.next).cloned() {
            self.next += 1;
            return Poll::Ready(Some(Ok(piece)));
        }
        if let Some(error) = &kept.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        let Some(rest) = &mut kept.rest else {
            return Poll::Ready(None);
        };
        let piece = std::task::ready!(rest.as_mut().poll_next(context));
        match &piece {
            Some(Ok(piece)) => {
                kept.pieces.push(piece.clone());
                self.next += 1;
            }
            Some(Err(error)) => {
                kept.failed = Some(error.clone());
                kept.rest = None;
            }
            None => kept.rest = None,
        }
        Poll::Ready(piece)
    }
}

/// An answer's body under the policies of its call: it has to end in time, and how it ends is told to the breaker.
pub(super) fn held(body: Body, pass: Pass) -> Body {
    if matches!(body, Body::Bytes(_)) || pass.is_idle() {
        pass.succeed();
        return body;
    }
    let length = body.length();
    let sleep = pass.limit().map(|limit| {
        let left = limit.since(pass.clock().now());
        Box::pin(tokio::time::sleep(left))
    });
    Body::Stream {
        stream: Box::pin(Held {
            body,
            pass: Some(pass),
            sleep,
        }),
        length,
    }
}

/// An answer's body with the app's share of work, which ends with it.
pub(super) fn accompanied(body: Body, share: Share) -> Body {
    if matches!(body, Body::Bytes(_)) {
        return body;
    }
    let length = body.length();
    Body::Stream {
        stream: Box::pin(Accompanied {
            body,
            _share: share,
        }),
        length,
    }
}

struct Accompanied {
    body: Body,
    _share: Share,
}

impl Stream for Accompanied {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.body.poll_next(context)
    }
}

struct Held {
    body: Body,
    pass: Option<Pass>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Stream for Held {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.pass.is_none() {
            return Poll::Ready(None);
        }
        if let Some(sleep) = &mut self.sleep
            && sleep.as_mut().poll(context).is_ready()
        {
            if let Some(pass) = self.pass.take() {
                pass.time_out_late();
            }
            let why = crate::errors::policy::TIMED_OUT.to_owned();
            return Poll::Ready(Some(Err(BodyError::Cut(why))));
        }
        let piece = std::task::ready!(self.body.poll_next(context));
        match &piece {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                if let Some(pass) = self.pass.take() {
                    pass.fail_late(&error.to_string());
                }
            }
            None => {
                if let Some(pass) = self.pass.take() {
                    pass.succeed();
                }
            }
        }
        Poll::Ready(piece)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    fn streamed(pieces: Vec<Vec<u8>>) -> Body {
        let length = pieces.iter().map(|piece| piece.len() as u64).sum();
        let pieces = pieces.into_iter().map(|piece| Ok(Bytes::from(piece)));
        Body::Stream {
            stream: Box::pin(stream::iter(pieces)),
            length: Some(length),
        }
    }

    #[tokio::test]
    async fn a_body_of_unknown_or_great_length_is_sent_once() {
        let mut unknown = Source::new(Body::stream(stream::iter([])), true, 100);
        assert!(!unknown.can_repeat());
        assert!(unknown.body().is_empty() || unknown.body().is_empty());
        assert!(!Source::new(streamed(vec![vec![1; 101]]), true, 100).can_repeat());
        assert!(!Source::new(streamed(vec![vec![1; 10]]), false, 100).can_repeat());
    }

    #[tokio::test]
    async fn an_attempt_that_is_over_reads_no_further() {
        let mut source = Source::new(streamed(vec![vec![1], vec![2]]), true, 100);
        let mut first = source.body();
        assert_eq!(first.next().await.unwrap().unwrap(), vec![1]);
        let second = source.body();
        assert!(first.next().await.unwrap().is_err());
        assert_eq!(second.collect(100).await.unwrap(), vec![1, 2]);
    }

    proptest! {
        #[test]
        fn every_attempt_sends_the_same_bytes(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5), 0..8), reads in 0_usize..10) {
            let whole: Vec<u8> = pieces.concat();
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                let mut source = Source::new(streamed(pieces), true, 100);
                let mut first = source.body();
                for _ in 0..reads {
                    if first.next().await.is_none() {
                        break;
                    }
                }
                for _ in 0..2 {
                    assert_eq!(source.body().collect(100).await.unwrap(), whole);
                }
            });
        }
    }
}
