//! The messages of `CallLocalStream`, written and read by hand.
//!
//! They carry every header of every call between apps, so maps and intermediate strings would be most of the work. What
//! is read shares the buffer that it came in. `CallLocal`, which only old sidecars use, has the generated types.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_blocks::invoke::{Call, Reply, ReplyStatus, Surface};
use outrigger_core::error::GrpcCode;
use outrigger_proto::{Message as _, google};

/// Room in front of a message for its length and the frame's prefix.
const ROOM: usize = 16;
/// Of a gRPC message.
pub(super) const FRAME_PREFIX: usize = 5;

// Field numbers and wire type 2, as tags.
const FIRST: u8 = 1 << 3 | 2;
const SECOND: u8 = 2 << 3 | 2;
const THIRD: u8 = 3 << 3 | 2;
const FOURTH: u8 = 4 << 3 | 2;

/// A piece of a body with its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    pub data: Bytes,
    pub number: u64,
}

/// The first message of a request, or a later one without `head`.
#[derive(Debug, Default)]
pub struct Request {
    pub head: Option<RequestHead>,
    pub piece: Option<Piece>,
    /// Metadata or a message are there, if not enough for a head.
    pub has_fields: bool,
}

#[derive(Debug)]
pub struct RequestHead {
    pub method: String,
    pub verb: Option<Method>,
    pub lacks_extension: bool,
    pub query: String,
    pub content_type: Option<String>,
    pub type_url: String,
    pub fields: HeaderMap,
    pub authority: Option<String>,
    pub surface: Surface,
    /// From the caller's `Content-Length`.
    pub length: Option<u64>,
}

/// The first message of a reply, or a later one without `head`.
#[derive(Debug, Default)]
pub struct Response {
    pub head: Option<ResponseHead>,
    pub piece: Option<Piece>,
    pub has_fields: bool,
}

#[derive(Debug)]
pub struct ResponseHead {
    pub status: ReplyStatus,
    pub fields: HeaderMap,
    pub trailers: HeaderMap,
    pub content_type: Option<String>,
    pub type_url: String,
}

/// These bytes are no such message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// A field of a call that the sidecar puts in.
#[derive(Clone, Debug)]
pub struct Extra<'a> {
    pub name: HeaderName,
    pub value: &'a [u8],
    /// Behind what the caller sent under this name; otherwise in its place.
    pub append: bool,
}

