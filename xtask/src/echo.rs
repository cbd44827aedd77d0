//! The app behind the sidecar: it answers every request with the request's own body.
//!
//! Owns: the hidden command `echo http|grpc PORT`; one thread, so that it takes as little of the machine as it can.
//! Never: knows what is measured. Questions that sidecars ask their apps (`/dapr/config` and the like) it answers as an
//! app that has nothing to say.
//! Start at [`command`].

use anyhow::{Context, Result};
use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::http1;
use crate::words::Words;

const UNIMPLEMENTED: &str = "12";

pub(crate) fn command(mut words: Words) -> Result<()> {
    let protocol = words.next().context("`echo` needs a protocol")?;
    let port = words.next().context("`echo` needs a port")?.parse()?;
    words.finish()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(protocol == "grpc", port))
}

async fn serve(grpc: bool, port: u16) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // How a client leaves is no concern of an echo.
        connections.spawn(async move {
            if grpc {
                serve_grpc(stream).await.ok();
            } else {
                serve_http(stream).await.ok();
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_http(mut stream: TcpStream) -> Result<()> {
    let mut received = BytesMut::with_capacity(16 * 1024);
    let mut reply = Vec::with_capacity(16 * 1024);
    while stream.read_buf(&mut received).await? > 0 {
        while let Some(request) = http1::request(&received)? {
            write_reply(&mut reply, &request)?;
            let length = request.length;
            received.advance(length);
        }
        stream.write_all(&reply).await?;
        reply.clear();
        received.reserve(16 * 1024);
    }
    Ok(())
}

fn write_reply(reply: &mut Vec<u8>, request: &http1::Message<'_, &str>) -> Result<()> {
    use std::io::Write;
    if request.start.starts_with("/dapr/") {
        reply.extend_from_slice(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        return Ok(());
    }
    reply.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: ");
    reply.extend_from_slice(&request.content_type);
    write!(reply, "\r\nContent-Length: {}\r\n\r\n", request.body.len())?;
    reply.extend_from_slice(&request.body);
    Ok(())
}

async fn serve_grpc(stream: TcpStream) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    let mut calls = JoinSet::new();
    while let Some(call) = connection.accept().await {
        let (request, reply) = call?;
        calls.spawn(async move {
            answer(request, reply).await.ok();
        });
        while calls.try_join_next().is_some() {}
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut reply: SendResponse<Bytes>) -> Result<()> {
    let head = Response::builder().header("content-type", "application/grpc");
    if request.uri().path().starts_with("/dapr.") {
        reply.send_response(head.header("grpc-status", UNIMPLEMENTED).body(())?, true)?;
        return Ok(());
    }
    let mut incoming = request.into_body();
    let mut outgoing = reply.send_response(head.body(())?, false)?;
    while let Some(frame) = incoming.data().await {
        let frame = frame?;
        incoming.flow_control().release_capacity(frame.len())?;
        outgoing.send_data(frame, false)?;
    }
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    Ok(outgoing.send_trailers(trailers)?)
}
