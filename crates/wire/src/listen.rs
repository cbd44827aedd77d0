//! Listeners: binding with patience, and the accept loop.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outrigger_lifecycle::{Scope, Stop};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::io::Connected;

/// A bound socket that is already accepting into its backlog.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// How long a port that is in use is asked for again.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Binds a TCP address; while it is in use it is tried again until `patience` is over.
///
/// # Errors
/// The last refusal.
pub async fn bind_tcp(address: SocketAddr, patience: Duration) -> io::Result<Listener> {
    let started = Instant::now();
    loop {
        match listen_tcp(address) {
            Ok(listener) => return Ok(Listener::Tcp(listener)),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < patience =>
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    // An unspecified IPv6 address takes IPv4 along, as Go's listener does.
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Binds a Unix socket. One that a dead process left behind is replaced; one that answers is not.
///
/// # Errors
/// When the path is taken or cannot be made.
pub fn bind_unix(path: &Path) -> io::Result<Listener> {
    if std::os::unix::net::UnixStream::connect(path).is_err() && path.exists() {
        std::fs::remove_file(path)?;
    }
    Ok(Listener::Unix(UnixListener::bind(path)?, path.to_owned()))
}

impl Listener {
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(|address| address.port()),
            Self::Unix(..) => None,
        }
    }

    async fn accept(&self) -> io::Result<(Connected, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Connected::Tcp(stream), Some(peer)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Connected::Unix(stream), None))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            std::fs::remove_file(path).ok();
        }
    }
}

/// Accepts until `stop`, each connection in a task of `connections`. Running out of file descriptors pauses accepting
/// for a moment; it does not end it.
pub async fn accept_loop<F, T>(listener: Listener, stop: Stop, connections: Scope, serve: F)
where
    F: Fn(Connected, Option<SocketAddr>) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((connection, peer)) => {
                connections.spawn_future("connection", serve(connection, peer));
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept connections, trying again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
