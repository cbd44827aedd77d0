//! A TCP proxy that misbehaves on demand.
//!
//! It stands between a client under test and a real server and lets a test do to their connections what networks do:
//! refuse them, swallow them, slow them down, cut them. The address stays the same through all of it.
//!
//! Belongs to the runtime of the test that made it, and ends with its owner.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrigger_lifecycle::Scope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::{ports, wait};

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    ToServer,
    ToClient,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Pass,
    /// Connections are accepted, nothing is forwarded.
    Hang,
}

/// Listens on a loopback port and forwards to a target.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Accepts; absent while connections are refused.
    acceptor: Mutex<Option<Scope>>,
}

#[derive(Debug)]
struct Shared {
    target: String,
    mode: watch::Sender<Mode>,
    /// Counts resets; a connection ends when it changes.
    resets: watch::Sender<u64>,
    /// Counts strandings; a connection falls silent for good when it changes.
    strandings: AtomicU64,
    /// How many connections are open, by the count of resets at their beginning.
    open: Mutex<BTreeMap<u64, usize>>,
    lanes: [Lane; 2],
    connections: Scope,
}

/// One direction of all connections.
#[derive(Debug)]
struct Lane {
    latency: Mutex<Duration>,
    /// How many bytes may still pass before all connections are reset.
    left: AtomicU64,
}

impl Proxy {
    /// A proxy that passes everything on to `target`, which need not be there yet.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn to(target: impl Into<String>) -> Self {
        Self::on(ports::free(), target).await
    }

    /// The same on a given port of the loopback address.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn on(port: u16, target: impl Into<String>) -> Self {
        let lane = || Lane {
            latency: Mutex::new(Duration::ZERO),
            left: AtomicU64::new(u64::MAX),
        };
        let shared = Shared {
            target: target.into(),
            mode: watch::Sender::new(Mode::Pass),
            resets: watch::Sender::new(0),
            strandings: AtomicU64::new(0),
            open: Mutex::default(),
            lanes: [lane(), lane()],
            connections: Scope::root(),
        };
        let proxy = Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            shared: Arc::new(shared),
            acceptor: Mutex::new(None),
        };
        proxy.accept().await;
        proxy
    }

    /// Where clients connect, `127.0.0.1:12345`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.shared.lock_open().values().sum()
    }

    /// Ends every misbehaviour. Connections that hung go on where they stopped.
    pub async fn pass(&self) {
        for lane in &self.shared.lanes {
            lane.set_latency(Duration::ZERO);
            lane.left.store(u64::MAX, Ordering::SeqCst);
        }
        self.shared.mode.send_replace(Mode::Pass);
        self.accept().await;
    }

    /// Refuses new connections, as a host without the server does. Open ones stay; see [`Proxy::reset`].
    pub async fn refuse(&self) {
        let acceptor = self.lock_acceptor().take();
        if let Some(acceptor) = acceptor {
            let left = acceptor.close(Duration::from_secs(5)).await;
            assert!(left.is_empty(), "the acceptor does not end");
        }
    }

    /// Refuses new connections and resets the open ones, as if the server had died.
    pub async fn cut(&self) {
        self.refuse().await;
        self.reset().await;
    }

    /// Accepts and stays silent. Open connections fall silent too, and stay open.
    pub fn hang(&self) {
        self.shared.mode.send_replace(Mode::Hang);
    }

    /// Nothing passes on the open connections ever again, and neither end is told, as when a firewall forgets them or a
    /// host goes away. New connections pass.
    pub fn strand(&self) {
        self.shared.strandings.fetch_add(1, Ordering::SeqCst);
    }

    /// Delays each piece of data. Pieces do not overtake each other, and wait one after the other.
    pub fn delay(&self, direction: Direction, latency: Duration) {
        self.shared.lane(direction).set_latency(latency);
    }

    /// Lets at most `bytes` more pass in this direction, over all connections, then resets them in the middle of the data.
    /// Connections made later are reset at their first byte until [`Proxy::pass`].
    pub fn limit(&self, direction: Direction, bytes: u64) {
        let lane = self.shared.lane(direction);
        lane.left.store(bytes, Ordering::SeqCst);
    }

    /// Resets every open connection. Returns when they are gone.
    pub async fn reset(&self) {
        let mut now = 0;
        self.shared.resets.send_modify(|resets| {
            *resets += 1;
            now = *resets;
        });
        let deadline = Duration::from_secs(5);
        wait::until("the end of reset connections", deadline, async || {
            self.shared.lock_open().range(..now).next().is_none()
        })
        .await;
    }

    async fn accept(&self) {
        if self.lock_acceptor().is_some() {
            return;
        }
        let address = self.address;
        let listener = wait::until("the proxy's port", Duration::from_secs(5), async || {
            TcpListener::bind(address).await
        })
        .await;
        let scope = Scope::root();
        let shared = Arc::clone(&self.shared);
        scope.spawn("testkit.proxy", |stop| async move {
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                if let Ok((client, _)) = accepted {
                    shared.serve(client);
                }
            }
        });
        *self.lock_acceptor() = Some(scope);
    }

    fn lock_acceptor(&self) -> MutexGuard<'_, Option<Scope>> {
        self.acceptor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(acceptor) = self.lock_acceptor().take() {
            acceptor.cancel();
        }
        self.shared.connections.cancel();
    }
}

