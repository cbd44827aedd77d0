//! The socket under a connection.
//!
//! Owns: resolving names, TCP, TLS, and the means to cut a connection off whatever the broker does.
//! Never: knows more of AMQP than [`Outbound`] does.
//!
//! lapin drives each connection from a thread of its own, and offers no way to give up on one that stays silent. So the
//! socket is made here, in a future that whoever opens can drop; cutting makes its next read fail, which ends the thread.
//! Tests: tests/broker/connection.rs, tests/broker/tls.rs and tests/footprint.rs.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use outrigger_component_api::{Class, ComponentError, ErrorKind, Stop};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error;
use crate::outbound::Outbound;
use crate::uri::Host;

/// Idle time before the kernel asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// The share of one address in connecting, as long as the name has others.
const ADDRESS_SHARE: Duration = Duration::from_millis(700);

/// How long the reason for a connection's end may follow the end.
pub(crate) const LAST_WORDS: Duration = Duration::from_millis(50);
/// Bytes that are taken at a time.
const PIECE: usize = 64 * 1024;

/// A connected socket that can be cut from outside, and tells when it is let go.
pub(crate) struct Transport {
    stream: Wire,
    /// Wakes the reader when `cut` fires.
    on_cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    signs: Signs,
    outbound: Outbound,
    /// To be written, and how much of it is.
    out: Vec<u8>,
    written: usize,
}

/// What a connection's owner and its socket have to tell each other.
#[derive(Clone, Default)]
pub(crate) struct Signs {
    /// Ends the connection.
    pub(crate) cut: Stop,
    /// The socket was let go.
    pub(crate) gone: Stop,
    /// The broker has said something.
    pub(crate) heard: Arc<AtomicBool>,
}

impl Signs {
    /// Completes a moment after the socket was let go: everybody whom lapin tells why has heard it by then.
    pub(crate) async fn ended(&self) {
        self.gone.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// Waits for the broker's answer, or for the connection's end. lapin leaves requests unanswered that reach it while
    /// it is ending.
    pub(crate) async fn answer<T>(
        &self,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> lapin::Result<T> {
        tokio::select! {
            biased;
            answer = asking => answer,
            () = self.ended() => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
        }
    }
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    fn new(stream: Wire, signs: Signs) -> Self {
        Self {
            stream,
            on_cut: Box::pin(signs.cut.clone().cancelled_owned()),
            signs,
            outbound: Outbound::default(),
            out: Vec::new(),
            written: 0,
        }
    }

    /// Connects to one host, trying each of its addresses.
    ///
    /// # Errors
    /// The last address's error, with its class.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket.
    pub(crate) async fn connect(
        host: &Host,
        tls: Option<Arc<ClientConfig>>,
        signs: Signs,
    ) -> Result<Self, ComponentError> {
        let tcp = dial(host).await?;
        let Some(config) = tls else {
            return Ok(Self::new(Wire::Plain(tcp), signs));
        };
        let name = ServerName::try_from(host.name.clone()).map_err(|_| {
            ComponentError::config(format!(
                "`{}` is no name that a certificate can have",
                host.name
            ))
        })?;
        let stream = TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|cause| {
                let doing = format!("TLS with {}:{}: {cause}", host.name, host.port);
                ComponentError::new(ErrorKind::Connection(error::io_class(&cause)), doing)
            })?;
        Ok(Self::new(Wire::Tls(Box::new(stream)), signs))
    }

    /// A socket that nobody cuts; lapin's runtime must be able to make one.
    pub(crate) async fn uncut(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        Ok(Self::new(Wire::Plain(stream), Signs::default()))
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.signs.cut.is_cancelled() || self.on_cut.as_mut().poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Writes what is waiting.
    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.signs.cut.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        while let Some(bytes) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = match &mut self.stream {
                Wire::Plain(stream) => ready!(Pin::new(stream).poll_write(cx, bytes)),
                Wire::Tls(stream) => ready!(Pin::new(stream).poll_write(cx, bytes)),
            }?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
        }
        self.out.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.signs.gone.cancel();
    }
}

async fn dial(host: &Host) -> Result<TcpStream, ComponentError> {
    let place = format!("{}:{}", host.name, host.port);
    let addresses: Vec<_> = tokio::net::lookup_host((host.name.as_str(), host.port))
        .await
        .map_err(|error| ComponentError::transient(format!("cannot resolve {place}: {error}")))?
        .collect();
    let mut last = ComponentError::transient(format!("{place} has no address"));
    for (at, address) in addresses.iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let connected = if at + 1 == addresses.len() {
            connecting.await
        } else {
            tokio::time::timeout(ADDRESS_SHARE, connecting)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match connected {
            Ok(stream) => {
                // Neither option decides about success; a socket without them still works.
                stream.set_nodelay(true).ok();
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive).ok();
                return Ok(stream);
            }
            Err(error) => {
                let class = match error.kind() {
                    io::ErrorKind::TimedOut => Class::Timeout,
                    _ => Class::Transient,
                };
                last = ComponentError::new(
                    ErrorKind::Connection(class),
                    format!("cannot connect to {place} ({}): {error}", address.ip()),
                );
            }
        }
    }
    Err(last)
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.check(cx)?;
        let mut buffer = ReadBuf::new(buffer);
        let read = match &mut this.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
            Wire::Tls(stream) => Pin::new(stream).poll_read(cx, &mut buffer),
        };
        read.map_ok(|()| {
            let count = buffer.filled().len();
            if count > 0 {
                this.signs.heard.store(true, Ordering::Relaxed);
            }
            count
        })
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        let bytes = bytes.get(..PIECE).unwrap_or(bytes);
        this.outbound.pass(bytes, &mut this.out);
        // What does not fit is written when somebody flushes, which lapin does whenever the socket has room.
        match this.drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        match &mut this.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.drain(cx))?;
        match &mut this.stream {
            Wire::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Wire::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
