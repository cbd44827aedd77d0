//! The encoders.

use super::number::{fast_float, standard_float};
use super::{Value, scan};

/// Which of the two encoders of Dapr's components to follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// `encoding/json`: keys sorted, `< > &` and U+2028/9 escaped.
    Standard,
    /// The faster encoder of the Redis components: keys as they come, nothing escaped that need not be,
    /// floats cut to six decimals.
    Fast,
    /// For our own answers: members in the order in which they were built, nothing escaped that need not be.
    Ours,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Numbers {
    /// As a reader with float64 only would have kept them.
    Float64,
    /// Digit by digit as they were written.
    Exact,
}

pub fn encode(value: &Value, style: Style, numbers: Numbers) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    encode_to(&mut out, value, style, numbers);
    out
}

pub fn encode_to(out: &mut Vec<u8>, value: &Value, style: Style, numbers: Numbers) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(text) => match (numbers, style) {
            (Numbers::Exact, _) => out.extend_from_slice(text.as_bytes()),
            (Numbers::Float64, Style::Fast) => out.extend_from_slice(fast_float(text).as_bytes()),
            (Numbers::Float64, _) => out.extend_from_slice(standard_float(text).as_bytes()),
        },
        Value::String(text) => encode_string(out, text, style),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                encode_to(out, item, style, numbers);
            }
            out.push(b']');
        }
        Value::Object(members)
            if style == Style::Standard && !members.is_sorted_by(|(a, _), (b, _)| a <= b) =>
        {
            let mut sorted: Vec<&(String, Value)> = members.iter().collect();
            sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
            encode_members(out, sorted.into_iter(), style, numbers);
        }
        Value::Object(members) => encode_members(out, members.iter(), style, numbers),
    }
}

fn encode_members<'a>(
    out: &mut Vec<u8>,
    members: impl Iterator<Item = &'a (String, Value)>,
    style: Style,
    numbers: Numbers,
) {
    out.push(b'{');
    for (i, (key, value)) in members.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        encode_string(out, key, style);
        out.push(b':');
        encode_to(out, value, style, numbers);
    }
    out.push(b'}');
}

pub fn encode_string(out: &mut Vec<u8>, text: &str, style: Style) {
    let standard = style == Style::Standard;
    let matters = |byte: u8| {
        scan::ends_run(byte)
            | (standard & ((byte == b'<') | (byte == b'>') | (byte == b'&') | (byte == 0xe2)))
    };
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some((plain, [byte, after @ ..])) = rest.split_at_checked(scan::run(rest, matters)) {
        out.extend_from_slice(plain);
        rest = after;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 if standard => out.extend_from_slice(b"\\b"),
            0x0c if standard => out.extend_from_slice(b"\\f"),
            // U+2028 and U+2029 are e2 80 a8 and e2 80 a9.
            0xe2 => match after {
                [0x80, 0xa8, after @ ..] => {
                    out.extend_from_slice(b"\\u2028");
                    rest = after;
                }
                [0x80, 0xa9, after @ ..] => {
                    out.extend_from_slice(b"\\u2029");
                    rest = after;
                }
                _ => out.push(0xe2),
            },
            byte => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    digit(byte >> 4),
                    digit(byte & 15),
                ]);
            }
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
