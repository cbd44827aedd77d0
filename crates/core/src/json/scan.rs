//! Looking for the few bytes of a string that matter, many at a time.

/// How many bytes from the start on do not matter. The compiler makes vector instructions of the inner loop.
pub(super) fn run(bytes: &[u8], matters: impl Fn(u8) -> bool) -> usize {
    let mut at = 0;
    let (chunks, rest) = bytes.as_chunks::<16>();
    for chunk in chunks {
        if chunk
            .iter()
            .fold(false, |found, byte| found | matters(*byte))
        {
            return at + first(chunk, matters);
        }
        at += chunk.len();
    }
    at + first(rest, matters)
}

fn first(bytes: &[u8], matters: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .position(|byte| matters(*byte))
        .unwrap_or(bytes.len())
}

/// Ends a run inside of a string.
pub(super) fn ends_run(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_at_the_first_byte_that_matters_wherever_it_stands() {
        for length in 0..50 {
            let plain = vec![b'x'; length];
            assert_eq!(run(&plain, ends_run), length);
            for at in 0..length {
                for byte in [b'"', b'\\', 0, 0x1f] {
                    let mut text = plain.clone();
                    text[at] = byte;
                    assert_eq!(run(&text, ends_run), at);
                }
            }
        }
    }
}
