//! A connection that repeats one HTTP/1.1 request.

use anyhow::{Result, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::job::Job;
use crate::http1;

pub(super) struct Caller {
    stream: TcpStream,
    request: Vec<u8>,
    received: BytesMut,
}

impl Caller {
    pub(super) async fn connect(job: &Job) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", job.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Caller {
            stream,
            request: request(job)?,
            received: BytesMut::new(),
        })
    }

    pub(super) async fn call(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        loop {
            self.received.reserve(16 * 1024);
            let count = self.stream.read_buf(&mut self.received).await?;
            ensure!(count > 0, "the connection was closed under a request");
            if let Some(answer) = http1::response(&self.received)? {
                let body = String::from_utf8_lossy(&answer.body);
                ensure!(
                    answer.start / 100 == 2,
                    "the answer is {}: {body}",
                    answer.start
                );
                let length = answer.length;
                self.received.advance(length);
                return Ok(());
            }
        }
    }
}

fn request(job: &Job) -> Result<Vec<u8>> {
    use std::io::Write;
    let body = job.read_body()?;
    let mut request = Vec::new();
    write!(
        request,
        "{} {} HTTP/1.1\r\nHost: localhost:{}\r\n",
        job.method, job.path, job.port
    )?;
    if let Some(header) = &job.header {
        write!(request, "{header}\r\n")?;
    }
    if job.body.is_some() {
        write!(request, "Content-Length: {}\r\n", body.len())?;
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(&body);
    Ok(request)
}
