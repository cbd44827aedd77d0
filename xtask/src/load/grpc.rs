//! A connection that repeats one unary gRPC call.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::job::Job;

pub(super) struct Caller {
    sender: SendRequest<Bytes>,
    request: Request<()>,
    message: Bytes,
    /// Drives the connection, and ends with it.
    _connection: JoinSet<()>,
}

impl Caller {
    pub(super) async fn connect(job: &Job) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", job.port)).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        let mut driver = JoinSet::new();
        // Its end shows in the calls.
        driver.spawn(async move { connection.await.unwrap_or_default() });
        Ok(Caller {
            sender,
            request: request(job)?,
            message: message(&job.read_body()?)?,
            _connection: driver,
        })
    }

    pub(super) async fn call(&mut self) -> Result<()> {
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut stream) = sender.send_request(self.request.clone(), false)?;
        stream.send_data(self.message.clone(), true)?;
        let (head, mut body) = answer.await?.into_parts();
        ensure!(head.status.is_success(), "the answer is {}", head.status);
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            length += data.len();
            body.flow_control().release_capacity(data.len())?;
        }
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        let status = trailers
            .get("grpc-status")
            .context("a call ended without a status")?;
        ensure!(
            status == "0",
            "the call ended with status {status:?}: {:?}",
            trailers.get("grpc-message")
        );
        ensure!(length == self.message.len(), "{length} bytes came back");
        Ok(())
    }
}

fn request(job: &Job) -> Result<Request<()>> {
    let uri = format!("http://127.0.0.1:{}{}", job.port, job.path);
    let mut request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some((name, value)) = job
        .header
        .as_deref()
        .and_then(|header| header.split_once(": "))
    {
        request = request.header(name, value);
    }
    Ok(request.body(())?)
}

/// A gRPC message: not compressed, its length, its bytes.
fn message(body: &[u8]) -> Result<Bytes> {
    let length = u32::try_from(body.len())?;
    Ok([&[0], &length.to_be_bytes()[..], body].concat().into())
}
