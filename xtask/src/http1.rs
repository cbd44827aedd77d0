//! Whole HTTP/1.1 messages at the front of a buffer.
//!
//! Owns: just enough to be a client and a server of small messages. It is not the product's own code on purpose: a fault
//! there must not hide itself by being on both sides.
//! Never: reads or writes a connection.
//! Start at [`request`] and [`response`].

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use httparse::{EMPTY_HEADER, Header, Status};

const MOST_HEADERS: usize = 64;

/// A complete message. `length` bytes of the buffer are its own.
pub(crate) struct Message<'a, Start> {
    pub(crate) start: Start,
    pub(crate) content_type: Cow<'a, [u8]>,
    pub(crate) body: Cow<'a, [u8]>,
    pub(crate) length: usize,
}

/// The request that begins `bytes`, once all of it has come.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<Message<'_, &str>>> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let Status::Complete(end) = head.parse(bytes)? else {
        return Ok(None);
    };
    let path = head.path.unwrap_or_default();
    message(path, head.headers, bytes, end, Some(0))
}

/// The response that begins `bytes`, once all of it has come.
pub(crate) fn response(bytes: &[u8]) -> Result<Option<Message<'_, u16>>> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let Status::Complete(end) = head.parse(bytes)? else {
        return Ok(None);
    };
    let code = head.code.unwrap_or_default();
    let implied = (code == 204).then_some(0);
    message(code, head.headers, bytes, end, implied)
}

/// `implied` is the length of a body whose headers give none.
fn message<'a, Start>(
    start: Start,
    headers: &[Header<'a>],
    bytes: &'a [u8],
    end: usize,
    implied: Option<usize>,
) -> Result<Option<Message<'a, Start>>> {
    let rest = bytes.get(end..).unwrap_or_default();
    let body = if header(headers, "transfer-encoding").is_some() {
        chunked(rest)?
    } else {
        let length = declared_length(headers)?
            .or(implied)
            .context("a message tells no length")?;
        rest.get(..length).map(|body| (Cow::Borrowed(body), length))
    };
    Ok(body.map(|(body, length)| Message {
        start,
        content_type: Cow::Borrowed(header(headers, "content-type").unwrap_or(b"text/plain")),
        body,
        length: end + length,
    }))
}

fn header<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    let found = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name));
    found.map(|header| header.value)
}

fn declared_length(headers: &[Header<'_>]) -> Result<Option<usize>> {
    let Some(text) = header(headers, "content-length") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(text)?;
    Ok(Some(text.trim().parse().context("a length is no number")?))
}

/// A chunked body and its length on the wire, once all of it has come. Trailers are not expected.
fn chunked(bytes: &[u8]) -> Result<Option<(Cow<'_, [u8]>, usize)>> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Ok(Status::Complete((line, size))) = httparse::parse_chunk_size(rest) else {
            return Ok(None);
        };
        let size = usize::try_from(size)?;
        let Some(chunk) = rest.get(line..line + size + 2) else {
            return Ok(None);
        };
        let Some(data) = chunk.strip_suffix(b"\r\n") else {
            bail!("a chunk does not end where it should");
        };
        body.extend_from_slice(data);
        at += line + size + 2;
        if size == 0 {
            return Ok(Some((Cow::Owned(body), at)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_whole_or_not_at_all() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..text.len() {
            assert!(response(&text[..end]).unwrap().is_none());
        }
        let whole = response(text).unwrap().unwrap();
        assert_eq!(
            (whole.start, &*whole.body, whole.length),
            (200, &b"abc"[..], text.len())
        );
        assert_eq!(&*whole.content_type, b"a/b");
    }

    #[test]
    fn chunks_are_put_together() {
        let text =
            b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        for end in 0..text.len() {
            assert!(request(&text[..end]).unwrap().is_none());
        }
        let whole = request(text).unwrap().unwrap();
        assert_eq!(
            (whole.start, &*whole.body, whole.length),
            ("/x", &b"abc"[..], text.len())
        );
    }

    #[test]
    fn a_missing_length_is_none_where_there_can_be_no_body() {
        assert_eq!(
            response(b"HTTP/1.1 204 No Content\r\n\r\n")
                .unwrap()
                .unwrap()
                .length,
            27
        );
        assert!(response(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(
            request(b"GET / HTTP/1.1\r\n\r\n")
                .unwrap()
                .unwrap()
                .body
                .is_empty()
        );
    }
}
