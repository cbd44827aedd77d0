//! A RabbitMQ node for one test.
//!
//! Starting a node takes seconds. Cases that only need a broker share one ([`RabbitServer::shared`]); those that kill
//! it have their own.

use std::process::Command;
use std::time::Duration;

use outrigger_component_api::async_trait;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

use crate::process::{Process, Program};
use crate::servers::Server;
use crate::{PrivateDir, ports, wait};

pub(super) const INSTALL: &str =
    "install RabbitMQ 3.8 or later (Debian and Ubuntu: `apt install rabbitmq-server`)";

/// How the node is to be.
#[derive(Clone, Debug, Default)]
pub struct Rabbit {
    /// Further lines of `rabbitmq.conf`.
    pub configuration: String,
}

/// What the nodes of a cluster have in common.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    /// Where nodes find each other.
    pub epmd_port: u16,
    pub cookie: String,
}

/// A node of its own, with its own name, ports, data and logs. User and password are `guest`.
#[derive(Debug)]
pub struct RabbitServer {
    port: u16,
    process: Process,
}

impl RabbitServer {
    /// A node that serves logins.
    ///
    /// # Panics
    /// When it does not within ninety seconds, and when it is not installed.
    pub async fn launch(options: Rabbit) -> Self {
        let server = Self::prepare(options);
        server.start().await;
        server
    }

    /// A node with its ports and folder, not started yet.
    pub fn prepare(options: Rabbit) -> Self {
        Self::prepare_in(options, None)
    }

    /// The same as a member of a cluster, which it has still to join.
    pub(super) fn prepare_in(options: Rabbit, cluster: Option<&Membership>) -> Self {
        let port = ports::free();
        let dir = PrivateDir::new("rabbit");
        let plugins = dir.write("plugins", "[].");
        let configuration = dir.write(
            "rabbitmq.conf",
            format!(
                "listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users = none\n{}\n",
                options.configuration
            ),
        );
        // The server's wrapper changes to the user of its package, who must be able to write here.
        dir.open_to_all();
        Command::new("chown")
            .args(["-R", "rabbitmq:rabbitmq"])
            .arg(dir.path())
            .output()
            .ok();
        let inside = |name: &str| dir.path().join(name).display().to_string();
        let epmd = cluster.map_or_else(ports::free, |cluster| cluster.epmd_port);
        let mut environment = vec![
            ("RABBITMQ_NODENAME", node_name(port)),
            ("RABBITMQ_NODE_PORT", port.to_string()),
            ("RABBITMQ_DIST_PORT", ports::free().to_string()),
            ("ERL_EPMD_PORT", epmd.to_string()),
            ("RABBITMQ_MNESIA_BASE", inside("mnesia")),
            ("RABBITMQ_LOG_BASE", inside("logs")),
            (
                "RABBITMQ_ENABLED_PLUGINS_FILE",
                plugins.display().to_string(),
            ),
            ("RABBITMQ_CONFIG_FILE", configuration.display().to_string()),
            ("HOME", inside("")),
        ];
        if let Some(cluster) = cluster {
            let cookie = format!("-setcookie {}", cluster.cookie);
            environment.push(("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", cookie.clone()));
            environment.push(("RABBITMQ_CTL_ERL_ARGS", cookie));
        }
        let program = Program {
            name: "rabbitmq-server",
            install: INSTALL,
            arguments: Vec::new(),
            environment,
        };
        Self {
            port,
            process: Process::new(program, dir),
        }
    }

