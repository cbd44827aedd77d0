//! The parser. Accepts what Go's `encoding/json` accepts; errors carry its words.

use std::collections::HashMap;
use std::fmt;

use super::{MAX_DEPTH, Value, scan};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Nothing but white space.
    Empty,
    /// The text stops inside a value; `streaming` tells which of Go's two words applies.
    Cut { streaming: bool },
    /// The text breaks a rule, or has a value of the wrong kind.
    Wrong(String),
}

impl JsonError {
    /// A value of the wrong kind where no field is involved.
    pub fn kind(found: &str, expected: &str) -> Self {
        Self::Wrong(format!(
            "json: cannot unmarshal {found} into Go value of type {expected}"
        ))
    }

    /// A value of the wrong kind in a field.
    pub fn field(found: &str, structure: &str, field: &str, expected: &str) -> Self {
        Self::Wrong(format!(
            "json: cannot unmarshal {found} into Go struct field {structure}.{field} of type {expected}"
        ))
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("EOF"),
            Self::Cut { streaming: true } => f.write_str("unexpected EOF"),
            Self::Cut { streaming: false } => f.write_str("unexpected end of JSON input"),
            Self::Wrong(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for JsonError {}

/// Reads the first value and tells where it ends; text behind it is not looked at.
///
/// # Errors
/// As Go's stream decoder: `EOF` for an empty text, `unexpected EOF` for a cut one.
pub fn parse_first(text: &[u8]) -> Result<(Value, usize), JsonError> {
    let mut parser = Parser {
        text,
        at: 0,
        streaming: true,
    };
    parser.skip_blanks();
    if parser.at == text.len() {
        return Err(JsonError::Empty);
    }
    let value = parser.value(0)?;
    Ok((value, parser.at))
}

/// Reads a text that holds one value and nothing else.
///
/// # Errors
/// As Go's `Unmarshal`.
pub fn parse_all(text: &[u8]) -> Result<Value, JsonError> {
    let mut parser = Parser {
        text,
        at: 0,
        streaming: false,
    };
    let value = parser.value(0)?;
    parser.skip_blanks();
    match parser.peek() {
        None => Ok(value),
        Some(byte) => Err(unexpected(byte, "after top-level value")),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    streaming: bool,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn cut(&self) -> JsonError {
        JsonError::Cut {
            streaming: self.streaming,
        }
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::Wrong("exceeded max depth".to_owned()));
        }
        self.skip_blanks();
        match self.peek() {
            None => Err(self.cut()),
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                self.at += 1;
                Ok(Value::String(self.string()?))
            }
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(byte) => Err(unexpected(byte, "looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, JsonError> {
        for expected in word.bytes() {
            match self.peek() {
                Some(byte) if byte == expected => self.at += 1,
                None => return Err(self.cut()),
                Some(byte) => {
                    return Err(unexpected(
                        byte,
                        &format!("in literal {word} (expecting {})", quoted(expected)),
                    ));
                }
            }
        }
        Ok(value)
    }

    fn digits(&mut self, place: &str) -> Result<(), JsonError> {
        match self.peek() {
            None => return Err(self.cut()),
            Some(b'0'..=b'9') => {}
            Some(byte) => return Err(unexpected(byte, place)),
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits("in numeric literal")?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits("in exponent of numeric literal")?;
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        Ok(Value::Number(String::from_utf8_lossy(digits).into_owned()))
    }

    fn array(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_blanks();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                Some(byte) => return Err(unexpected(byte, "after array element")),
                None => return Err(self.cut()),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, JsonError> {
        self.at += 1;
        let mut members: Vec<(String, Value)> = Vec::new();
        self.skip_blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_blanks();
            match self.peek() {
                Some(b'"') => self.at += 1,
                Some(byte) => {
                    return Err(unexpected(
                        byte,
                        "looking for beginning of object key string",
                    ));
                }
                None => return Err(self.cut()),
            }
            let key = self.string()?;
            self.skip_blanks();
            match self.peek() {
                Some(b':') => self.at += 1,
                Some(byte) => return Err(unexpected(byte, "after object key")),
                None => return Err(self.cut()),
            }
            let value = self.value(depth + 1)?;
            members.push((key, value));
            self.skip_blanks();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(without_duplicates(members)));
                }
                Some(byte) => return Err(unexpected(byte, "after object key:value pair")),
                None => return Err(self.cut()),
            }
        }
    }

    /// The rest of a string whose opening quote was taken.
    fn string(&mut self) -> Result<String, JsonError> {
        let start = self.at;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    let plain = self.text.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(go_text(plain));
                }
                b'\\' => return self.escaped_string(start),
                0..=0x1f => return Err(unexpected(byte, "in string literal")),
                _ => self.skip_run(),
            }
        }
        Err(self.cut())
    }

    fn skip_run(&mut self) {
        self.at += scan::run(self.text.get(self.at..).unwrap_or_default(), scan::ends_run);
    }

    fn escaped_string(&mut self, start: usize) -> Result<String, JsonError> {
        let mut out = go_text(self.text.get(start..self.at).unwrap_or_default());
        loop {
            let run = self.at;
            self.skip_run();
            out.push_str(&go_text(self.text.get(run..self.at).unwrap_or_default()));
            match self.peek() {
                None => return Err(self.cut()),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape(&mut out)?;
                }
                Some(byte) => return Err(unexpected(byte, "in string literal")),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), JsonError> {
        let Some(byte) = self.peek() else {
            return Err(self.cut());
        };
        self.at += 1;
        match byte {
            b'"' | b'\\' | b'/' => out.push(char::from(byte)),
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let first = self.four_hex()?;
                out.push(self.unit(first)?);
            }
            _ => return Err(unexpected(byte, "in string escape code")),
        }
        Ok(())
    }

    /// The character of a `\u` escape, taking the second half of a surrogate pair along.
    fn unit(&mut self, first: u16) -> Result<char, JsonError> {
        if let Some(c) = char::from_u32(u32::from(first)) {
            return Ok(c);
        }
        if first < 0xdc00 && self.text.get(self.at..self.at + 2) == Some(br"\u") {
            let back = self.at;
            self.at += 2;
            let second = self.four_hex()?;
            if let Some(Ok(c)) = char::decode_utf16([first, second]).next() {
                return Ok(c);
            }
            self.at = back;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn four_hex(&mut self) -> Result<u16, JsonError> {
        let mut unit = 0_u16;
        for _ in 0..4 {
            let Some(byte) = self.peek() else {
                return Err(self.cut());
            };
            let Some(digit) = char::from(byte).to_digit(16) else {
                return Err(unexpected(byte, "in \\u hexadecimal character escape"));
            };
            unit = unit << 4 | digit as u16;
            self.at += 1;
        }
        Ok(unit)
    }
}

/// Text in which every byte that is no UTF-8 became one replacement character, as Go does.
fn go_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let mut out = String::with_capacity(bytes.len());
            for chunk in bytes.utf8_chunks() {
                out.push_str(chunk.valid());
                out.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
            }
            out
        }
    }
}

fn without_duplicates(members: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let distinct = if members.len() <= 16 {
        members
            .iter()
            .enumerate()
            .all(|(i, (key, _))| members.iter().skip(i + 1).all(|(other, _)| key != other))
    } else {
        let mut seen = std::collections::HashSet::with_capacity(members.len());
        members.iter().all(|(key, _)| seen.insert(key.as_str()))
    };
    if distinct {
        return members;
    }
    let mut places: HashMap<String, usize> = HashMap::with_capacity(members.len());
    let mut out: Vec<(String, Value)> = Vec::with_capacity(members.len());
    for (key, value) in members {
        match places.get(&key).and_then(|place| out.get_mut(*place)) {
            Some(earlier) => earlier.1 = value,
            None => {
                places.insert(key.clone(), out.len());
                out.push((key, value));
            }
        }
    }
    out
}

fn unexpected(byte: u8, place: &str) -> JsonError {
    JsonError::Wrong(format!("invalid character {} {place}", quoted(byte)))
}

/// A byte as Go quotes it in these messages.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        0x80.. => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    }
}
