//! Single gRPC calls.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use outrigger_proto::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A call that was not answered with OK.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: i32,
    pub message: String,
    /// Of `google.rpc.Status`: type and value.
    pub details: Vec<(String, Vec<u8>)>,
}

impl Refusal {
    /// Whether there is a detail of this type, such as `RetryInfo`.
    pub fn has(&self, name: &str) -> bool {
        self.details
            .iter()
            .any(|(url, _)| url.ends_with(&format!("/google.rpc.{name}")))
    }
}

/// Calls a method on a connection of its own.
///
/// # Errors
/// What the status says.
///
/// # Panics
/// When there is no answer that is one.
pub async fn call<R: Message + Default>(
    port: u16,
    method: &str,
    request: &impl Message,
    headers: &[(&str, &str)],
) -> Result<R, Refusal> {
    let talk = talk(port, method, request.encode_to_vec(), headers);
    let (body, status) = tokio::time::timeout(Duration::from_secs(60), talk)
        .await
        .unwrap_or_else(|_| panic!("no answer to {method}"))
        .unwrap_or_else(|error| panic!("{method}: {error}"));
    let text = |name| status.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(R::decode(body.slice(5..)).expect("the answer can be read")),
        code => Err(Refusal {
            code: code.and_then(|code| code.parse().ok()).unwrap_or(-1),
            message: text("grpc-message").unwrap_or_default().to_owned(),
            details: text("grpc-status-details-bin")
                .map(details)
                .unwrap_or_default(),
        }),
    }
}

async fn talk(
    port: u16,
    method: &str,
    message: Vec<u8>,
    headers: &[(&str, &str)],
) -> Result<(Bytes, HeaderMap), h2::Error> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await;
    let stream = stream.unwrap_or_else(|error| panic!("port {port}: {error}"));
    let (sender, connection) = h2::client::handshake(stream).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.ok() });
    let mut request = http::Request::post(format!("http://127.0.0.1:{port}{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("method and headers are valid");
    let (response, mut body) = sender.ready().await?.send_request(request, false)?;
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    body.send_data(frame.freeze(), true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut read = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        read.extend_from_slice(&piece);
    }
    // An answer without a message has its status in the head.
    let status = body.trailers().await?.unwrap_or(head.headers);
    Ok((read.freeze(), status))
}

fn details(text: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = STANDARD_NO_PAD
        .decode(text)
        .or_else(|_| STANDARD.decode(text));
    let bytes = bytes.expect("details are base64");
    let status = outrigger_proto::google::rpc::Status::decode(bytes.as_slice());
    let status = status.expect("details are a status");
    status
        .details
        .into_iter()
        .map(|any| (any.type_url, any.value.to_vec()))
        .collect()
}