    /// A node that all cases of a test binary share; it ends with the binary. Nobody may stop it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RabbitServer> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::launch(Rabbit::default())).await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// By which other nodes know it.
    pub(super) fn node(&self) -> String {
        node_name(self.port)
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// Runs `rabbitmqctl` against this node and gives what it printed. Takes seconds.
    ///
    /// # Panics
    /// When it fails.
    pub async fn control(&self, arguments: &[&str]) -> String {
        let mut command: tokio::process::Command = self.process.command("rabbitmqctl").into();
        let run = command.args(arguments).kill_on_drop(true).output();
        let output = wait::within("rabbitmqctl", Duration::from_secs(60), run)
            .await
            .unwrap_or_else(|error| panic!("`rabbitmqctl` did not start ({error}): {INSTALL}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {text} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// Logs in and opens the default virtual host. The port opens long before that works.
    async fn log_in(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(b"AMQP\0\0\x09\x01").await?;
        expect(&mut stream, START).await?;
        let mut answer = vec![0, 0, 0, 0];
        answer.extend(b"\x05PLAIN\0\0\0\x0c\0guest\0guest\x05en_US");
        send(&mut stream, START_OK, &answer).await?;
        let limits = expect(&mut stream, TUNE).await?;
        send(&mut stream, TUNE_OK, &limits).await?;
        send(&mut stream, OPEN, b"\x01/\0\0").await?;
        expect(&mut stream, OPEN_OK).await?;
        send(&mut stream, CLOSE, b"\0\xc8\0\0\0\0\0").await?;
        expect(&mut stream, CLOSE_OK).await?;
        Ok(())
    }
}

fn node_name(port: u16) -> String {
    format!("outrigger{port}@localhost")
}

// Methods of AMQP's class 10, `connection`.
const START: u16 = 10;
const START_OK: u16 = 11;
const TUNE: u16 = 30;
const TUNE_OK: u16 = 31;
const OPEN: u16 = 40;
const OPEN_OK: u16 = 41;
const CLOSE: u16 = 50;
const CLOSE_OK: u16 = 51;
const FRAME_END: u8 = 0xce;

async fn send(stream: &mut TcpStream, method: u16, arguments: &[u8]) -> std::io::Result<()> {
    let size = u32::try_from(arguments.len() + 4).unwrap_or(u32::MAX);
    let mut frame = vec![1, 0, 0];
    frame.extend(size.to_be_bytes());
    frame.extend([0, 10]);
    frame.extend(method.to_be_bytes());
    frame.extend(arguments);
    frame.push(FRAME_END);
    stream.write_all(&frame).await
}

/// Reads the next method, which must be this one, and gives its arguments.
async fn expect(stream: &mut TcpStream, method: u16) -> std::io::Result<Vec<u8>> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut body = vec![0; usize::try_from(size).unwrap_or(0) + 1];
    stream.read_exact(&mut body).await?;
    let found = u16::from_be_bytes([body[2], body[3]]);
    if found != method {
        let what = format!("method {found} in place of {method}");
        return Err(std::io::Error::other(what));
    }
    body.pop();
    Ok(body.split_off(4))
}

#[async_trait(?Send)]
impl Server for RabbitServer {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn start(&self) {
        self.process.spawn();
        let what = format!("a login at rabbitmq-server on port {}", self.port);
        wait::until(what, Duration::from_secs(90), async || {
            let login = tokio::time::timeout(Duration::from_secs(5), self.log_in()).await;
            match login {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(format!("{error}, its output: {}", self.process.output())),
                Err(_) => Err("no answer to the login".to_owned()),
            }
        })
        .await;
    }

    async fn stop(&self) {
        self.process.stop().await;
    }

    async fn kill(&self) {
        self.process.kill().await;
    }

    fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    fn resume(&self) {
        self.process.signal(Signal::CONT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_real_rabbit_keeps_its_data_when_it_is_killed_and_serves_only_while_it_runs() {
        let server = RabbitServer::launch(Rabbit::default()).await;
        server.control(&["add_vhost", "mine"]).await;
        server.kill().await;
        assert!(server.log_in().await.is_err());
        server.start().await;
        assert!(server.control(&["list_vhosts"]).await.contains("mine"));

        server.pause();
        let silence = tokio::time::timeout(Duration::from_millis(500), server.log_in()).await;
        assert!(silence.is_err(), "{silence:?}");
        server.resume();
        let login = server.log_in();
        wait::within("a login", Duration::from_secs(10), login)
            .await
            .unwrap();

        server.stop().await;
        assert!(server.log_in().await.is_err());
        let members = server.process.members();
        assert!(members.is_empty(), "{members:?}");
    }
}