/// The framed first message of a request. `length` is that of its body.
pub fn request(
    call: &Call,
    length: Option<u64>,
    extra: &[Extra<'_>],
    piece: Option<&[u8]>,
) -> Bytes {
    let mut out = BytesMut::with_capacity(ROOM + 512 + piece.map_or(0, <[u8]>::len));
    out.put_bytes(0, ROOM);
    out.put_slice(&[1 << 3, 1]);
    for Extra {
        name,
        value,
        append,
    } in extra
    {
        let mut values: Vec<&[u8]> = Vec::new();
        if *append {
            values.extend(
                call.fields
                    .get_all(name)
                    .iter()
                    .map(HeaderValue::as_bytes)
                    .filter(|value| std::str::from_utf8(value).is_ok()),
            );
        }
        values.push(value);
        entry(
            &mut out,
            SECOND,
            name.as_str().as_bytes(),
            Case::AsIs,
            &values,
        );
    }
    if let Some(authority) = &call.authority {
        entry(
            &mut out,
            SECOND,
            b":authority",
            Case::AsIs,
            &[authority.as_bytes()],
        );
    }
    let case = if call.surface == Surface::Http {
        Case::Title
    } else {
        Case::AsIs
    };
    fields(&mut out, SECOND, &call.fields, case, |name| {
        *name == HOST || *name == CONTENT_LENGTH || extra.iter().any(|extra| extra.name == *name)
    });
    if call.surface == Surface::Grpc {
        if !call.fields.contains_key(CONTENT_TYPE) {
            entry(
                &mut out,
                SECOND,
                b"content-type",
                Case::AsIs,
                &[b"application/grpc"],
            );
        }
    } else if let Some(length) = length.filter(|length| {
        *length > 0 || matches!(call.verb, Some(Method::POST | Method::PUT | Method::PATCH))
    }) {
        let mut number = itoa::Buffer::new();
        entry(
            &mut out,
            SECOND,
            b"Content-Length",
            Case::AsIs,
            &[number.format(length).as_bytes()],
        );
    }

    // The message: method, data (its type only), content type, HTTP extension.
    let kind = call.content_type.as_deref().unwrap_or_default();
    let verb = verb_number(call.verb.as_ref()).unsigned_abs();
    let extension = if call.lacks_extension {
        None
    } else {
        Some(if verb > 0 { 2 } else { 0 } + text_size(&call.query))
    };
    let data = text_size(&call.type_url);
    let length = text_size(&call.method)
        + 1
        + varint_size(data)
        + data
        + text_size(kind)
        + extension.map_or(0, |size| 1 + varint_size(size) + size);
    tag(&mut out, THIRD, length);
    text(&mut out, FIRST, &call.method);
    tag(&mut out, SECOND, data);
    text(&mut out, FIRST, &call.type_url);
    text(&mut out, THIRD, kind);
    if let Some(size) = extension {
        tag(&mut out, FOURTH, size);
        if verb > 0 {
            out.put_slice(&[1 << 3, verb as u8]);
        }
        text(&mut out, SECOND, &call.query);
    }
    finish(out, piece)
}

/// The framed first message of a reply.
pub fn response(reply: &Reply, piece: Option<&[u8]>) -> Bytes {
    let mut out = BytesMut::with_capacity(ROOM + 256 + piece.map_or(0, <[u8]>::len));
    out.put_bytes(0, ROOM);
    let code = u64::from(reply.status.number());
    let (message, details) = match &reply.status {
        ReplyStatus::Http(_) => ("", Vec::new()),
        ReplyStatus::Grpc {
            message, details, ..
        } => (message.as_str(), packed_details(details.as_ref())),
    };
    let sized = |size: usize| 1 + varint_size(size) + size;
    let length = if code > 0 {
        1 + varint_size_of(code)
    } else {
        0
    } + text_size(message)
        + details
            .iter()
            .map(|detail| sized(detail.len()))
            .sum::<usize>();
    tag(&mut out, FIRST, length);
    if code > 0 {
        out.put_u8(1 << 3);
        varint(&mut out, code);
    }
    text(&mut out, SECOND, message);
    for detail in &details {
        tag(&mut out, THIRD, detail.len());
        out.put_slice(detail);
    }
    let case = if matches!(reply.status, ReplyStatus::Http(_)) {
        Case::Title
    } else {
        Case::AsIs
    };
    fields(&mut out, SECOND, &reply.fields, case, |_| false);
    fields(&mut out, THIRD, &reply.trailers, case, |_| false);
    let kind = reply.content_type.as_deref().unwrap_or_default();
    let data = text_size(&reply.type_url);
    tag(&mut out, FOURTH, sized(data) + text_size(kind));
    tag(&mut out, FIRST, data);
    text(&mut out, FIRST, &reply.type_url);
    text(&mut out, SECOND, kind);
    finish(out, piece)
}

/// A framed message with a piece of a body and nothing else.
pub fn piece(data: &[u8], number: u64) -> Bytes {
    let size = piece_size(data.len(), number);
    let total = 1 + varint_size(size) + size;
    let mut out = BytesMut::with_capacity(FRAME_PREFIX + total);
    out.put_u8(0);
    out.put_u32(u32::try_from(total).unwrap_or(u32::MAX));
    put_piece(&mut out, data, number);
    out.freeze()
}

/// Puts the length of what was written, and the frame's prefix, into the room in front of it, and a piece behind it.
fn finish(mut out: BytesMut, piece: Option<&[u8]>) -> Bytes {
    let inner = out.len() - ROOM;
    if let Some(data) = piece {
        put_piece(&mut out, data, 0);
    }
    let tag_size = 1 + varint_size(inner);
    let total = tag_size + out.len() - ROOM;
    let start = ROOM - tag_size - FRAME_PREFIX;
    let mut front = BytesMut::with_capacity(ROOM);
    front.put_u8(0);
    front.put_u32(u32::try_from(total).unwrap_or(u32::MAX));
    tag(&mut front, FIRST, inner);
    for (to, from) in out.iter_mut().skip(start).zip(front.iter()) {
        *to = *from;
    }
    out.freeze().slice(start..)
}

fn piece_size(length: usize, number: u64) -> usize {
    let data = if length == 0 {
        0
    } else {
        1 + varint_size(length) + length
    };
    data + if number == 0 {
        0
    } else {
        1 + varint_size_of(number)
    }
}

fn put_piece(out: &mut BytesMut, data: &[u8], number: u64) {
    tag(out, SECOND, piece_size(data.len(), number));
    if !data.is_empty() {
        tag(out, FIRST, data.len());
        out.put_slice(data);
    }
    if number > 0 {
        out.put_u8(2 << 3);
        varint(out, number);
    }
}

#[derive(Clone, Copy)]
enum Case {
    AsIs,
    /// As Go's HTTP writes names.
    Title,
}

/// Writes every field as an entry of a `map<string, ListStringValue>`.
fn fields(
    out: &mut BytesMut,
    field: u8,
    from: &HeaderMap,
    case: Case,
    left_out: impl Fn(&HeaderName) -> bool,
) {
    let mut rest = from.iter().filter(|(name, _)| !left_out(name)).peekable();
    while let Some((name, value)) = rest.next() {
        // Values of one name follow each other.
        if rest.peek().is_none_or(|(next, _)| *next != name) {
            with_text(name, value, |value| {
                entry(out, field, name.as_str().as_bytes(), case, &[value])
            });
            continue;
        }
        let mut values = vec![owned_text(name, value)];
        while let Some((_, value)) = rest.next_if(|(next, _)| *next == name) {
            values.push(owned_text(name, value));
        }
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        entry(out, field, name.as_str().as_bytes(), case, &values);
    }
}

/// A value as the text that protobuf demands; binary ones in the padded form that Go reads.
fn with_text(name: &HeaderName, value: &HeaderValue, with: impl FnOnce(&[u8])) {
    if name.as_str().ends_with("-bin") || std::str::from_utf8(value.as_bytes()).is_err() {
        with(&owned_text(name, value));
    } else {
        with(value.as_bytes());
    }
}

fn owned_text(name: &HeaderName, value: &HeaderValue) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(value.as_bytes())
        .into_owned()
        .into_bytes();
    if name.as_str().ends_with("-bin") {
        while !text.len().is_multiple_of(4) {
            text.push(b'=');
        }
    }
    text
}

