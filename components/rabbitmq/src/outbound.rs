//! Keeps frames of a closed channel off the wire.
//!
//! When the broker closes a channel, say because an exchange is not there, lapin confirms that before it sends messages
//! which were queued for the channel earlier. The broker takes such a late frame for a fault of the whole connection and
//! ends it, with everything else that runs over it. Nobody waits for these frames any more (their senders have been told
//! of the channel's end), so they are taken out here.
//! Tests: below, and tests/broker/publish.rs.

use std::collections::HashSet;

/// Type, channel, size.
const HEAD: usize = 7;
/// The same with class and method.
const METHOD_HEAD: usize = 11;
const METHOD: u8 = 1;
/// Class `channel`.
const CHANNEL: [u8; 2] = [0, 20];
const OPEN: [u8; 2] = [0, 10];
const CLOSE_OK: [u8; 2] = [0, 41];
/// `AMQP` and the protocol's version, ahead of all frames.
const GREETING: usize = 8;

/// Reads along with what is sent.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// Channels whose end we have confirmed.
    closed: HashSet<u16>,
    /// The beginning of a frame, as far as it is there.
    head: [u8; METHOD_HEAD],
    read: usize,
    /// Bytes of the present frame that are still to come, and whether they go out.
    rest: usize,
    passes: bool,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            closed: HashSet::new(),
            head: [0; METHOD_HEAD],
            read: 0,
            rest: GREETING,
            passes: true,
        }
    }
}

impl Outbound {
    /// Adds to `out` what of the next `bytes` may be sent. A frame's beginning is kept until it is known what it is.
    pub(crate) fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some((first, others)) = bytes.split_first() {
            if self.rest > 0 {
                let (body, next) = bytes.split_at(self.rest.min(bytes.len()));
                if self.passes {
                    out.extend_from_slice(body);
                }
                self.rest -= body.len();
                bytes = next;
                continue;
            }
            if let Some(place) = self.head.get_mut(self.read) {
                *place = *first;
            }
            self.read += 1;
            bytes = others;
            self.begin(out);
        }
    }

    /// Decides about a frame once enough of it is there.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if self.read < HEAD {
            return;
        }
        let [kind, c1, c0, s3, s2, s1, s0, class @ .., m1, m0] = self.head;
        let size = usize::try_from(u32::from_be_bytes([s3, s2, s1, s0])).unwrap_or(usize::MAX);
        let has_method = kind == METHOD && size >= METHOD_HEAD - HEAD;
        if has_method && self.read < METHOD_HEAD {
            return;
        }
        let channel = u16::from_be_bytes([c1, c0]);
        self.passes = !self.closed.contains(&channel);
        if has_method && class == CHANNEL {
            match [m1, m0] {
                CLOSE_OK => {
                    self.closed.insert(channel);
                }
                OPEN => {
                    self.closed.remove(&channel);
                    self.passes = true;
                }
                _ => {}
            }
        }
        if self.passes {
            out.extend(self.head.iter().take(self.read));
        }
        // One more byte marks the end of a frame.
        self.rest = HEAD.saturating_add(size).saturating_add(1) - self.read;
        self.read = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        frame.extend(payload);
        frame.push(0xce);
        frame
    }

    fn method(channel: u16, class: u8, method: u8) -> Vec<u8> {
        frame(1, channel, &[0, class, 0, method, 7, 7, 7])
    }

    fn message(channel: u16) -> Vec<u8> {
        let publish = method(channel, 60, 40);
        let header = frame(2, channel, &[0, 60, 0, 0, 1]);
        let body = frame(3, channel, b"\xce a body \x01");
        [publish, header, body].concat()
    }

    fn greeting() -> Vec<u8> {
        b"AMQP\0\0\x09\x01".to_vec()
    }

    /// What goes out when the parts come in pieces of every size.
    #[track_caller]
    fn sent(parts: &[Vec<u8>], expected: &[Vec<u8>]) {
        let (bytes, expected) = (parts.concat(), expected.concat());
        for size in 1..=bytes.len() {
            let (mut outbound, mut out) = (Outbound::default(), Vec::new());
            for piece in bytes.chunks(size) {
                outbound.pass(piece, &mut out);
            }
            assert!(out == expected, "in pieces of {size}");
        }
    }

    #[test]
    fn everything_passes_while_no_channel_was_closed() {
        let heartbeat = frame(8, 0, &[]);
        let all = [
            greeting(),
            method(1, 20, 10),
            message(1),
            heartbeat,
            message(2),
        ];
        sent(&all, &all);
    }

    #[test]
    fn after_a_channels_end_its_frames_stay_here_and_others_pass() {
        let close_ok = frame(1, 1, &[0, 20, 0, 41]);
        sent(
            &[
                greeting(),
                message(1),
                close_ok.clone(),
                message(1),
                message(2),
                method(1, 60, 80),
                message(1),
            ],
            &[greeting(), message(1), close_ok, message(2)],
        );
    }

    #[test]
    fn a_channel_that_is_opened_again_passes_again() {
        let close_ok = frame(1, 1, &[0, 20, 0, 41]);
        let open = frame(1, 1, &[0, 20, 0, 10, 0]);
        sent(
            &[
                greeting(),
                close_ok.clone(),
                message(1),
                open.clone(),
                message(1),
            ],
            &[greeting(), close_ok, open, message(1)],
        );
    }
}
