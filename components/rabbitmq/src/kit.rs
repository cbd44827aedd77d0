//! What lapin runs on.
//!
//! Owns: lapin's view of the ambient tokio runtime, with our own kind of socket, and its silence.
//! Never: knows AMQP.
//!
//! lapin drives each connection from a thread of its own, named `lapin-io-loop`, and from tasks on the runtime. Both are
//! kept from logging: what lapin tells at ERROR is returned as errors here, and at TRACE it prints frames, the login among
//! them. Tests: tests/logs.rs.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};
use tracing::dispatcher::{DefaultGuard, Dispatch, set_default};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use crate::transport::Transport;

thread_local! {
    /// Keeps the I/O thread of a connection from logging; undone when the thread ends.
    static SILENCE: RefCell<Option<DefaultGuard>> = const { RefCell::new(None) };
}

/// Silences the thread that calls it, for the rest of its life. Only lapin's own threads do.
pub(crate) fn silence_this_thread() {
    SILENCE.with(|silence| {
        silence
            .borrow_mut()
            .get_or_insert_with(|| set_default(&Dispatch::none()));
    });
}

/// The ambient tokio runtime as lapin sees it, with our own kind of socket.
#[derive(Clone, Debug)]
pub(crate) struct Kit(async_rs::Tokio);

impl Kit {
    /// The runtime of the caller.
    pub(crate) fn current() -> Self {
        Self(async_rs::Tokio::current())
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <async_rs::Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0
            .spawn(future.with_subscriber(NoSubscriber::default()))
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Transport;
    type Sleep = tokio::time::Sleep;

    /// For sockets of other kinds; lapin has none.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Transport, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        Transport::uncut(address)
    }
}
