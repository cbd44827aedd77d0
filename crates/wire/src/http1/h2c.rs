//! `Upgrade: h2c`: a request that begins as HTTP/1.1 and is answered as stream 1 of HTTP/2.
//!
//! The HTTP/2 library knows connections that begin with the client's preface only. So the upgraded connection is handed
//! to it as if the client had opened stream 1 itself: preface and first SETTINGS as they came, then the request written
//! anew as frames, then whatever the client goes on to send.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request};
use outrigger_core::Body;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::server::asks_upgrade;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
/// The largest payload of a frame before anything else was agreed on.
const MAX_FRAME: usize = 16_384;

/// Whether a request asks to go on as HTTP/2 and says so correctly.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let settings = headers.get("http2-settings").map(|value| value.as_bytes());
    let readable = settings.is_some_and(|text| {
        URL_SAFE_NO_PAD
            .decode(text)
            .or_else(|_| URL_SAFE.decode(text))
            .is_ok_and(|bytes| bytes.len() % 6 == 0)
    });
    readable && asks_upgrade(headers, b"h2c")
}

/// Waits for the client's preface and first SETTINGS; returns what the HTTP/2 library is to read first.
pub(super) async fn opening(
    connection: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    request: Request<Body>,
) -> io::Result<Bytes> {
    fill(connection, buffer, PREFACE.len() + FRAME_HEAD).await?;
    if !buffer.starts_with(PREFACE) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "no HTTP/2 preface behind the upgrade",
        ));
    }
    let head = buffer
        .get(PREFACE.len()..PREFACE.len() + 3)
        .unwrap_or_default();
    let length = head
        .iter()
        .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    let settings = PREFACE.len() + FRAME_HEAD + length.min(MAX_FRAME);
    fill(connection, buffer, settings).await?;

    let mut first = buffer.split_to(settings);
    let (parts, body) = request.into_parts();
    let Body::Bytes(body) = body else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let block = header_block(&parts);
    // END_HEADERS, and END_STREAM where no body follows.
    let mut blocks = block.chunks(MAX_FRAME).peekable();
    let mut kind = 1;
    while let Some(piece) = blocks.next() {
        let last = if blocks.peek().is_none() { 4 } else { 0 };
        frame(
            &mut first,
            kind,
            last | u8::from(kind == 1 && body.is_empty()),
            piece,
        );
        kind = 9;
    }
    let mut pieces = body.chunks(MAX_FRAME).peekable();
    while let Some(piece) = pieces.next() {
        frame(&mut first, 0, u8::from(pieces.peek().is_none()), piece);
    }
    first.extend_from_slice(&buffer.split());
    Ok(first.freeze())
}

async fn fill(
    connection: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    length: usize,
) -> io::Result<()> {
    while buffer.len() < length {
        buffer.reserve(1024);
        if connection.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

fn frame(out: &mut BytesMut, kind: u8, flags: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len())
        .unwrap_or_default()
        .to_be_bytes();
    out.put_slice(length.get(1..).unwrap_or_default());
    out.put_slice(&[kind, flags, 0, 0, 0, 1]);
    out.put_slice(payload);
}

/// The request's head as HPACK literals.
fn header_block(parts: &http::request::Parts) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    literal(&mut out, b":method", parts.method.as_str().as_bytes());
    literal(&mut out, b":scheme", b"http");
    literal(&mut out, b":path", target.as_bytes());
    if let Some(host) = parts.headers.get(HOST) {
        literal(&mut out, b":authority", host.as_bytes());
    }
    for (name, value) in &parts.headers {
        let dropped = [CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE].contains(name)
            || matches!(
                name.as_str(),
                "http2-settings" | "keep-alive" | "proxy-connection"
            );
        if !dropped {
            literal(&mut out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out
}

/// A field that is not to be indexed, its name and value as plain bytes.
fn literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for text in [name, value] {
        let mut length = text.len();
        if length < 127 {
            out.push(length as u8);
        } else {
            out.push(127);
            length -= 127;
            while length >= 128 {
                out.push((length % 128) as u8 | 128);
                length /= 128;
            }
            out.push(length as u8);
        }
        out.extend_from_slice(text);
    }
}
