//! gRPC calls: single ones ([`call`], [`ask`]) and streams ([`Stream`]).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use outrigger_proto::Message;
use outrigger_proto::dapr::proto::common::v1::{HttpExtension, InvokeRequest};
use outrigger_proto::dapr::proto::runtime::v1::InvokeServiceRequest;
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

/// How a call ended, with everything that came.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub code: i32,
    pub message: String,
    /// The fields in front of the messages, empty where there were no messages, and those behind.
    pub head: HeaderMap,
    pub trailers: HeaderMap,
    pub messages: Vec<Bytes>,
}

impl Outcome {
    /// A field, wherever it stands.
    pub fn field(&self, name: &str) -> Option<&str> {
        let value = self.trailers.get(name).or_else(|| self.head.get(name));
        value.and_then(|value| value.to_str().ok())
    }

    /// # Panics
    /// When it is another code or message.
    #[track_caller]
    pub fn assert(&self, code: i32, message: &str) {
        assert_eq!(
            (self.code, self.message.as_str()),
            (code, message),
            "{self:?}"
        );
    }
}

/// Sends one message, which is not looked into, on a connection of its own; waits for the end.
///
/// # Panics
/// When there is no end within a minute.
pub async fn ask(port: u16, method: &str, message: &[u8], headers: &[(&str, &str)]) -> Outcome {
    let talk = async {
        let mut stream = Stream::open(port, method, headers).await;
        stream.send(message);
        stream.finish();
        stream.ended().await
    };
    tokio::time::timeout(Duration::from_secs(60), talk)
        .await
        .unwrap_or_else(|_| panic!("no end of {method}"))
}

/// `InvokeService`, with the verb POST.
pub async fn invoke(port: u16, id: &str, method: &str) -> Outcome {
    let request = InvokeServiceRequest {
        id: id.to_owned(),
        message: Some(InvokeRequest {
            method: method.to_owned(),
            content_type: "text/plain".to_owned(),
            http_extension: Some(HttpExtension {
                verb: 3,
                ..HttpExtension::default()
            }),
            ..InvokeRequest::default()
        }),
    };
    let path = "/dapr.proto.runtime.v1.Dapr/InvokeService";
    ask(port, path, &request.encode_to_vec(), &[]).await
}

/// A call whose messages go back and forth. Dropping it resets it.
#[derive(Debug)]
pub struct Stream {
    sender: h2::SendStream<Bytes>,
    answer: Answering,
    buffer: BytesMut,
    outcome: Outcome,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
enum Answering {
    NotYet(h2::client::ResponseFuture),
    Body(h2::RecvStream),
}

impl Stream {
    /// # Panics
    /// When nobody accepts.
    pub async fn open(port: u16, method: &str, headers: &[(&str, &str)]) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let stream = stream.unwrap_or_else(|error| panic!("port {port}: {error}"));
        let (sender, connection) = h2::client::handshake(stream)
            .await
            .unwrap_or_else(|error| panic!("port {port}: {error}"));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { connection.await.unwrap_or(()) });
        let mut request = http::Request::post(format!("http://127.0.0.1:{port}{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("method and headers are valid");
        let mut sender = sender.ready().await.expect("a new connection is ready");
        let (answer, sender) = sender
            .send_request(request, false)
            .expect("a new connection takes a request");
        Self {
            sender,
            answer: Answering::NotYet(answer),
            buffer: BytesMut::new(),
            outcome: Outcome {
                code: -1,
                message: String::new(),
                head: HeaderMap::new(),
                trailers: HeaderMap::new(),
                messages: Vec::new(),
            },
            _tasks: tasks,
        }
    }

    /// Sends a message; false when the other side takes none any more.
    pub fn send(&mut self, message: &[u8]) -> bool {
        self.sender.send_data(frame(message), false).is_ok()
    }

    /// No more messages follow.
    pub fn finish(&mut self) {
        self.sender.send_data(Bytes::new(), true).ok();
    }

    /// The next message; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = unframe(&mut self.buffer) {
                self.outcome.messages.push(message.clone());
                return Some(message);
            }
            match &mut self.answer {
                Answering::NotYet(answer) => match answer.await {
                    Ok(answer) => {
                        let (head, body) = answer.into_parts();
                        self.outcome.head = head.headers;
                        self.answer = Answering::Body(body);
                    }
                    Err(error) => return self.broke(&error),
                },
                Answering::Body(body) => match body.data().await {
                    Some(Ok(piece)) => {
                        body.flow_control().release_capacity(piece.len()).ok();
                        self.buffer.extend_from_slice(&piece);
                    }
                    Some(Err(error)) => return self.broke(&error),
                    None => {
                        match body.trailers().await {
                            Ok(Some(trailers)) => self.outcome.trailers = trailers,
                            // The status of an answer without messages is in its head.
                            Ok(None) => {
                                self.outcome.trailers = std::mem::take(&mut self.outcome.head);
                            }
                            Err(error) => return self.broke(&error),
                        }
                        return None;
                    }
                },
            }
        }
    }

    fn broke(&mut self, error: &h2::Error) -> Option<Bytes> {
        self.outcome.message = error.to_string();
        None
    }

    /// Everything that is still to come.
    pub async fn ended(mut self) -> Outcome {
        while self.next().await.is_some() {}
        let mut outcome = self.outcome;
        if let Some(code) = outcome.trailers.get("grpc-status") {
            let code = code.to_str().ok().and_then(|code| code.parse().ok());
            outcome.code = code.unwrap_or(-1);
            let message = outcome.trailers.get("grpc-message");
            let message = message.and_then(|message| message.to_str().ok());
            outcome.message = message.unwrap_or_default().to_owned();
        }
        outcome
    }
}

/// A message as it travels.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Takes a whole message off what was read.
pub(crate) fn unframe(read: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(read.get(1..5)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    if read.len() < length + 5 {
        return None;
    }
    Some(read.split_to(length + 5).freeze().slice(5..))
}
