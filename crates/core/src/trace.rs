//! W3C trace contexts: the header text, the binary form of gRPC, and `baggage`.

use std::fmt;

/// The trace that a request belongs to, as it arrived or as it is passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub flags: u8,
    /// The vendor list, passed on as it came.
    pub state: String,
}

impl TraceContext {
    /// The context that is passed on where there is none.
    pub const ZERO_HEADER: &'static str = "00-00000000000000000000000000000000-0000000000000000-00";

    pub fn is_valid(&self) -> bool {
        self.trace_id != [0; 16] && self.span_id != [0; 8]
    }

    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// Reads `traceparent` and, if it is well formed, `tracestate`. Only version 00 is known; a later one
    /// is read by its first four fields.
    pub fn parse(parent: &str, state: Option<&str>) -> Option<Self> {
        let mut fields = parent.trim().split('-');
        let (version, trace, span, flags) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let version = hex::<1>(version)?;
        if version == [0xff] || (version == [0] && fields.next().is_some()) {
            return None;
        }
        let context = Self {
            trace_id: hex(trace)?,
            span_id: hex(span)?,
            flags: hex::<1>(flags)?[0],
            state: String::new(),
        };
        if !context.is_valid() {
            return None;
        }
        let state = state
            .filter(|text| is_state(text))
            .unwrap_or_default()
            .to_owned();
        Some(Self { state, ..context })
    }

    /// Reads the binary form: version 0, then trace id, span id and flags, each behind its field number.
    pub fn parse_binary(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[0, 0])?;
        let (trace_id, rest) = rest.split_first_chunk::<16>()?;
        let mut context = Self {
            trace_id: *trace_id,
            ..Self::default()
        };
        if let Some((span_id, rest)) = rest
            .strip_prefix(&[1])
            .and_then(|rest| rest.split_first_chunk::<8>())
        {
            context.span_id = *span_id;
            if let [2, flags, ..] = rest {
                context.flags = *flags;
            }
        }
        context.is_valid().then_some(context)
    }

    /// The binary form; all zeros where there is no context.
    pub fn to_binary(&self) -> [u8; 29] {
        let mut out = [0; 29];
        let parts: [&[u8]; 6] = [
            &[0, 0],
            &self.trace_id,
            &[1],
            &self.span_id,
            &[2],
            &[self.flags],
        ];
        for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    /// The text of `traceparent`.
    pub fn header(&self) -> String {
        let mut out = String::with_capacity(55);
        out.push_str("00-");
        push_hex(&mut out, &self.trace_id);
        out.push('-');
        push_hex(&mut out, &self.span_id);
        out.push('-');
        push_hex(&mut out, &[self.flags]);
        out
    }

    /// A new span of the same trace.
    pub fn child(&self) -> Self {
        Self {
            span_id: rand::random(),
            ..self.clone()
        }
    }

    /// The first span of a new trace.
    pub fn root(sampled: bool) -> Self {
        Self {
            trace_id: rand::random(),
            span_id: rand::random(),
            flags: u8::from(sampled),
            state: String::new(),
        }
    }
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from(
                DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0'),
            ));
        }
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *byte = *byte << 4 | value;
        }
    }
    Some(out)
}

fn is_state(text: &str) -> bool {
    let members: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|member| !member.is_empty())
        .collect();
    members.len() <= 32
        && members.iter().all(|member| {
            member
                .split_once('=')
                .is_some_and(|(key, value)| !key.is_empty() && !value.contains('='))
        })
}

/// Why a `baggage` header is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaggageError(String);

impl fmt::Display for BaggageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid baggage header: {}", self.0)
    }
}

/// Checks a `baggage` header; a good one is passed on as it came.
///
/// # Errors
/// Names the first bad member or key.
pub fn check_baggage(text: &str) -> Result<(), BaggageError> {
    if text.is_empty() {
        return Ok(());
    }
    for member in text.split(',') {
        let pair = member.split(';').next().unwrap_or_default();
        let Some((key, value)) = pair.split_once('=') else {
            return Err(BaggageError(format!(
                "invalid baggage list-member: {member:?}"
            )));
        };
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(is_token_byte) {
            return Err(BaggageError(format!("invalid key: {key:?}")));
        }
        let value = value.trim();
        if !value
            .bytes()
            .all(|b| matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e))
        {
            return Err(BaggageError(format!("invalid value: {value:?}")));
        }
    }
    Ok(())
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_and_written() {
        let context = TraceContext::parse(HEADER, Some("a=b")).unwrap();
        assert!(context.is_sampled());
        assert_eq!(context.state, "a=b");
        assert_eq!(context.header(), HEADER);
        assert_eq!(TraceContext::default().header(), TraceContext::ZERO_HEADER);
    }

    #[test]
    fn broken_headers_are_no_context() {
        for bad in [
            "",
            "garbage",
            TraceContext::ZERO_HEADER,
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            &format!("{HEADER}-x"),
            &HEADER.to_uppercase(),
        ] {
            assert_eq!(TraceContext::parse(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn the_binary_form_is_read_and_written() {
        let context = TraceContext::parse(HEADER, None).unwrap();
        assert_eq!(
            TraceContext::parse_binary(&context.to_binary()),
            Some(context)
        );
        assert_eq!(
            TraceContext::parse_binary(&TraceContext::default().to_binary()),
            None
        );
        assert_eq!(TraceContext::parse_binary(b"x"), None);
    }

    #[test]
    fn baggage_is_checked() {
        assert_eq!(check_baggage("k=v, k2=v2;p=1"), Ok(()));
        assert_eq!(
            check_baggage("nope").unwrap_err().to_string(),
            "invalid baggage header: invalid baggage list-member: \"nope\""
        );
        assert_eq!(
            check_baggage("=v").unwrap_err().to_string(),
            "invalid baggage header: invalid key: \"\""
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            TraceContext::parse(&text, Some(&text));
            TraceContext::parse_binary(&bytes);
            check_baggage(&text).ok();
        }
    }
}
