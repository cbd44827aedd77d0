//! A Redis Sentinel for one test.

use std::time::Duration;

use crate::process::{Process, Program};
use crate::servers::RedisServer;
use crate::{PrivateDir, ports, wait};

/// Watches a primary under the name `main`, and makes its replica the primary when it is gone for two seconds.
#[derive(Debug)]
pub struct Sentinel {
    port: u16,
    _process: Process,
}

impl Sentinel {
    /// A sentinel that knows a replica of `primary`.
    ///
    /// # Panics
    /// When it does not find one within twenty seconds, and when Redis is not installed.
    pub async fn launch(primary: &RedisServer) -> Self {
        let port = ports::free();
        let dir = PrivateDir::new("sentinel");
        let lines = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 2000\nsentinel failover-timeout main 10000\n",
            dir.path().display(),
            primary.port(),
        );
        // It writes down there what it learns.
        let file = dir.write("sentinel.conf", lines);
        let program = Program {
            name: "redis-server",
            install: super::redis::INSTALL,
            arguments: vec![file.display().to_string(), "--sentinel".to_owned()],
            environment: Vec::new(),
        };
        let process = Process::new(program, dir);
        process.spawn();
        wait::until(
            "a sentinel that knows a replica",
            Duration::from_secs(20),
            async || {
                let words = ["SENTINEL", "REPLICAS", "main"];
                match super::redis::command(port, None, &words).await {
                    Ok(answer) if answer.starts_with('*') && !answer.starts_with("*0") => Ok(()),
                    Ok(answer) => Err(answer),
                    Err(error) => Err(error.to_string()),
                }
            },
        )
        .await;
        Self {
            port,
            _process: process,
        }
    }

    /// Where clients ask for the primary.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}