impl Shared {
    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::ToServer => &self.lanes[0],
            Direction::ToClient => &self.lanes[1],
        }
    }

    fn lock_open(&self) -> MutexGuard<'_, BTreeMap<u64, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>, mut client: TcpStream) {
        let shared = Arc::clone(self);
        // Read here, not in the task: a reset that comes before the task runs must reach it.
        let mut resets = self.resets.subscribe();
        let epoch = *resets.borrow_and_update();
        *self.lock_open().entry(epoch).or_default() += 1;
        let open = Open {
            shared: Arc::clone(self),
            epoch,
        };
        self.connections
            .spawn("testkit.proxy.connection", |stop| async move {
                let _open = open;
                let ended = tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    _ = resets.changed() => None,
                    ended = shared.forward(&mut client) => Some(ended),
                };
                if !matches!(ended, Some(Ok(()))) {
                    // A reset in place of an orderly end, which is what a dying peer sends. It acts on drop.
                    client.set_zero_linger().ok();
                }
            });
    }

    async fn forward(&self, client: &mut TcpStream) -> io::Result<()> {
        let stranded = self.strandings.load(Ordering::SeqCst);
        self.passing().await;
        let mut server = TcpStream::connect(&self.target).await?;
        for stream in [&*client, &server] {
            stream.set_nodelay(true)?;
        }
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            self.pump(Direction::ToServer, stranded, from_client, to_server),
            self.pump(Direction::ToClient, stranded, from_server, to_client),
        )
        .map(|_| ())
    }

    async fn pump(
        &self,
        direction: Direction,
        stranded: u64,
        mut from: ReadHalf<'_>,
        mut to: WriteHalf<'_>,
    ) -> io::Result<()> {
        let lane = self.lane(direction);
        let mut piece = vec![0; 16 * 1024];
        loop {
            self.passing().await;
            let read = from.read(&mut piece).await?;
            if self.strandings.load(Ordering::SeqCst) != stranded {
                std::future::pending::<()>().await;
            }
            if read == 0 {
                return to.shutdown().await;
            }
            let latency = *lane.latency.lock().unwrap_or_else(PoisonError::into_inner);
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            self.passing().await;
            let allowed = lane.take(read);
            to.write_all(&piece[..allowed]).await?;
            if allowed < read {
                self.resets.send_modify(|resets| *resets += 1);
                std::future::pending::<()>().await;
            }
        }
    }

    async fn passing(&self) {
        let mut mode = self.mode.subscribe();
        // Fails only when the sender is gone, and `self` holds it.
        mode.wait_for(|mode| *mode == Mode::Pass).await.ok();
    }
}

impl Lane {
    fn set_latency(&self, latency: Duration) {
        *self.latency.lock().unwrap_or_else(PoisonError::into_inner) = latency;
    }

    /// How many of these bytes may pass.
    fn take(&self, bytes: usize) -> usize {
        let wanted = u64::try_from(bytes).unwrap_or(u64::MAX);
        let before = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                Some(if left == u64::MAX {
                    left
                } else {
                    left.saturating_sub(wanted)
                })
            })
            .unwrap_or(0);
        usize::try_from(before.min(wanted)).unwrap_or(bytes)
    }
}

/// One open connection.
struct Open {
    shared: Arc<Shared>,
    epoch: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = self.shared.lock_open();
        if let Some(count) = open.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.epoch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    /// Answers every byte with itself; counts the bytes it saw.
    struct Echo {
        address: String,
        seen: Arc<AtomicU64>,
        scope: Scope,
    }