fn entry(out: &mut BytesMut, field: u8, name: &[u8], case: Case, values: &[&[u8]]) {
    let sized = |size: usize| 1 + varint_size(size) + size;
    let list: usize = values.iter().map(|value| sized(value.len())).sum();
    tag(out, field, sized(name.len()) + sized(list));
    tag(out, FIRST, name.len());
    match case {
        Case::AsIs => out.put_slice(name),
        Case::Title => {
            let mut start = true;
            for byte in name {
                out.put_u8(if start {
                    byte.to_ascii_uppercase()
                } else {
                    *byte
                });
                start = *byte == b'-';
            }
        }
    }
    tag(out, SECOND, list);
    for value in values {
        tag(out, FIRST, value.len());
        out.put_slice(value);
    }
}

fn text_size(text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        1 + varint_size(text.len()) + text.len()
    }
}

fn text(out: &mut BytesMut, field: u8, text: &str) {
    if !text.is_empty() {
        tag(out, field, text.len());
        out.put_slice(text.as_bytes());
    }
}

fn tag(out: &mut BytesMut, field: u8, length: usize) {
    out.put_u8(field);
    varint(out, length as u64);
}

fn varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8((number as u8) | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn varint_size(number: usize) -> usize {
    varint_size_of(number as u64)
}

fn varint_size_of(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn packed_details(details: Option<&Bytes>) -> Vec<Vec<u8>> {
    let status = details.and_then(|bytes| google::rpc::Status::decode(bytes.clone()).ok());
    status
        .map(|status| {
            status
                .details
                .iter()
                .map(|detail| detail.encode_to_vec())
                .collect()
        })
        .unwrap_or_default()
}

/// Reads a message of a request stream.
///
/// # Errors
/// When it is none.
pub fn read_request(message: &Bytes) -> Result<Request, Malformed> {
    let mut request = Request::default();
    let mut rest = Reader::new(message);
    while let Some((number, content)) = rest.field()? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => read_internal_request(&bytes, &mut request)?,
            (2, Content::Bytes(bytes)) => request.piece = Some(read_piece(&bytes)?),
            _ => {}
        }
    }
    Ok(request)
}

