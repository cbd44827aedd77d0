//! A real Redis cluster: three primaries, slots that move, a primary that is replaced.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail the test that called it"
)]

mod bench;

use std::time::Duration;

use bench::{
    Recorder, SOON, address, ask, attempt, broker, checked, delete, get, hash, pending_becomes,
    publish, raw, resource, set, store, subscribe, with_etag,
};
use outrigger_component_api::{
    Class, ComponentError, Consistency, ErrorKind, Metadata, Operation, Outcome, Set,
};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::suites::open::Opened;
use outrigger_testkit::{ports, wait};

const CLUSTER: (&str, &str) = ("redisType", "cluster");
const TRANSIENT: ErrorKind = ErrorKind::Connection(Class::Transient);

struct Cluster {
    nodes: Vec<RedisServer>,
    bus: Vec<u16>,
}

impl Cluster {
    /// Three primaries that share the slots in equal parts, in the order of `nodes`.
    async fn launch() -> Self {
        let mut cluster = Self {
            nodes: Vec::new(),
            bus: Vec::new(),
        };
        for _ in 0..3 {
            cluster.add().await;
        }
        for (at, slots) in [("0", "5460"), ("5461", "10922"), ("10923", "16383")]
            .iter()
            .enumerate()
        {
            let node = raw(&cluster.nodes[at]).await;
            let () = ask(&node, &["CLUSTER", "ADDSLOTSRANGE", slots.0, slots.1]).await;
        }
        cluster.agrees(3).await;
        cluster
    }

    async fn add(&mut self) {
        let bus = ports::free();
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "2000",
            "--cluster-port",
            &bus.to_string(),
            "--repl-diskless-sync-delay",
            "0",
        ];
        let node = RedisServer::launch(Redis {
            arguments: arguments.map(str::to_owned).to_vec(),
            ..Redis::default()
        })
        .await;
        if let Some(first) = self.nodes.first() {
            let (port, bus) = (first.port().to_string(), self.bus[0].to_string());
            let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &bus];
            let () = ask(&raw(&node).await, &meet).await;
        }
        self.nodes.push(node);
        self.bus.push(bus);
    }

    /// Waits until every node sees so many nodes and all slots served.
    async fn agrees(&self, known: usize) {
        for node in &self.nodes {
            let node = raw(node).await;
            wait::until(
                "a cluster that agrees",
                Duration::from_secs(30),
                async || {
                    let info: String = ask(&node, &["CLUSTER", "INFO"]).await;
                    let is_whole = info.contains("cluster_state:ok")
                        && info.contains(&format!("cluster_known_nodes:{known}\r"));
                    if is_whole { Ok(()) } else { Err(info) }
                },
            )
            .await;
        }
    }

    /// The seeds as in `redisHost`; the first is not there.
    fn seeds(&self) -> String {
        format!("127.0.0.1:{},{}", ports::free(), address(&self.nodes[1]))
    }

    async fn id(&self, at: usize) -> String {
        ask(&raw(&self.nodes[at]).await, &["CLUSTER", "MYID"]).await
    }
}

/// Slot 12182 lies on the third node, 866 of `hello` on the first.
const THIRD: &str = "foo";
const FIRST: &str = "hello";
const SLOT_OF_FIRST: &str = "866";

