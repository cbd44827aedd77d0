//! Parsing of request and response heads.

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};

use super::MAX_FIELDS;

/// How the bytes behind a head are delimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// Exactly this many.
    Length(u64),
    Chunked,
    /// Until the peer closes; responses only.
    UntilClose,
}

#[derive(Debug)]
pub(super) struct RequestHead {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub framing: Framing,
    pub keep_alive: bool,
}

#[derive(Debug)]
pub(super) struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    pub keep_alive: bool,
}

/// Why a head is refused: the status, and the words behind its standard phrase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refusal {
    pub status: u16,
    pub detail: &'static str,
}

const BAD: Refusal = Refusal {
    status: 400,
    detail: "",
};

/// Reads a request head off the front of `buffer`. `Ok(None)`: more bytes are needed.
pub(super) fn request(buffer: &mut BytesMut, limit: usize) -> Result<Option<RequestHead>, Refusal> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= limit => length,
        Ok(httparse::Status::Complete(_)) => {
            return Err(Refusal {
                status: 431,
                detail: "",
            });
        }
        Ok(httparse::Status::Partial) if buffer.len() > limit => {
            return Err(Refusal {
                status: 431,
                detail: "",
            });
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal {
                status: 431,
                detail: "",
            });
        }
        Err(httparse::Error::Version) if names_other_version(buffer) => {
            return Err(Refusal {
                status: 505,
                detail: ": unsupported protocol version",
            });
        }
        Err(_) => return Err(BAD),
    };
    let method =
        Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| BAD)?;
    let version = if parsed.version == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let base = buffer.as_ptr() as usize;
    let target = span(base, parsed.path.unwrap_or_default().as_bytes());
    let spans: Vec<(Span, Span)> = parsed
        .headers
        .iter()
        .map(|field| (span(base, field.name.as_bytes()), span(base, field.value)))
        .collect();

    let head = buffer.split_to(length).freeze();
    let headers = header_map(&head, &spans).ok_or(BAD)?;
    let uri = target_uri(&method, head.slice(target.0..target.1)).ok_or(BAD)?;
    if version == Version::HTTP_11 && !headers.contains_key(HOST) {
        return Err(Refusal {
            status: 400,
            detail: ": missing required Host header",
        });
    }
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(BAD);
    }
    let framing = match request_framing(&headers)? {
        Some(framing) => framing,
        None => Framing::Length(0),
    };
    let keep_alive = wants_keep_alive(version, &headers);
    Ok(Some(RequestHead {
        method,
        uri,
        version,
        headers,
        framing,
        keep_alive,
    }))
}

/// Reads a response head off the front of `buffer`. `Ok(None)`: more bytes are needed.
pub(super) fn response(
    buffer: &mut BytesMut,
    limit: usize,
    to: &Method,
) -> Result<Option<ResponseHead>, &'static str> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let length = match httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        buffer,
        &mut fields,
    ) {
        Ok(httparse::Status::Complete(length)) if length <= limit => length,
        Ok(httparse::Status::Partial) if buffer.len() <= limit => return Ok(None),
        Ok(_) => return Err("server response headers exceeded the limit; aborted"),
        Err(_) => return Err("malformed HTTP response"),
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default())
        .map_err(|_| "malformed HTTP status code")?;
    let version = if parsed.version == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let base = buffer.as_ptr() as usize;
    let spans: Vec<(Span, Span)> = parsed
        .headers
        .iter()
        .map(|field| (span(base, field.name.as_bytes()), span(base, field.value)))
        .collect();
    let head = buffer.split_to(length).freeze();
    let headers = header_map(&head, &spans).ok_or("malformed MIME header")?;
    let bodiless =
        *to == Method::HEAD || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    let framing = if bodiless {
        Framing::Length(0)
    } else if headers
        .get_all(TRANSFER_ENCODING)
        .iter()
        .any(|value| has_token(value, b"chunked"))
    {
        Framing::Chunked
    } else {
        match single_length(&headers) {
            Some(Ok(length)) => Framing::Length(length),
            Some(Err(())) => return Err("bad Content-Length"),
            None => Framing::UntilClose,
        }
    };
    let keep_alive = wants_keep_alive(version, &headers) && framing != Framing::UntilClose;
    Ok(Some(ResponseHead {
        status,
        headers,
        framing,
        keep_alive,
    }))
}

type Span = (usize, usize);

/// Where a slice lies inside the buffer that it was cut from.
fn span(base: usize, slice: &[u8]) -> Span {
    let start = slice.as_ptr() as usize - base;
    (start, start + slice.len())
}

fn header_map(head: &Bytes, spans: &[(Span, Span)]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(spans.len());
    for ((name_start, name_end), (value_start, value_end)) in spans {
        let name = HeaderName::from_bytes(head.get(*name_start..*name_end)?).ok()?;
        let value = if value_start >= value_end {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(head.slice(*value_start..*value_end)).ok()?
        };
        headers.append(name, value);
    }
    Some(headers)
}

/// The request target as a URI: origin form, absolute form, `*`, or for CONNECT an authority.
/// Whether every percent sign of a path begins an escape.
fn escapes_are_valid(path: &str) -> bool {
    let mut escapes = path.split('%').skip(1);
    escapes.all(|rest| {
        rest.as_bytes()
            .first_chunk::<2>()
            .is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
    })
}

fn target_uri(method: &Method, target: Bytes) -> Option<Uri> {
    if method == Method::CONNECT && !target.starts_with(b"/") {
        return Some(Uri::from_static("/"));
    }
    let uri = Uri::from_maybe_shared(target).ok()?;
    escapes_are_valid(uri.path()).then_some(uri)
}

