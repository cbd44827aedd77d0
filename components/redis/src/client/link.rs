//! One connection to one server: dialled, logged in, looked at.
//!
//! The driver's task runs in the instance's scope and is aborted when the last handle is dropped, so that whoever drops
//! a half-finished `open` leaves nothing behind. A link that was told to watch reports its own end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use outrigger_component_api::{ComponentError, Loss, Scope, Stop};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, Value};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tracing::warn;

use super::{race, tls};
use crate::error::{Failure, io_text};
use crate::settings::{Login, Server, Settings};

/// Makes links.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub settings: Arc<Settings>,
    /// For the answers to the first questions. While the component is being opened, its attempt is the limit.
    pub(super) greeting: Option<Duration>,
    tls: Option<TlsConnector>,
    scope: Scope,
    /// Ends every link of the instance.
    pub life: Stop,
}

/// What the other side has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A server that takes writes.
    Primary,
    /// A sentinel, or a node that is asked for others.
    Guide,
}

impl Dialer {
    pub(super) fn new(settings: Arc<Settings>, scope: Scope) -> Result<Self, ComponentError> {
        let tls = settings.tls.as_ref().map(tls::connector).transpose()?;
        let life = scope.stop().child_token();
        Ok(Self {
            settings,
            greeting: None,
            tls,
            scope,
            life,
        })
    }

    /// Resolves the name and tries every address behind it; the first that serves wins.
    pub(super) async fn connect(
        &self,
        server: &Server,
        purpose: Purpose,
    ) -> Result<Link, ComponentError> {
        let name = (server.host.as_str(), server.port);
        let failed = |why: String| {
            ComponentError::transient(format!("error connecting to redis at {server}: {why}"))
        };
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host(name)
            .await
            .map_err(|error| failed(format!("lookup {}: {}", server.host, io_text(&error))))?
            .collect();
        if addresses.is_empty() {
            return Err(failed(format!("lookup {}: no address found", server.host)));
        }
        self.connect_to_any(server, addresses, purpose).await
    }

    async fn connect_to_any(
        &self,
        server: &Server,
        addresses: Vec<SocketAddr>,
        purpose: Purpose,
    ) -> Result<Link, ComponentError> {
        let attempts = addresses
            .into_iter()
            .map(|address| -> race::Attempt<'_, Link> {
                Box::pin(self.connect_to(server, address, purpose))
            })
            .collect();
        race::first(attempts)
            .await
            .unwrap_or_else(|| Err(Failure::Lost("no address".into()).of_connection(server)))
    }

    /// Connects to one address of a server.
    pub(super) async fn connect_to(
        &self,
        server: &Server,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Result<Link, ComponentError> {
        let dialled = self.dial(server, address);
        let link = match self.settings.dial_timeout {
            Some(limit) => match tokio::time::timeout(limit, dialled).await {
                Ok(dialled) => dialled?,
                Err(_) => {
                    return Err(Failure::late(address, limit).of_connection(server));
                }
            },
            None => dialled.await?,
        };
        let (login, database) = match (purpose, &self.settings.topology) {
            (Purpose::Guide, crate::settings::Topology::Sentinel { login, .. }) => (login, 0),
            (_, crate::settings::Topology::Cluster(_)) => (&self.settings.login, 0),
            _ => (&self.settings.login, self.settings.database),
        };
        link.log_in(login, database, self.greeting).await?;
        if purpose == Purpose::Primary {
            link.check(self.greeting).await?;
        }
        Ok(link)
    }

    async fn dial(&self, server: &Server, address: SocketAddr) -> Result<Link, ComponentError> {
        let failed = |error: std::io::Error| class_of(&error).of_connection(server);
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 3);
        SockRef::from(&stream)
            .set_tcp_keepalive(&keepalive)
            .map_err(failed)?;
        match &self.tls {
            None => self.drive(server, address, stream).await,
            Some(tls) => {
                let name = rustls_pki_types::ServerName::try_from(server.host.clone())
                    .map_err(|error| ComponentError::config(format!("{server}: {error}")))?;
                let stream = tls.connect(name, stream).await.map_err(failed)?;
                self.drive(server, address, stream).await
            }
        }
    }

    async fn drive<C>(
        &self,
        server: &Server,
        address: SocketAddr,
        stream: C,
    ) -> Result<Link, ComponentError>
    where
        C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // The login is ours, so that its refusal keeps the server's words.
        let nobody = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(256);
        let (connection, driver) = MultiplexedConnection::new_with_config(&nobody, stream, config)
            .await
            .map_err(|error| Failure::Lost(error.to_string()).of_connection(server))?;
        let end = Arc::new(End::default());
        let ended = end.clone();
        let life = self.life.clone();
        let label = server.clone();
        let handle = self.scope.spawn("redis/connection", move |_| async move {
            tokio::select! {
                biased;
                () = life.cancelled() => {}
                () = driver => ended.reach(&label),
            }
        });
        Ok(Link {
            inner: Arc::new(Inner {
                connection,
                server: server.clone(),
                address,
                replicas: AtomicUsize::new(0),
                warned: AtomicBool::new(false),
                end,
                driver: handle,
            }),
        })
    }
}