#[tokio::test]
async fn keys_go_to_their_nodes_on_a_real_cluster() {
    let cluster = Cluster::launch().await;
    let store = store(&cluster.seeds(), &[CLUSTER, ("redisDB", "5")]).await;
    let names: Vec<String> = (0..60).map(|n| format!("app||k{n:02}")).collect();
    for name in &names {
        store.set(&set(name, name)).await.unwrap();
    }
    let requests: Vec<_> = names.iter().map(|name| get(name)).collect();
    let found = store.bulk_get(&requests, 0).await.unwrap();
    for ((key, item), name) in found.iter().zip(&names) {
        let item = item.as_ref().unwrap().as_ref().unwrap();
        assert_eq!((key, item.data.as_ref()), (name, name.as_bytes()));
        assert_eq!(item.etag.as_deref(), Some("1"));
    }
    let listed = store.keys_like("app||k%", None, None).await.unwrap();
    assert_eq!(listed.keys, names);
    for node in &cluster.nodes {
        let held: usize = ask(&raw(node).await, &["DBSIZE"]).await;
        assert!(held > 5, "{held}");
    }
    store.delete(&delete(&names[0])).await.unwrap();
    assert_eq!(store.get(&get(&names[0])).await.unwrap(), None);
    let strong = Set {
        consistency: Consistency::Strong,
        ..set(FIRST, "1")
    };
    store.set(&strong).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn transactions_are_atomic_within_a_slot_and_checked_beyond_on_a_real_cluster() {
    let cluster = Cluster::launch().await;
    let store = store(&cluster.seeds(), &[CLUSTER]).await;
    let first = raw(&cluster.nodes[0]).await;
    let third = raw(&cluster.nodes[2]).await;
    let together = ["{hello}a", "{hello}b"].map(|key| Operation::Set(set(key, "1")));
    store.transact(&together, &Metadata::new()).await.unwrap();
    assert_eq!(hash(&first, "{hello}b").await, "data=1 version=1");
    let apart = [FIRST, THIRD].map(|key| Operation::Set(set(key, "1")));
    store.transact(&apart, &Metadata::new()).await.unwrap();
    assert_eq!(hash(&third, THIRD).await, "data=1 version=1");
    let refused = [
        Operation::Set(set(FIRST, "2")),
        Operation::Set(with_etag(set(THIRD, "2"), "7")),
    ];
    let error = store
        .transact(&refused, &Metadata::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::EtagMismatch);
    assert_eq!(hash(&first, FIRST).await, "data=1 version=1", "not applied");
    store.close().await;
}

#[tokio::test]
async fn a_slot_that_moves_is_followed_on_a_real_cluster() {
    let cluster = Cluster::launch().await;
    let store = store(&cluster.seeds(), &[CLUSTER]).await;
    store.set(&set(FIRST, "1")).await.unwrap();
    let (from, to) = (raw(&cluster.nodes[0]).await, raw(&cluster.nodes[2]).await);
    let (from_id, to_id) = (cluster.id(0).await, cluster.id(2).await);
    let slot = |rest: [&str; 2]| {
        let words = ["CLUSTER", "SETSLOT", SLOT_OF_FIRST, rest[0], rest[1]];
        words.map(str::to_owned)
    };
    let tell = async |node: &redis::aio::MultiplexedConnection, rest: [&str; 2]| {
        let words = slot(rest);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let () = ask(node, &words).await;
    };
    tell(&to, ["IMPORTING", &from_id]).await;
    tell(&from, ["MIGRATING", &to_id]).await;
    // While it moves, an absent key lies on the new node, and whoever comes must ask.
    let port = cluster.nodes[2].port().to_string();
    let migrate = ["MIGRATE", "127.0.0.1", &port, FIRST, "0", "5000"];
    let () = ask(&from, &migrate).await;
    store.set(&set(FIRST, "2")).await.unwrap();
    let item = store.get(&get(FIRST)).await.unwrap().unwrap();
    assert_eq!(item.etag.as_deref(), Some("2"), "the same value, elsewhere");
    for node in [&to, &from, &raw(&cluster.nodes[1]).await] {
        tell(node, ["NODE", &to_id]).await;
    }
    store.set(&set(FIRST, "3")).await.unwrap();
    let found = store.bulk_get(&[get(FIRST), get(THIRD)], 0).await.unwrap();
    let item = found[0].1.clone().unwrap().unwrap();
    assert_eq!(item.etag.as_deref(), Some("3"));
    assert_eq!(hash(&to, FIRST).await, "data=3 version=3");
    store.ping().await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_slot_that_nobody_has_for_a_while_is_waited_for_on_a_real_cluster() {
    let cluster = Cluster::launch().await;
    let patient = [
        CLUSTER,
        ("redisMaxRetries", "1000"),
        ("redisMaxRetryInterval", "10"),
        ("readTimeout", "20s"),
    ];
    let store = store(&cluster.seeds(), &patient).await;
    for node in &cluster.nodes {
        let () = ask(&raw(node).await, &["CLUSTER", "DELSLOTS", SLOT_OF_FIRST]).await;
    }
    let first = raw(&cluster.nodes[0]).await;
    let given = async {
        wait::until("a refusal", SOON, async || {
            let errors: String = ask(&first, &["INFO", "errorstats"]).await;
            errors.contains("errorstat_CLUSTERDOWN")
        })
        .await;
        let third = raw(&cluster.nodes[2]).await;
        let () = ask(&third, &["CLUSTER", "ADDSLOTS", SLOT_OF_FIRST]).await;
    };
    let value = set(FIRST, "1");
    let (written, ()) = tokio::join!(store.set(&value), given);
    written.unwrap();
    assert_eq!(
        hash(&raw(&cluster.nodes[2]).await, FIRST).await,
        "data=1 version=1"
    );
    store.close().await;
}

#[tokio::test]
async fn messages_flow_through_the_node_of_their_topic_on_a_real_cluster() {
    let cluster = Cluster::launch().await;
    let broker = broker(&cluster.seeds(), &[CLUSTER, ("consumerID", "g")]).await;
    let handler = Recorder::always(Outcome::Done);
    let sources = [
        subscribe(&broker, FIRST, &handler).await,
        subscribe(&broker, THIRD, &handler).await,
    ];
    for n in 0..20 {
        publish(&broker, FIRST, &n.to_string()).await;
        publish(&broker, THIRD, &n.to_string()).await;
    }
    handler.wait_for(40).await;
    pending_becomes(&raw(&cluster.nodes[0]).await, FIRST, "g", 0).await;
    pending_becomes(&raw(&cluster.nodes[2]).await, THIRD, "g", 0).await;
    let asked = tokio::time::Instant::now();
    for source in sources {
        source.close().await;
    }
    assert!(asked.elapsed() < Duration::from_secs(1));
    broker.close().await;
}

#[tokio::test]
async fn the_replica_of_a_dead_primary_takes_over_on_a_real_cluster() {
    let mut cluster = Cluster::launch().await;
    cluster.add().await;
    cluster.agrees(4).await;
    let replica = raw(&cluster.nodes[3]).await;
    let primary_id = cluster.id(0).await;
    wait::until("a replica", SOON, async || {
        let words = ["CLUSTER", "REPLICATE", &primary_id];
        attempt::<()>(&replica, &words)
            .await
            .map_err(|error| error.to_string())
    })
    .await;
    let opener = checked(resource("state.redis", &cluster.seeds(), &[CLUSTER]).state_store());
    let mut opened = Opened::ready(&opener).await;
    opened.set(&set(FIRST, "copied")).await.unwrap();
    wait::until("a copy", SOON, async || {
        let () = ask(&replica, &["READONLY"]).await;
        let size: usize = ask(&replica, &["DBSIZE"]).await;
        size == 1
    })
    .await;
    cluster.nodes[0].kill().await;
    let loss = wait::within("a report", SOON, opened.lost()).await;
    assert_eq!(loss.kind, TRANSIENT);
    opened.close().await;
    let opened = wait::until("an instance", Duration::from_secs(30), async || {
        let opened = Opened::attempt(&opener).await?;
        opened.set(&set(FIRST, "after")).await?;
        Ok::<_, ComponentError>(opened)
    })
    .await;
    let item = opened.get(&get(FIRST)).await.unwrap().unwrap();
    assert_eq!(item.etag.as_deref(), Some("2"), "the copy lives on");
    opened.close().await;
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_told_on_real_redis() {
    let server = RedisServer::shared().await;
    let opener = checked(resource("state.redis", &address(server), &[CLUSTER]).state_store());
    let error = Opened::attempt(&opener).await.err().unwrap();
    assert_eq!(error.kind, TRANSIENT);
    assert!(
        error.message.contains("cluster support disabled"),
        "{error}"
    );
}