fn read_internal_request(bytes: &Bytes, request: &mut Request) -> Result<(), Malformed> {
    let mut map = HeaderMap::with_capacity(16);
    let (mut has_metadata, mut message) = (false, None);
    let mut authority = None;
    let mut rest = Reader::new(bytes);
    while let Some((number, content)) = rest.field()? {
        match (number, content) {
            (2, Content::Bytes(entry)) => {
                has_metadata = true;
                read_entry(&entry, &mut map, &mut authority)?;
            }
            (3, Content::Bytes(bytes)) => message = Some(bytes),
            _ => {}
        }
    }
    request.has_fields = has_metadata || message.is_some();
    let Some(message) = message.filter(|_| has_metadata) else {
        return Ok(());
    };

    let kind = map
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let surface = if kind.starts_with(b"application/grpc") {
        Surface::Grpc
    } else {
        Surface::Http
    };
    let length = map
        .remove(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let mut head = RequestHead {
        method: String::new(),
        verb: None,
        lacks_extension: true,
        query: String::new(),
        content_type: None,
        type_url: String::new(),
        fields: map,
        authority,
        surface,
        length,
    };
    let mut rest = Reader::new(&message);
    while let Some((number, content)) = rest.field()? {
        let Content::Bytes(bytes) = content else {
            continue;
        };
        match number {
            1 => head.method = owned(&bytes)?,
            2 => head.type_url = first_text(&bytes)?,
            3 => head.content_type = Some(owned(&bytes)?).filter(|kind| !kind.is_empty()),
            4 => {
                head.lacks_extension = false;
                let mut rest = Reader::new(&bytes);
                while let Some((number, content)) = rest.field()? {
                    match (number, content) {
                        (1, Content::Number(number)) => head.verb = verb_of(number),
                        (2, Content::Bytes(bytes)) => head.query = owned(&bytes)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    request.head = Some(head);
    Ok(())
}

/// Reads a message of a reply stream.
///
/// # Errors
/// When it is none.
pub fn read_response(message: &Bytes) -> Result<Response, Malformed> {
    let mut response = Response::default();
    let mut rest = Reader::new(message);
    while let Some((number, content)) = rest.field()? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => read_internal_response(&bytes, &mut response)?,
            (2, Content::Bytes(bytes)) => response.piece = Some(read_piece(&bytes)?),
            _ => {}
        }
    }
    Ok(response)
}

fn read_internal_response(bytes: &Bytes, response: &mut Response) -> Result<(), Malformed> {
    let (mut map, mut trailers) = (HeaderMap::with_capacity(8), HeaderMap::new());
    let (mut status, mut content_type, mut type_url) = (None, None, String::new());
    let mut ignored = None;
    let mut rest = Reader::new(bytes);
    while let Some((number, content)) = rest.field()? {
        let Content::Bytes(bytes) = content else {
            continue;
        };
        response.has_fields = true;
        match number {
            1 => status = Some(read_status(&bytes)?),
            2 => read_entry(&bytes, &mut map, &mut ignored)?,
            3 => read_entry(&bytes, &mut trailers, &mut ignored)?,
            4 => {
                let mut rest = Reader::new(&bytes);
                while let Some((number, content)) = rest.field()? {
                    match (number, content) {
                        (1, Content::Bytes(bytes)) => type_url = first_text(&bytes)?,
                        (2, Content::Bytes(bytes)) => {
                            content_type = Some(owned(&bytes)?).filter(|kind| !kind.is_empty())
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    response.head = status.map(|status| ResponseHead {
        status,
        fields: map,
        trailers,
        content_type,
        type_url,
    });
    Ok(())
}

/// Codes from 100 on are those of HTTP.
fn read_status(bytes: &Bytes) -> Result<ReplyStatus, Malformed> {
    let (mut code, mut message) = (0_u16, String::new());
    let mut details = Vec::new();
    let mut rest = Reader::new(bytes);
    while let Some((number, content)) = rest.field()? {
        match (number, content) {
            (1, Content::Number(number)) => code = u16::try_from(number).map_err(|_| Malformed)?,
            (2, Content::Bytes(bytes)) => message = owned(&bytes)?,
            (3, Content::Bytes(bytes)) => {
                details.push(google::protobuf::Any::decode(bytes).map_err(|_| Malformed)?)
            }
            _ => {}
        }
    }
    if code >= 100 {
        return Ok(ReplyStatus::Http(code));
    }
    let packed = (!details.is_empty()).then(|| {
        google::rpc::Status {
            code: i32::from(code),
            message: message.clone(),
            details,
        }
        .encode_to_vec()
        .into()
    });
    Ok(ReplyStatus::Grpc {
        code: GrpcCode::from_number(u32::from(code)),
        message,
        details: packed,
    })
}

fn read_piece(bytes: &Bytes) -> Result<Piece, Malformed> {
    let mut piece = Piece {
        data: Bytes::new(),
        number: 0,
    };
    let mut rest = Reader::new(bytes);
    while let Some((number, content)) = rest.field()? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => piece.data = bytes,
            (2, Content::Number(number)) => piece.number = number,
            _ => {}
        }
    }
    Ok(piece)
}

fn read_entry(
    bytes: &Bytes,
    into: &mut HeaderMap,
    authority: &mut Option<String>,
) -> Result<(), Malformed> {
    let (mut name, mut list) = (Bytes::new(), None);
    let mut rest = Reader::new(bytes);
    while let Some((number, content)) = rest.field()? {
        match (number, content) {
            (1, Content::Bytes(bytes)) => name = bytes,
            (2, Content::Bytes(bytes)) => list = Some(bytes),
            _ => {}
        }
    }
    let Some(list) = list else { return Ok(()) };
    let known = HeaderName::from_bytes(&name).ok();
    let mut rest = Reader::new(&list);
    while let Some((number, content)) = rest.field()? {
        let (1, Content::Bytes(value)) = (number, content) else {
            continue;
        };
        match &known {
            // What cannot be a field is left out.
            Some(name) => {
                if let Ok(value) = HeaderValue::from_maybe_shared(value) {
                    into.append(name.clone(), value);
                }
            }
            None if &name[..] == b":authority" => *authority = owned(&value).ok(),
            None => {}
        }
    }
    Ok(())
}

/// The text in field 1 of a message.
fn first_text(bytes: &Bytes) -> Result<String, Malformed> {
    let mut rest = Reader::new(bytes);
    while let Some((number, content)) = rest.field()? {
        if let (1, Content::Bytes(bytes)) = (number, content) {
            return owned(&bytes);
        }
    }
    Ok(String::new())
}

fn owned(bytes: &Bytes) -> Result<String, Malformed> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| Malformed)
}

enum Content {
    Number(u64),
    /// Shares the buffer.
    Bytes(Bytes),
    Skipped,
}

struct Reader<'a> {
    whole: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(whole: &'a Bytes) -> Self {
        Self { whole, at: 0 }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.whole.get(self.at).ok_or(Malformed)?;
            self.at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, length: u64) -> Result<std::ops::Range<usize>, Malformed> {
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.at.checked_add(length))
            .filter(|end| *end <= self.whole.len())
            .ok_or(Malformed)?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    fn field(&mut self) -> Result<Option<(u64, Content)>, Malformed> {
        if self.at == self.whole.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let content = match key & 7 {
            0 => Content::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Content::Skipped
            }
            2 => {
                let length = self.varint()?;
                let range = self.take(length)?;
                Content::Bytes(self.whole.slice(range))
            }
            5 => {
                self.take(4)?;
                Content::Skipped
            }
            _ => return Err(Malformed),
        };
        Ok(Some((key >> 3, content)))
    }
}

/// The number of a verb; none and unknown ones are 0.
pub fn verb_number(verb: Option<&Method>) -> i32 {
    match verb.map(Method::as_str) {
        Some("GET") => 1,
        Some("HEAD") => 2,
        Some("POST") => 3,
        Some("PUT") => 4,
        Some("DELETE") => 5,
        Some("CONNECT") => 6,
        Some("OPTIONS") => 7,
        Some("TRACE") => 8,
        Some("PATCH") => 9,
        _ => 0,
    }
}

/// The verb of a number.
pub fn verb_of(number: u64) -> Option<Method> {
    Some(match number {
        1 => Method::GET,
        2 => Method::HEAD,
        3 => Method::POST,
        4 => Method::PUT,
        5 => Method::DELETE,
        6 => Method::CONNECT,
        7 => Method::OPTIONS,
        8 => Method::TRACE,
        9 => Method::PATCH,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_blocks::fields::{CALLER_APP_ID, add};
    use outrigger_core::Body;
    use outrigger_proto::dapr::proto::internals::v1 as internals;
    use proptest::prelude::*;

    fn call(fields: &[(&str, &str)], body: &'static [u8]) -> Call {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            add(&mut map, name, value);
        }
        Call {
            doubled_slash: false,
            until: None,
            method: "a/b".into(),
            verb: Some(Method::POST),
            lacks_extension: false,
            query: "q=1".into(),
            fields: map,
            surface: Surface::Http,
            authority: None,
            content_type: Some("text/plain".into()),
            type_url: String::new(),
            body: Body::Bytes(Bytes::from_static(body)),
        }
    }

    fn unframed(frame: &Bytes) -> Bytes {
        let length = u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize;
        assert_eq!((frame[0], length), (0, frame.len() - 5));
        frame.slice(5..)
    }

    #[test]
    fn the_generated_types_read_what_we_write() {
        let call = call(
            &[
                ("x-a", "1"),
                ("x-a", "2"),
                ("user-agent", "u"),
                ("k-bin", "AAE"),
                ("dapr-caller-app-id", "liar"),
                ("forwarded", "for=a"),
            ],
            b"body",
        );
        let forwarded = http::header::FORWARDED;
        let bytes = unframed(&request(
            &call,
            Some(4),
            &[
                Extra {
                    name: CALLER_APP_ID,
                    value: b"me",
                    append: false,
                },
                Extra {
                    name: forwarded,
                    value: b"host=h",
                    append: true,
                },
            ],
            Some(b"body"),
        ));
        let read = internals::InternalInvokeRequestStream::decode(bytes.clone()).unwrap();
        let head = read.request.clone().unwrap();
        assert_eq!(head.ver, 1);
        assert_eq!(head.metadata["X-A"].values, ["1", "2"]);
        assert_eq!(head.metadata["K-Bin"].values, ["AAE="]);
        assert_eq!(head.metadata["Content-Length"].values, ["4"]);
        assert_eq!(head.metadata["dapr-caller-app-id"].values, ["me"]);
        assert_eq!(head.metadata["forwarded"].values, ["for=a", "host=h"]);
        assert!(
            !head.metadata.contains_key("Forwarded"),
            "a name stands once"
        );
        let message = head.message.unwrap();
        assert_eq!(
            (message.method.as_str(), message.content_type.as_str()),
            ("a/b", "text/plain")
        );
        let extension = message.http_extension.unwrap();
        assert_eq!((extension.verb, extension.querystring.as_str()), (3, "q=1"));
        assert_eq!(read.payload.unwrap().data, "body");
    }

    #[test]
    fn we_read_what_the_generated_types_write() {
        let list = |values: &[&str]| internals::ListStringValue {
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        };
        let response = internals::InternalInvokeResponseStream {
            response: Some(internals::InternalInvokeResponse {
                status: Some(internals::Status {
                    code: 404,
                    ..Default::default()
                }),
                headers: [("X-A".to_owned(), list(&["1", "2"]))].into(),
                trailers: [("t".to_owned(), list(&["x"]))].into(),
                message: Some(outrigger_proto::dapr::proto::common::v1::InvokeResponse {
                    content_type: "a/b".into(),
                    data: None,
                }),
            }),
            payload: Some(outrigger_proto::dapr::proto::common::v1::StreamPayload {
                data: Bytes::from_static(b"p"),
                seq: 7,
            }),
        };
        let read = read_response(&response.encode_to_vec().into()).unwrap();
        let head = read.head.unwrap();
        assert_eq!(head.status, ReplyStatus::Http(404));
        assert_eq!(
            head.fields.get_all("x-a").iter().collect::<Vec<_>>(),
            ["1", "2"]
        );
        assert_eq!(head.trailers["t"], "x");
        assert_eq!(head.content_type.as_deref(), Some("a/b"));
        assert_eq!(
            read.piece.unwrap(),
            Piece {
                data: Bytes::from_static(b"p"),
                number: 7
            }
        );
    }

    #[test]
    fn a_request_survives_the_way() {
        let call = call(&[("x-own", "v"), ("content-type", "ignored")], b"");
        let read = read_request(&unframed(&request(&call, call.body.length(), &[], None))).unwrap();
        let head = read.head.unwrap();
        assert_eq!(
            (head.method.as_str(), head.verb, head.query.as_str()),
            ("a/b", Some(Method::POST), "q=1")
        );
        assert_eq!(
            (head.fields["x-own"].as_bytes(), head.length, head.surface),
            (&b"v"[..], Some(0), Surface::Http)
        );
        assert_eq!(read.piece, None);
    }

    #[test]
    fn what_came_over_grpc_is_marked() {
        let mut call = call(&[("x-own", "v")], b"");
        call.surface = Surface::Grpc;
        call.authority = Some("localhost:50001".into());
        call.lacks_extension = true;
        let head = read_request(&unframed(&request(&call, call.body.length(), &[], None)))
            .unwrap()
            .head
            .unwrap();
        assert_eq!(head.surface, Surface::Grpc);
        assert_eq!(head.authority.as_deref(), Some("localhost:50001"));
        assert!(head.lacks_extension);
    }

    #[test]
    fn a_grpc_status_keeps_its_details() {
        let detail = google::protobuf::Any {
            type_url: "t".into(),
            value: Bytes::from_static(b"v"),
        };
        let packed: Bytes = google::rpc::Status {
            code: 5,
            message: "m".into(),
            details: vec![detail],
        }
        .encode_to_vec()
        .into();
        let status = ReplyStatus::Grpc {
            code: GrpcCode::NotFound,
            message: "m".into(),
            details: Some(packed),
        };
        let reply = Reply {
            pushback: outrigger_policy::Pushback::None,
            status: status.clone(),
            fields: HeaderMap::new(),
            trailers: HeaderMap::new(),
            content_type: None,
            type_url: "x".into(),
            body: Body::EMPTY,
        };
        let head = read_response(&unframed(&response(&reply, Some(b"1"))))
            .unwrap()
            .head
            .unwrap();
        assert_eq!((head.status, head.type_url.as_str()), (status, "x"));
    }

    #[test]
    fn pieces_are_numbered() {
        for (data, number) in [(&b""[..], 0), (b"x", 0), (b"abc", 300)] {
            let read = read_request(&unframed(&piece(data, number))).unwrap();
            assert_eq!(
                read.piece.unwrap(),
                Piece {
                    data: Bytes::copy_from_slice(data),
                    number
                }
            );
            assert!(!read.has_fields);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            read_request(&bytes).ok();
            read_response(&bytes).ok();
        }

        #[test]
        fn lengths_are_right_however_long(method in "[a-z]{0,300}", query in "[a-z]{0,200}", value in "[ -~]{0,300}", body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut call = call(&[("x-own", &value)], b"");
            (call.method, call.query) = (method, query);
            let bytes = unframed(&request(&call, Some(1), &[], Some(&body)));
            let read = internals::InternalInvokeRequestStream::decode(bytes).unwrap();
            prop_assert_eq!(&read.payload.unwrap().data[..], &body[..]);
            prop_assert_eq!(&read.request.unwrap().message.unwrap().method, &call.method);
        }
    }
}