/// A peer that vanished without a word is noticed after this and three unanswered probes.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A certificate that is not trusted is a matter for people; every other obstacle may pass.
fn class_of(error: &std::io::Error) -> Failure {
    let tls = error
        .get_ref()
        .and_then(|source| source.downcast_ref::<rustls::Error>());
    match tls {
        Some(
            rustls::Error::InvalidCertificate(_)
            | rustls::Error::NoCertificatesPresented
            | rustls::Error::AlertReceived(
                rustls::AlertDescription::BadCertificate
                | rustls::AlertDescription::CertificateExpired
                | rustls::AlertDescription::CertificateRequired
                | rustls::AlertDescription::CertificateRevoked
                | rustls::AlertDescription::CertificateUnknown
                | rustls::AlertDescription::UnknownCA,
            ),
        ) => Failure::Untrusted(error.to_string()),
        _ => Failure::Lost(io_text(error)),
    }
}

/// A handle to one connection.
#[derive(Clone)]
pub(crate) struct Link {
    inner: Arc<Inner>,
}

struct Inner {
    connection: MultiplexedConnection,
    server: Server,
    address: SocketAddr,
    /// Replicas that followed this server when it was last asked.
    replicas: AtomicUsize,
    /// The warning that the server does not tell its role was given.
    warned: AtomicBool,
    end: Arc<End>,
    driver: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Where the end of a connection is noted, and told from the moment that somebody wants to know.
#[derive(Default)]
struct End {
    reached: AtomicBool,
    loss: OnceLock<Loss>,
}

impl End {
    fn reach(&self, server: &Server) {
        self.reached.store(true, Ordering::SeqCst);
        self.tell(server);
    }

    fn tell(&self, server: &Server) {
        if let Some(loss) = self.loss.get() {
            loss.report(lost(server).into_error());
        }
    }
}

fn lost(server: &Server) -> Failure {
    Failure::Lost(format!("the connection to redis at {server} was lost"))
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.inner.address)
    }
}

impl Link {
    pub(crate) fn server(&self) -> &Server {
        &self.inner.server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.inner.address
    }

    pub(crate) fn replicas(&self) -> usize {
        self.inner.replicas.load(Ordering::Relaxed)
    }

    pub(crate) fn is_alive(&self) -> bool {
        !self.inner.end.reached.load(Ordering::SeqCst)
    }

    /// Reports the end of this connection from now on, also one that has come already.
    pub(super) fn watch(&self, loss: &Loss) {
        let end = &self.inner.end;
        end.loss.get_or_init(|| loss.clone());
        if end.reached.load(Ordering::SeqCst) {
            end.tell(&self.inner.server);
        }
    }

    /// Sends one command. May be dropped at any time; the answer is then thrown away.
    pub(crate) async fn send(
        &self,
        command: &Cmd,
        limit: Option<Duration>,
    ) -> Result<Value, Failure> {
        let mut connection = self.inner.connection.clone();
        let answer = self
            .within(limit, connection.send_packed_command(command))
            .await?;
        checked(answer)
    }

    /// Sends several commands at once. Each has an outcome of its own, in the same order.
    pub(crate) async fn send_all(
        &self,
        pipeline: &Pipeline,
        limit: Option<Duration>,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.inner.connection.clone();
        let answers = self
            .within(
                limit,
                connection.send_packed_commands(pipeline, 0, pipeline.len()),
            )
            .await?;
        if answers.len() != pipeline.len() {
            return Err(Failure::odd("a pipeline"));
        }
        Ok(answers.into_iter().map(checked).collect())
    }

    async fn within<T>(
        &self,
        limit: Option<Duration>,
        call: impl Future<Output = redis::RedisResult<T>>,
    ) -> Result<T, Failure> {
        let done = match limit {
            Some(limit) => tokio::time::timeout(limit, call)
                .await
                .map_err(|_| Failure::late(&self.inner.server, limit))?,
            None => call.await,
        };
        done.map_err(|_| lost(&self.inner.server))
    }

