//! Taking quotes off as Go does.
//!
//! Dapr stores a value from a secret store or a variable as if it had been read from JSON, and takes quotes off on
//! reading. A password in quotes therefore loses them; files for `docker --env-file` rely on it.

/// The text within `"..."`, `` `...` `` or `'c'`; absent when the text is not quoted, or not well.
pub(super) fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next()?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    match quote {
        '`' => (!inner.contains('`')).then(|| inner.replace('\r', "")),
        '"' => escaped(inner, quote),
        '\'' => escaped(inner, quote).filter(|inner| inner.chars().count() == 1),
        _ => None,
    }
}

fn escaped(inner: &str, quote: char) -> Option<String> {
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '\n' => return None,
            '\\' => escape(&mut rest, quote, &mut bytes)?,
            c if c == quote => return None,
            c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn escape(rest: &mut std::str::Chars<'_>, quote: char, bytes: &mut Vec<u8>) -> Option<()> {
    let first = rest.next()?;
    let plain = match first {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '\'' | '"' if first == quote => u8::try_from(first).ok()?,
        'x' => u8::try_from(number(rest, 2, 16, 0)?).ok()?,
        '0'..='7' => u8::try_from(number(rest, 2, 8, first.to_digit(8)?)?).ok()?,
        'u' | 'U' => {
            let c = char::from_u32(number(rest, if first == 'u' { 4 } else { 8 }, 16, 0)?)?;
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(());
        }
        _ => return None,
    };
    bytes.push(plain);
    Some(())
}

fn number(rest: &mut std::str::Chars<'_>, digits: usize, radix: u32, start: u32) -> Option<u32> {
    (0..digits).try_fold(start, |number, _| {
        number
            .checked_mul(radix)?
            .checked_add(rest.next()?.to_digit(radix)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_come_off_as_in_go() {
        for (text, inner) in [
            ("\"a b\"", Some("a b")),
            ("`a\"b`", Some("a\"b")),
            ("'x'", Some("x")),
            ("'xy'", None),
            ("\"a\\\"b\\n\\x41\\u00e9\\101\"", Some("a\"b\nAéA")),
            ("\"a\\'b\"", None),
            ("\"a\"b\"", None),
            ("\"a\nb\"", None),
            ("\"", None),
            ("", None),
            ("plain", None),
            ("\"\"", Some("")),
            ("\"\\\"", None),
        ] {
            assert_eq!(unquoted(text).as_deref(), inner, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[\"'`\\\\a-fnuxU0-9é\n]{0,12}") {
            unquoted(&text);
        }
    }
}
