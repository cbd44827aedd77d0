//! A quick check that a text may be passed on as it is.

use super::{MAX_DEPTH, scan};

/// Whether `text` is one JSON value that every reader understands alike: valid UTF-8 and no escape of half
/// a surrogate pair. Such a text can be embedded without decoding it. A `false` says nothing more than
/// that the text must be parsed.
pub fn is_plain(text: &[u8]) -> bool {
    if std::str::from_utf8(text).is_err() {
        return false;
    }
    Scanner { text, at: 0 }.document().is_some()
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn blanks(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.peek()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn document(mut self) -> Option<()> {
        // One entry per open bracket: whether it is an object.
        let mut open: Vec<bool> = Vec::new();
        loop {
            // A value is due.
            match self.blanks()? {
                b'{' => {
                    self.at += 1;
                    if self.blanks()? == b'}' {
                        self.at += 1;
                    } else {
                        open.push(true);
                        self.key()?;
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    if self.blanks()? == b']' {
                        self.at += 1;
                    } else {
                        open.push(false);
                        if open.len() > MAX_DEPTH {
                            return None;
                        }
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // A value has ended: close brackets until a comma asks for the next value.
            loop {
                let Some(is_object) = open.last().copied() else {
                    return self.blanks().is_none().then_some(());
                };
                match (self.blanks()?, is_object) {
                    (b',', true) => {
                        self.at += 1;
                        self.blanks()?;
                        self.key()?;
                        break;
                    }
                    (b',', false) => {
                        self.at += 1;
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return None,
                }
            }
            if open.len() > MAX_DEPTH {
                return None;
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.blanks()?;
        self.take(b':')
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text
            .get(self.at..)?
            .starts_with(word)
            .then(|| self.at += word.len())
    }

    fn string(&mut self) -> Option<()> {
        self.take(b'"')?;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => {
                    match *self.text.get(self.at + 1)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 2,
                        b'u' => {
                            let digits = self.text.get(self.at + 2..self.at + 6)?;
                            let surrogate = matches!(
                                digits,
                                [b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..]
                            );
                            if surrogate || !digits.iter().all(u8::is_ascii_hexdigit) {
                                return None;
                            }
                            self.at += 6;
                        }
                        _ => return None,
                    };
                }
                0..=0x1f => return None,
                _ => self.at += scan::run(self.text.get(self.at..)?, scan::ends_run),
            }
        }
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek()? == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }
}