    async fn log_in(
        &self,
        login: &Login,
        database: i64,
        limit: Option<Duration>,
    ) -> Result<(), ComponentError> {
        let mut steps = redis::pipe();
        let password = login.password.reveal();
        if !password.is_empty() {
            let auth = steps.cmd("AUTH");
            if !login.username.is_empty() {
                auth.arg(&login.username);
            }
            auth.arg(password);
        }
        if database != 0 {
            steps.cmd("SELECT").arg(database);
        }
        let refused =
            |failure: Failure| without_secret(failure, password).of_connection(&self.inner.server);
        for outcome in self.send_all(&steps, limit).await.map_err(refused)? {
            outcome.map_err(refused)?;
        }
        Ok(())
    }

    /// An authenticated round trip to a server that must take writes; notes its replicas.
    pub(crate) async fn check(&self, limit: Option<Duration>) -> Result<(), ComponentError> {
        let server = &self.inner.server;
        let failed = |failure: Failure| failure.of_connection(server);
        let mut questions = redis::pipe();
        questions.cmd("PING").cmd("INFO").arg("replication");
        let mut answers = self
            .send_all(&questions, limit)
            .await
            .map_err(failed)?
            .into_iter();
        answers.next().transpose().map_err(failed)?;
        match answers.next() {
            Some(Ok(Value::BulkString(info))) => {
                let role = Role::read(&String::from_utf8_lossy(&info));
                self.inner.replicas.store(role.replicas, Ordering::Relaxed);
                if role.is_replica {
                    let why = Failure::Lost("the server is a replica and takes no writes".into());
                    return Err(why.of_connection(server));
                }
            }
            // The user may not ask. Writes will tell soon enough.
            Some(Err(failure))
                if failure.is("NOPERM") && !self.inner.warned.swap(true, Ordering::Relaxed) =>
            {
                warn!(server = %server, error = %failure, "cannot see the role and the replicas of redis");
            }
            _ => {}
        }
        Ok(())
    }
}

struct Role {
    is_replica: bool,
    replicas: usize,
}

impl Role {
    fn read(info: &str) -> Self {
        let value = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
        };
        Self {
            is_replica: value("role") == Some("slave"),
            replicas: value("connected_slaves")
                .and_then(|count| count.parse().ok())
                .unwrap_or(0),
        }
    }
}

fn checked(value: Value) -> Result<Value, Failure> {
    match value {
        Value::ServerError(error) => Err(Failure::refused(&error)),
        value => Ok(value),
    }
}

/// Servers and proxies that do not know AUTH quote its arguments.
fn without_secret(failure: Failure, secret: &str) -> Failure {
    match failure {
        Failure::Refused(line) if !secret.is_empty() => {
            Failure::Refused(line.replace(secret, "***"))
        }
        failure => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::State;
    use outrigger_component_api::{Properties, Reader};
    use outrigger_testkit::servers::{Redis, RedisServer};

    #[test]
    fn the_role_is_read_from_the_servers_report() {
        let primary =
            Role::read("# Replication\r\nrole:master\r\nconnected_slaves:2\r\nslave0:x\r\n");
        assert!(!primary.is_replica);
        assert_eq!(primary.replicas, 2);
        let replica = Role::read("# Replication\r\nrole:slave\r\nconnected_slaves:0\r\n");
        assert!(replica.is_replica);
        let silent = Role::read("");
        assert!(!silent.is_replica);
        assert_eq!(silent.replicas, 0);
    }

    #[test]
    fn a_quoted_password_is_cut_out() {
        let line = "ERR unknown command 'AUTH', with args beginning with: 'hunter2' ";
        let failure = without_secret(Failure::Refused(line.to_owned()), "hunter2");
        assert_eq!(
            failure.to_string(),
            "ERR unknown command 'AUTH', with args beginning with: '***' "
        );
    }
    /// A name with several addresses: one refuses, one swallows, one is a replica, the last serves.
    #[tokio::test]
    async fn every_address_behind_a_name_is_tried_on_real_redis() {
        let primary = RedisServer::launch(Redis::default()).await;
        let replica = RedisServer::launch(Redis {
            replica_of: Some(format!("127.0.0.1:{}", primary.port())),
            ..Redis::default()
        })
        .await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let properties = Properties::default();
        let settings = State::read(&mut Reader::redis(&properties)).connection;
        let scope = Scope::root();
        let dialer = Dialer::new(settings, scope.clone()).unwrap();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = vec![
            at(outrigger_testkit::ports::free()),
            silent.local_addr().unwrap(),
            at(replica.port()),
            at(primary.port()),
        ];
        let link = dialer
            .connect_to_any(&Server::default(), addresses, Purpose::Primary)
            .await
            .unwrap();
        assert_eq!(link.address(), at(primary.port()));
        drop(link);
        outrigger_testkit::wait::until("no task", Duration::from_secs(5), async || {
            scope.running() == 0
        })
        .await;
    }
}
