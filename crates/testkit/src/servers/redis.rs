//! A Redis server for one test.

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
    "install Redis 6 or later (Debian and Ubuntu: `apt install redis-server`)";

/// How the server is to be.
#[derive(Clone, Debug, Default)]
pub struct Redis {
    pub password: Option<String>,
    /// `host:port` of the primary.
    pub replica_of: Option<String>,
    /// Further command line arguments, such as `--maxmemory 10mb`, one item per word.
    pub arguments: Vec<String>,
}

/// `redis-server` with its append-only file on. What it acknowledged survives a kill: it syncs before it answers.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    password: Option<String>,
    process: Process,
}

impl RedisServer {
    /// A server that answers.
    ///
    /// # Panics
    /// When it does not within ten seconds, and when it is not installed.
    pub async fn launch(options: Redis) -> Self {
        let server = Self::prepare(options);
        server.start().await;
        server
    }

    /// A server with its ports and folder, not started yet.
    pub fn prepare(options: Redis) -> Self {
        let port = ports::free();
        let dir = PrivateDir::new("redis");
        let mut arguments: Vec<String> = ["--bind", "127.0.0.1", "--save", ""]
            .map(str::to_owned)
            .to_vec();
        // The usual `everysec` may answer before it has written anything, while an earlier sync is still running.
        arguments.extend(["--appendonly", "yes", "--appendfsync", "always"].map(str::to_owned));
        arguments.extend(["--port".to_owned(), port.to_string()]);
        arguments.extend(["--dir".to_owned(), dir.path().display().to_string()]);
        if let Some(password) = &options.password {
            for option in ["--requirepass", "--masterauth"] {
                arguments.extend([option.to_owned(), password.clone()]);
            }
        }
        if let Some((host, port)) = options
            .replica_of
            .as_deref()
            .and_then(|primary| primary.rsplit_once(':'))
        {
            arguments.extend(["--replicaof", host, port].map(str::to_owned));
        }
        arguments.extend(options.arguments);
        let program = Program {
            name: "redis-server",
            install: INSTALL,
            arguments,
            environment: Vec::new(),
        };
        Self {
            port,
            password: options.password,
            process: Process::new(program, dir),
        }
    }

    /// A server that all cases of a test binary share; it ends with the binary. Nobody may stop it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RedisServer> = OnceCell::const_new();
        // Nobody kills it, so it may be fast.
        let options = || Redis {
            arguments: ["--appendfsync", "everysec"].map(str::to_owned).to_vec(),
            ..Redis::default()
        };
        SHARED.get_or_init(|| Self::launch(options())).await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends one command on a connection of its own and gives the server's raw answer, `+PONG` without its line end.
    ///
    /// # Errors
    /// When the server cannot be reached or the answer does not come.
    pub async fn command(&self, words: &[&str]) -> std::io::Result<String> {
        command(self.port, self.password.as_deref(), words).await
    }
}

/// One command on a connection of its own.
pub(super) async fn command(
    port: u16,
    password: Option<&str>,
    words: &[&str],
) -> std::io::Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        if let Some(password) = password {
            ask(&mut stream, &["AUTH", password]).await?;
        }
        ask(&mut stream, words).await
    };
    tokio::time::timeout(Duration::from_secs(5), talk).await?
}

async fn ask(stream: &mut TcpStream, words: &[&str]) -> std::io::Result<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await?;
        if read == 0 || is_complete(&answer) {
            return Ok(String::from_utf8_lossy(&answer).trim_end().to_owned());
        }
    }
}

/// Whether a whole reply is there: a line, a bulk string, or an array of them.
fn is_complete(mut answer: &[u8]) -> bool {
    let mut wanted = 1_i64;
    while wanted > 0 {
        let Some(end) = answer.windows(2).position(|pair| pair == b"\r\n") else {
            return false;
        };
        let number = || {
            let text = std::str::from_utf8(&answer[1..end]).unwrap_or_default();
            text.parse::<i64>().unwrap_or(-1)
        };
        wanted -= 1;
        let mut used = end + 2;
        match answer.first() {
            Some(b'$') if number() >= 0 => used += usize::try_from(number()).unwrap_or(0) + 2,
            Some(b'*') => wanted += number().max(0),
            _ => {}
        }
        match answer.get(used..) {
            Some(rest) => answer = rest,
            None => return false,
        }
    }
    true
}

#[async_trait(?Send)]
impl Server for RedisServer {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn start(&self) {
        self.process.spawn();
        let what = format!("an answer of redis-server on port {}", self.port);
        wait::until(what, Duration::from_secs(10), async || {
            match self.command(&["PING"]).await {
                Ok(answer) if answer == "+PONG" => Ok(()),
                other => Err(format!("{other:?}, its output: {}", self.process.output())),
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

    async fn ask(server: &RedisServer, words: &[&str]) -> String {
        server.command(words).await.unwrap()
    }

    #[tokio::test]
    async fn a_real_redis_keeps_its_data_when_it_is_killed_and_started_again() {
        let server = RedisServer::launch(Redis::default()).await;
        assert_eq!(ask(&server, &["SET", "k", "v"]).await, "+OK");
        server.kill().await;
        assert!(server.command(&["PING"]).await.is_err());
        server.start().await;
        assert_eq!(ask(&server, &["GET", "k"]).await, "$1\r\nv");
        server.stop().await;
        server.start().await;
        assert_eq!(ask(&server, &["GET", "k"]).await, "$1\r\nv");
    }

    #[tokio::test]
    async fn a_real_redis_that_is_paused_is_silent_until_it_is_resumed() {
        let server = RedisServer::launch(Redis::default()).await;
        server.pause();
        let ping = server.command(&["PING"]);
        let silence = tokio::time::timeout(Duration::from_millis(300), ping).await;
        assert!(silence.is_err(), "{silence:?}");
        server.resume();
        assert_eq!(ask(&server, &["PING"]).await, "+PONG");
    }

    #[tokio::test]
    async fn a_real_redis_can_have_a_password_and_a_replica() {
        let password = Some("secret".to_owned());
        let primary = RedisServer::launch(Redis {
            password: password.clone(),
            ..Redis::default()
        })
        .await;
        let replica = RedisServer::launch(Redis {
            password,
            replica_of: Some(primary.address()),
            ..Redis::default()
        })
        .await;
        ask(&primary, &["SET", "k", "v"]).await;
        wait::until("the copy", Duration::from_secs(20), async || {
            let seen = ask(&replica, &["GET", "k"]).await;
            if seen == "$1\r\nv" { Ok(()) } else { Err(seen) }
        })
        .await;
    }

    #[tokio::test]
    async fn the_processes_of_a_real_redis_end_with_their_owner() {
        let server = RedisServer::launch(Redis::default()).await;
        let members = server.process.members();
        assert_eq!(members.len(), 1);
        drop(server);
        assert!(rustix::process::test_kill_process(members[0]).is_err());
    }

    #[test]
    fn a_reply_is_complete_when_its_last_part_is_there() {
        for (reply, complete) in [
            ("+OK\r\n", true),
            ("+OK\r", false),
            ("$1\r\nv\r\n", true),
            ("$1\r\n", false),
            ("$-1\r\n", true),
            ("*2\r\n$1\r\na\r\n:1\r\n", true),
            ("*2\r\n$1\r\na\r\n", false),
            ("*0\r\n", true),
        ] {
            assert_eq!(is_complete(reply.as_bytes()), complete, "{reply:?}");
        }
    }
}
