//! Connecting: from settings to a [`Link`].
//!
//! Owns: the order of hosts, TLS, the login.
//! Never: tries a host twice in one attempt; when to try again is the supervisor's to say.
//! Start at [`Dialer::open`]. Tests: below, tests/broker/connection.rs, tests/broker/tls.rs.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use lapin::auth::AuthProvider;
use lapin::tcp::AsyncTcpStream;
use lapin::types::{LongString, ShortString};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties};
use outrigger_component_api::{ComponentError, Secret};
use rustls::ClientConfig;

use crate::error;
use crate::kit::{Kit, silence_this_thread};
use crate::link::Link;
use crate::settings::Settings;
use crate::transport::{Signs, Transport};
use crate::uri::{Host, Mechanism};

/// Bytes of the largest frame. lapin keeps two buffers of 32 frames per connection; larger frames make nothing faster.
const FRAME_MAX: u32 = 32 * 1024;
/// The share of one host in an attempt, as long as there are others to try.
const HOST_SHARE: Duration = Duration::from_millis(1_500);

/// Knows how to connect. Lives as long as the component's settings, over many instances.
pub(crate) struct Dialer {
    settings: Arc<Settings>,
    tls: OnceLock<Arc<ClientConfig>>,
    /// Where the next attempt begins: at the host that worked last, or after the one that did not.
    first: AtomicUsize,
}

impl Dialer {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            tls: OnceLock::new(),
            first: AtomicUsize::new(0),
        }
    }

    /// Connects and logs in at the first host that lets us.
    ///
    /// # Errors
    /// The last host's, with its class.
    ///
    /// # Cancel safety
    /// Dropping the future ends the attempt; the next one begins at the following host.
    pub(crate) async fn open(&self) -> Result<Link, ComponentError> {
        let tls = if self.settings.broker.tls {
            Some(self.tls_config().await?)
        } else {
            None
        };
        let hosts = &self.settings.broker.hosts;
        let start = self.first.load(Ordering::Relaxed);
        let mut last = ComponentError::config("no host to connect to");
        for step in 0..hosts.len() {
            let at = (start + step) % hosts.len();
            let Some(host) = hosts.get(at) else { break };
            self.first.store(at + 1, Ordering::Relaxed);
            let is_last = step + 1 == hosts.len();
            let share = if is_last { None } else { Some(HOST_SHARE) };
            let limit = match (self.settings.broker.timeout, share) {
                (Some(written), Some(share)) => Some(written.min(share)),
                (written, share) => written.or(share),
            };
            match within(limit, host, self.login(host, tls.clone())).await {
                Ok(link) => {
                    self.first.store(at, Ordering::Relaxed);
                    return Ok(link);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The system's certificates are read once, on a thread that may block.
    async fn tls_config(&self) -> Result<Arc<ClientConfig>, ComponentError> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let settings = self.settings.clone();
        let config = tokio::task::spawn_blocking(move || settings.certificates.config())
            .await
            .map_err(|_| ComponentError::transient("reading certificates was interrupted"))??;
        Ok(self.tls.get_or_init(|| config).clone())
    }

    async fn login(
        &self,
        host: &Host,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Link, ComponentError> {
        let signs = Signs::default();
        // Until the link owns it: ends lapin's thread when this future is dropped.
        let guard = signs.cut.clone().drop_guard();
        let transport = Transport::connect(host, tls, signs.clone()).await?;
        let transport = Mutex::new(Some(transport));
        // lapin calls this from the connection's own thread. It asks once: there is no second socket to give.
        let hand_over = async move |_: AMQPUri, _: async_rs::Runtime<Kit>| {
            silence_this_thread();
            let taken = transport
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            taken
                .map(AsyncTcpStream::Plain)
                .ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted).into())
        };
        let runtime = async_rs::Runtime::new(Kit::current());
        let connecting =
            Connection::connector(self.address(host), runtime, hand_over, self.properties());
        let connection = signs
            .answer(connecting)
            .await
            .map_err(|cause| self.refusal(&cause, host, &signs))?;
        drop(guard.disarm());
        Ok(Link::new(connection, signs))
    }

    fn refusal(&self, cause: &lapin::Error, host: &Host, signs: &Signs) -> ComponentError {
        let settings = &self.settings;
        let told = error::connection(cause, &format!("login at {}:{}", host.name, host.port));
        // A TLS 1.3 server looks at our certificate after the handshake, and its alert may be overtaken by the end of
        // the connection.
        let is_silent = cause.is_io_error() && !signs.heard.load(Ordering::Relaxed);
        if is_silent && settings.broker.tls && settings.certificates.has_identity() {
            return ComponentError::auth(format!(
                "{}; the broker may not accept `clientCert`",
                told.message
            ));
        }
        told
    }

    /// What lapin has to know; it never sees the password here.
    fn address(&self, host: &Host) -> AMQPUri {
        let broker = &self.settings.broker;
        AMQPUri {
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: broker.username.clone(),
                    password: String::new(),
                },
                host: host.name.clone(),
                port: host.port,
            },
            vhost: broker.vhost.clone(),
            query: AMQPQueryString {
                frame_max: Some(FRAME_MAX),
                heartbeat: Some(self.settings.heartbeat),
                ..AMQPQueryString::default()
            },
        }
    }

    fn properties(&self) -> ConnectionProperties {
        let broker = &self.settings.broker;
        let properties = ConnectionProperties::default()
            .with_client_property("product".into(), "Outrigger".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
            .with_auth_provider(Login {
                mechanism: broker.mechanism,
                username: broker.username.clone(),
                password: broker.password.clone(),
            });
        if self.settings.client_name.is_empty() {
            return properties;
        }
        properties.with_connection_name(self.settings.client_name.as_str().into())
    }
}

async fn within<T>(
    limit: Option<Duration>,
    host: &Host,
    attempt: impl Future<Output = Result<T, ComponentError>>,
) -> Result<T, ComponentError> {
    let Some(limit) = limit else {
        return attempt.await;
    };
    tokio::time::timeout(limit, attempt)
        .await
        .unwrap_or_else(|_| {
            Err(ComponentError::timeout(format!(
                "{}:{} did not answer within {limit:?}",
                host.name, host.port
            )))
        })
}

struct Login {
    mechanism: Mechanism,
    username: String,
    password: Secret,
}

impl AuthProvider for Login {
    fn mechanism(&self) -> ShortString {
        match self.mechanism {
            Mechanism::Plain => "PLAIN",
            Mechanism::Amqplain => "AMQPLAIN",
            Mechanism::External => "EXTERNAL",
        }
        .into()
    }

    fn auth_starter(&self) -> Result<LongString, String> {
        let (name, password) = (self.username.as_str(), self.password.reveal());
        Ok(match self.mechanism {
            Mechanism::Plain => format!("\0{name}\0{password}").into(),
            Mechanism::Amqplain => amqplain(name, password).into(),
            Mechanism::External => LongString::default(),
        })
    }
}

/// A field table of two long strings, without the length that tables begin with elsewhere.
fn amqplain(name: &str, password: &str) -> Vec<u8> {
    let mut table = Vec::new();
    for (key, value) in [("\u{5}LOGIN", name), ("\u{8}PASSWORD", password)] {
        table.extend(key.as_bytes());
        table.push(b'S');
        table.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        table.extend(value.as_bytes());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amqplain_login_is_a_bare_table() {
        assert_eq!(
            amqplain("guest", "pw"),
            b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x02pw"
        );
    }
}