    impl Echo {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (scope, seen) = (Scope::root(), Arc::new(AtomicU64::new(0)));
            let (tasks, count) = (scope.clone(), Arc::clone(&seen));
            scope.spawn_future("echo", async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let count = Arc::clone(&count);
                    tasks.spawn_future("echo.connection", async move {
                        let mut byte = [0; 1024];
                        while let Ok(read @ 1..) = stream.read(&mut byte).await {
                            count.fetch_add(read as u64, Ordering::SeqCst);
                            stream.write_all(&byte[..read]).await.ok();
                        }
                    });
                }
            });
            Self {
                address,
                seen,
                scope,
            }
        }
    }

    impl Drop for Echo {
        fn drop(&mut self) {
            self.scope.cancel();
        }
    }

    async fn echoed(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await?;
        assert_eq!(answer, text);
        Ok(())
    }

    async fn is_silent(stream: &mut TcpStream) -> bool {
        let answer = echoed(stream, b"?");
        tokio::time::timeout(Duration::from_millis(200), answer)
            .await
            .is_err()
    }

    #[tokio::test]
    async fn what_is_sent_arrives_and_the_end_of_a_connection_too() {
        let echo = Echo::start().await;
        let proxy = Proxy::to(&echo.address).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut stream, &[7; 100_000]).await.unwrap();
        assert_eq!(proxy.connections(), 1);
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        wait::until("no connection", Duration::from_secs(5), async || {
            proxy.connections() == 0
        })
        .await;
    }

    #[tokio::test]
    async fn while_it_refuses_new_connections_fail_and_open_ones_stay() {
        let echo = Echo::start().await;
        let proxy = Proxy::to(&echo.address).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut stream, b"a").await.unwrap();
        proxy.refuse().await;
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        echoed(&mut stream, b"b").await.unwrap();
        proxy.pass().await;
        let mut second = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut second, b"c").await.unwrap();
    }

    #[tokio::test]
    async fn while_it_hangs_old_and_new_connections_are_silent_and_go_on_later() {
        let echo = Echo::start().await;
        let proxy = Proxy::to(&echo.address).await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut old, b"a").await.unwrap();
        proxy.hang();
        assert!(is_silent(&mut old).await);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(is_silent(&mut new).await);
        proxy.pass().await;
        for mut stream in [old, new] {
            let mut answer = [0];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"?");
        }
    }

    #[tokio::test]
    async fn a_reset_ends_all_connections_with_an_error() {
        let echo = Echo::start().await;
        let proxy = Proxy::to(&echo.address).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            echoed(&mut stream, b"a").await.unwrap();
            streams.push(stream);
        }
        proxy.reset().await;
        assert_eq!(proxy.connections(), 0);
        for mut stream in streams {
            let error = stream.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut stream, b"b").await.unwrap();
    }

    #[tokio::test]
    async fn stranded_connections_are_silent_for_good_and_new_ones_pass() {
        let echo = Echo::start().await;
        let proxy = Proxy::to(&echo.address).await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut old, b"a").await.unwrap();
        proxy.strand();
        assert!(is_silent(&mut old).await);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut new, b"b").await.unwrap();
        proxy.pass().await;
        assert!(is_silent(&mut old).await);
        proxy.reset().await;
        assert!(old.read(&mut [0]).await.is_err());
    }

    #[tokio::test]
    async fn latency_counts_for_one_direction_only() {
        let echo = Echo::start().await;
        let proxy = Proxy::to(&echo.address).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        for (direction, arrives_soon) in [(Direction::ToServer, false), (Direction::ToClient, true)]
        {
            proxy.pass().await;
            echoed(&mut stream, b"a").await.unwrap();
            proxy.delay(direction, Duration::from_millis(300));
            let (start, before) = (Instant::now(), echo.seen.load(Ordering::SeqCst));
            stream.write_all(b"b").await.unwrap();
            wait::until("the byte", Duration::from_secs(5), async || {
                echo.seen.load(Ordering::SeqCst) > before
            })
            .await;
            assert_eq!(start.elapsed() < Duration::from_millis(250), arrives_soon);
            stream.read_exact(&mut [0]).await.unwrap();
            assert!(start.elapsed() >= Duration::from_millis(300));
        }
    }

    #[tokio::test]
    async fn after_the_limit_no_byte_more_passes() {
        let echo = Echo::start().await;
        let proxy = Proxy::to(&echo.address).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut stream, b"abc").await.unwrap();
        proxy.limit(Direction::ToServer, 5);
        echoed(&mut stream, b"abc").await.unwrap();
        assert!(echoed(&mut stream, b"abcdef").await.is_err());
        assert!(echo.seen.load(Ordering::SeqCst) <= 8);
        let mut second = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(echoed(&mut second, b"abc").await.is_err());
        proxy.pass().await;
        let mut third = TcpStream::connect(proxy.address()).await.unwrap();
        echoed(&mut third, b"abc").await.unwrap();
    }

    #[tokio::test]
    async fn a_target_that_is_not_there_resets_the_client() {
        let proxy = Proxy::to(format!("127.0.0.1:{}", ports::free())).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(stream.read(&mut [0]).await.is_err());
    }
}