fn names_other_version(buffer: &[u8]) -> bool {
    let line = buffer
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

fn request_framing(headers: &HeaderMap) -> Result<Option<Framing>, Refusal> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        // Dapr's server takes exactly this one coding, once; with it a length does not count.
        return if encodings.next().is_none()
            && encoding
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked")
        {
            Ok(Some(Framing::Chunked))
        } else {
            Err(Refusal {
                status: 501,
                detail: ": unsupported transfer encoding",
            })
        };
    }
    match single_length(headers) {
        None => Ok(None),
        Some(Ok(length)) => Ok(Some(Framing::Length(length))),
        Some(Err(())) => Err(BAD),
    }
}

/// The one length that all `Content-Length` fields agree on.
fn single_length(headers: &HeaderMap) -> Option<Result<u64, ()>> {
    let mut seen = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let text = value.as_bytes().trim_ascii();
        let number = std::str::from_utf8(text)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        let Some(length) = number.and_then(|text| text.parse::<u64>().ok()) else {
            return Some(Err(()));
        };
        if seen.is_some_and(|earlier| earlier != length) {
            return Some(Err(()));
        }
        seen = Some(length);
    }
    seen.map(Ok)
}

fn wants_keep_alive(version: Version, headers: &HeaderMap) -> bool {
    let has = |token| {
        headers
            .get_all(CONNECTION)
            .iter()
            .any(|value| has_token(value, token))
    };
    if version == Version::HTTP_10 {
        has(b"keep-alive")
    } else {
        !has(b"close")
    }
}

/// Whether a comma list holds a token.
pub(super) fn has_token(value: &HeaderValue, token: &[u8]) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<RequestHead>, Refusal> {
        request(&mut BytesMut::from(text), 8192)
    }

    #[test]
    fn a_request_is_taken_off_the_buffer() {
        let mut buffer =
            BytesMut::from("POST /a/b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET");
        let head = request(&mut buffer, 8192).unwrap().unwrap();
        assert_eq!(
            (head.method, head.uri.path(), head.uri.query()),
            (Method::POST, "/a/b", Some("c=d"))
        );
        assert_eq!(head.framing, Framing::Length(3));
        assert_eq!(&buffer[..], b"abcGET");
    }

    #[test]
    fn refusals_carry_the_words_of_the_reference() {
        let refused = |text: &str| parse(text).unwrap_err();
        assert_eq!(
            refused("GET / HTTP/1.1\r\n\r\n"),
            Refusal {
                status: 400,
                detail: ": missing required Host header"
            }
        );
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), BAD);
        assert_eq!(refused("GET /a%2 HTTP/1.1\r\nHost: x\r\n\r\n"), BAD);
        assert_eq!(refused("GET /a%zz HTTP/1.1\r\nHost: x\r\n\r\n"), BAD);
        assert_eq!(refused("GET / HTTP/2.0\r\nHost: x\r\n\r\n").status, 505);
        assert_eq!(refused("nonsense\r\n\r\n"), BAD);
        assert_eq!(refused("GET  / HTTP/1.1\r\nHost: x\r\n\r\n"), BAD);
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            BAD
        );
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n").status,
            501
        );
        assert_eq!(
            refused("GET / HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n"),
            BAD
        );
        assert_eq!(
            request(&mut BytesMut::from(&b"x".repeat(9000)[..]), 8192)
                .unwrap_err()
                .status,
            431
        );
    }

    #[test]
    fn odd_but_legal_heads_are_taken() {
        assert!(
            parse("GET / HTTP/1.0\r\n\r\n")
                .unwrap()
                .is_some_and(|head| !head.keep_alive)
        );
        assert!(
            parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
                .unwrap()
                .is_some_and(|head| head.keep_alive)
        );
        assert_eq!(
            parse("GET http://other/p HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap()
                .unwrap()
                .uri
                .path(),
            "/p"
        );
        assert_eq!(
            parse("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap()
                .unwrap()
                .uri
                .path(),
            "/"
        );
        assert!(parse("GET / HTTP/1.1\nHost: x\n\n").unwrap().is_some());
        let both =
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse(both).unwrap().unwrap().framing, Framing::Chunked);
        assert!(parse("GET / HTTP/1.1\r\nHo").unwrap().is_none());
    }

    #[test]
    fn responses_tell_how_their_body_ends() {
        let framing = |text: &str, to: Method| {
            response(&mut BytesMut::from(text), 8192, &to)
                .unwrap()
                .unwrap()
                .framing
        };
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::GET),
            Framing::Length(5)
        );
        assert_eq!(
            framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::HEAD),
            Framing::Length(0)
        );
        assert_eq!(
            framing("HTTP/1.1 204 No Content\r\n\r\n", Method::GET),
            Framing::Length(0)
        );
        assert_eq!(
            framing(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                Method::GET
            ),
            Framing::Chunked
        );
        assert_eq!(
            framing("HTTP/1.0 200 OK\r\n\r\n", Method::GET),
            Framing::UntilClose
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            request(&mut BytesMut::from(&bytes[..]), 300).ok();
            response(&mut BytesMut::from(&bytes[..]), 300, &Method::GET).ok();
        }

        #[test]
        fn a_head_is_understood_however_it_is_cut(cut in 1_usize..60) {
            let text = b"GET /x HTTP/1.1\r\nHost: example\r\nX-A: 1\r\nX-B: 2\r\n\r\n";
            let cut = cut.min(text.len() - 1);
            let mut buffer = BytesMut::from(&text[..cut]);
            prop_assert!(request(&mut buffer, 8192).unwrap().is_none());
            buffer.extend_from_slice(&text[cut..]);
            prop_assert!(request(&mut buffer, 8192).unwrap().is_some());
        }
    }
}
