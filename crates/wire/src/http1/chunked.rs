//! The chunked transfer coding, decoded piece by piece.

use bytes::{Buf as _, Bytes, BytesMut};

/// A line of the coding longer than this is refused.
const MAX_LINE: usize = 4096;
/// Trailers altogether.
const MAX_TRAILERS: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    trailers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailer,
    Done,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Data(Bytes),
    /// The body has ended; what is left in the buffer belongs to the next message.
    End,
    /// More bytes are needed.
    Partial,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            state: State::Size,
            trailers: 0,
        }
    }

    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                State::Data(left) => {
                    if buffer.is_empty() {
                        return Ok(Decoded::Partial);
                    }
                    let take = usize::try_from(left)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    let data = buffer.split_to(take).freeze();
                    let left = left - take as u64;
                    self.state = if left == 0 {
                        State::DataEnd
                    } else {
                        State::Data(left)
                    };
                    return Ok(Decoded::Data(data));
                }
                State::Size | State::DataEnd | State::Trailer => {
                    let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else {
                        return if buffer.len() > MAX_LINE {
                            Err(Malformed)
                        } else {
                            Ok(Decoded::Partial)
                        };
                    };
                    let line = buffer.get(..end).unwrap_or_default();
                    let line = line.strip_suffix(b"\r").unwrap_or(line);
                    self.state = match self.state {
                        State::DataEnd if line.is_empty() => State::Size,
                        State::DataEnd => return Err(Malformed),
                        State::Size => match size(line)? {
                            0 => State::Trailer,
                            length => State::Data(length),
                        },
                        State::Trailer if line.is_empty() => State::Done,
                        _ => {
                            self.trailers += line.len();
                            if self.trailers > MAX_TRAILERS {
                                return Err(Malformed);
                            }
                            State::Trailer
                        }
                    };
                    buffer.advance(end + 1);
                }
            }
        }
    }
}

/// The size at the start of a chunk's line; an extension behind `;` is ignored.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    if line.len() > MAX_LINE {
        return Err(Malformed);
    }
    let digits = line
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii_end();
    if digits.is_empty() || digits.len() > 16 {
        return Err(Malformed);
    }
    digits.iter().try_fold(0_u64, |size, byte| {
        let digit = char::from(*byte).to_digit(16).ok_or(Malformed)?;
        size.checked_mul(16)
            .map(|size| size + u64::from(digit))
            .ok_or(Malformed)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(mut pieces: Vec<&[u8]>) -> Result<(Vec<u8>, BytesMut), Malformed> {
        let (mut decoder, mut buffer, mut body) = (Decoder::new(), BytesMut::new(), Vec::new());
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::End => {
                    for piece in pieces {
                        buffer.extend_from_slice(piece);
                    }
                    return Ok((body, buffer));
                }
                Decoded::Partial if pieces.is_empty() => return Err(Malformed),
                Decoded::Partial => buffer.extend_from_slice(pieces.remove(0)),
            }
        }
    }

    #[test]
    fn chunks_are_joined_and_the_rest_is_left() {
        let (body, rest) = all(vec![
            b"3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\nGET",
        ])
        .unwrap();
        assert_eq!((&body[..], &rest[..]), (&b"abcde"[..], &b"GET"[..]));
    }

    #[test]
    fn broken_codings_are_refused() {
        for bad in [
            &b"x\r\n"[..],
            b"\r\n",
            b"3\r\nabcd\r\n",
            b"fffffffffffffffff\r\n",
            b"-1\r\n",
        ] {
            assert_eq!(all(vec![bad]).map(|_| ()), Err(Malformed), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(body in proptest::collection::vec(any::<u8>(), 0..300), size in 1_usize..50, cut in 1_usize..40) {
            let mut coded = Vec::new();
            for chunk in body.chunks(size) {
                coded.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                coded.extend_from_slice(chunk);
                coded.extend_from_slice(b"\r\n");
            }
            coded.extend_from_slice(b"0\r\n\r\n");
            let (decoded, rest) = all(coded.chunks(cut).collect()).unwrap();
            prop_assert_eq!(decoded, body);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            all(vec![&bytes]).ok();
        }
    }
}
