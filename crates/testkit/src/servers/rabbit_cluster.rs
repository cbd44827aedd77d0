//! RabbitMQ nodes that form a cluster on this machine, for one test.
//!
//! They find each other through a name server of their own, which outlives any of them.

use std::time::Duration;

use crate::process::{Process, Program};
use crate::servers::rabbit::{INSTALL, Membership};
use crate::servers::{Rabbit, RabbitServer, Server as _};
use crate::{PrivateDir, ports, wait};

/// Nodes that know each other. User and password are `guest`.
#[derive(Debug)]
pub struct RabbitCluster {
    pub nodes: Vec<RabbitServer>,
    // Declared last: nodes that end still speak to it.
    _names: Process,
}

impl RabbitCluster {
    /// A cluster of so many nodes, all of which serve logins. Takes half a minute.
    ///
    /// # Panics
    /// When RabbitMQ is not installed, or the nodes do not find each other.
    pub async fn launch(count: usize) -> Self {
        let membership = Membership {
            epmd_port: ports::free(),
            cookie: uuid::Uuid::new_v4().simple().to_string(),
        };
        let names = Process::new(
            Program {
                name: "epmd",
                install: INSTALL,
                arguments: ["-port".to_owned(), membership.epmd_port.to_string()].into(),
                environment: Vec::new(),
            },
            PrivateDir::new("epmd"),
        );
        names.spawn();
        let node = || RabbitServer::prepare_in(Rabbit::default(), Some(&membership));
        let nodes: Vec<RabbitServer> = std::iter::repeat_with(node).take(count).collect();
        for node in &nodes {
            node.start().await;
        }
        let cluster = Self {
            nodes,
            _names: names,
        };
        if let Some((first, others)) = cluster.nodes.split_first() {
            for other in others {
                other.control(&["stop_app"]).await;
                other.control(&["join_cluster", &first.node()]).await;
                other.control(&["start_app"]).await;
            }
            cluster.agree(first, count).await;
        }
        cluster
    }

    /// Waits until so many nodes are known to run.
    async fn agree(&self, asked: &RabbitServer, count: usize) {
        wait::until("a whole cluster", Duration::from_secs(30), async || {
            let running = asked
                .control(&["eval", "length(rabbit_nodes:all_running())."])
                .await;
            if running.trim() == count.to_string() {
                Ok(())
            } else {
                Err(running)
            }
        })
        .await;
    }

    /// One URL that names every node.
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(RabbitServer::address).collect();
        format!("amqp://guest:guest@{}", hosts.join(","))
    }
}
