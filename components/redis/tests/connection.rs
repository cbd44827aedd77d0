//! Connecting to a real Redis, and noticing that it is gone: passwords, TLS, replicas, kills, freezes, failover.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail the test that called it"
)]

mod bench;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bench::{
    Recorder, SOON, address, ask, attempt, broker, checked, get, message, publish, raw, resource,
    set, store, subscribe,
};
use outrigger_component_api::{Class, ComponentError, ErrorKind, Opener, Outcome, StateStore};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::suites::open::Opened;
use outrigger_testkit::{PrivateDir, ports, wait};

const TRANSIENT: ErrorKind = ErrorKind::Connection(Class::Transient);
const AUTH: ErrorKind = ErrorKind::Connection(Class::Auth);
const TIMEOUT: ErrorKind = ErrorKind::Connection(Class::Timeout);

fn opener(host: &str, more: &[(&str, &str)]) -> Opener<dyn StateStore> {
    checked(resource("state.redis", host, more).state_store())
}

/// Why the store does not open.
async fn refusal(host: &str, more: &[(&str, &str)]) -> ComponentError {
    match Opened::attempt(&opener(host, more)).await {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

/// Opens again and again, as the supervisor does.
async fn reopened(opener: &Opener<dyn StateStore>, deadline: Duration) -> Opened<dyn StateStore> {
    wait::until("an instance", deadline, async || {
        let opened = Opened::attempt(opener).await?;
        opened.ping().await?;
        Ok::<_, ComponentError>(opened)
    })
    .await
}

fn server(arguments: &[&str]) -> Redis {
    Redis {
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        ..Redis::default()
    }
}

#[tokio::test]
async fn a_login_needs_the_right_password_on_real_redis() {
    let server = RedisServer::launch(Redis {
        password: Some("s3cret-word".into()),
        ..Redis::default()
    })
    .await;
    let host = address(&server);
    let none = refusal(&host, &[]).await;
    assert_eq!(none.kind, AUTH);
    assert!(none.message.contains("NOAUTH"), "{none}");
    let wrong = refusal(&host, &[("redisPassword", "wr0ng-word")]).await;
    assert_eq!(wrong.kind, AUTH);
    assert_eq!(
        wrong.message,
        format!(
            "error connecting to redis at {host}: WRONGPASS invalid username-password pair or user is disabled."
        )
    );
    let nobody = refusal(
        &host,
        &[
            ("redisUsername", "nobody"),
            ("redisPassword", "s3cret-word"),
        ],
    )
    .await;
    assert_eq!(nobody.kind, AUTH);
    for error in [none, wrong, nobody] {
        assert!(!error.message.contains("s3cret") && !error.message.contains("wr0ng"));
    }
    let store = store(&host, &[("redisPassword", "s3cret-word")]).await;
    store.set(&set("k", "1")).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_password_that_nobody_asked_for_is_refused_and_not_told_on_real_redis() {
    let server = RedisServer::shared().await;
    let error = refusal(&address(server), &[("redisPassword", "s3cret-word")]).await;
    assert_eq!(error.kind, AUTH);
    assert!(!error.message.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn a_user_without_the_right_to_ask_for_the_role_may_write_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let raw = raw(&server).await;
    let () = ask(
        &raw,
        &[
            "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-info", "-script",
        ],
    )
    .await;
    let login = [("redisUsername", "app"), ("redisPassword", "pw")];
    let store = store(&address(&server), &login).await;
    store.set(&set("k", "1")).await.unwrap();
    assert!(store.get(&get("k")).await.unwrap().is_some());
    let () = ask(&raw, &["ACL", "SETUSER", "app", "-hgetall"]).await;
    let error = store.get(&get("k")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed, "{error}");
    store.close().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_with_its_name() {
    let port = ports::free();
    let error = refusal(&format!("127.0.0.1:{port}"), &[]).await;
    assert_eq!(error.kind, TRANSIENT);
    assert_eq!(
        error.message,
        format!("error connecting to redis at 127.0.0.1:{port}: connection refused")
    );
    let error = refusal("no-such-host.invalid", &[]).await;
    assert_eq!(error.kind, TRANSIENT);
    assert!(
        error
            .message
            .starts_with("error connecting to redis at no-such-host.invalid:6379: lookup "),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_server_has_the_time_of_the_attempt_and_a_dropped_attempt_leaves_nothing() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = silent.local_addr().unwrap().to_string();
    // `readTimeout` is for calls: who opens the component says how long it may take.
    let opener = opener(&host, &[("readTimeout", "100ms")]);
    let dropped = tokio::time::timeout(Duration::from_millis(500), Opened::attempt(&opener)).await;
    assert!(dropped.is_err());
    let (mut stream, _) = silent.accept().await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
    wait::within("a closed connection", SOON, read).await.ok();
}

#[tokio::test]
async fn a_replica_is_no_place_to_write_on_real_redis() {
    let primary = RedisServer::launch(server(&["--repl-diskless-sync-delay", "0"])).await;
    let replica = RedisServer::launch(Redis {
        replica_of: Some(address(&primary)),
        ..Redis::default()
    })
    .await;
    let error = refusal(&address(&replica), &[]).await;
    assert_eq!(error.kind, TRANSIENT);
    assert!(error.message.contains("is a replica"), "{error}");
    let raw = raw(&replica).await;
    let () = ask(&raw, &["REPLICAOF", "NO", "ONE"]).await;
    let mut promoted = store(&address(&replica), &[]).await;
    promoted.set(&set("k", "1")).await.unwrap();
    let host = ["127.0.0.1", &primary.port().to_string()];
    let () = ask(&raw, &["REPLICAOF", host[0], host[1]]).await;
    let error = promoted.ping().await.unwrap_err();
    assert_eq!(error.kind, TRANSIENT);
    let error = promoted.set(&set("k", "2")).await.unwrap_err();
    assert_eq!(error.kind, TRANSIENT);
    assert!(
        error.message.starts_with("failed to set key k: READONLY"),
        "{error}"
    );
    let loss = wait::within("a report", SOON, promoted.lost()).await;
    assert_eq!(loss.kind, TRANSIENT);
    promoted.close().await;
}

#[tokio::test]
async fn a_server_that_still_loads_is_waited_for_on_real_redis() {
    let server = RedisServer::launch(server(&["--enable-debug-command", "yes"])).await;
    let host = address(&server);
    let opened = store(&host, &[]).await;
    let raw = raw(&server).await;
    let () = ask(&raw, &["DEBUG", "POPULATE", "2000"]).await;
    let () = ask(&raw, &["CONFIG", "SET", "key-load-delay", "1000"]).await;
    let () = ask(
        &raw,
        &[
            "CONFIG",
            "SET",
            "loading-process-events-interval-bytes",
            "1024",
        ],
    )
    .await;
    let mut reload = redis::cmd("DEBUG");
    reload.arg("RELOAD");
    let mut other = raw.clone();
    let reloading = reload.query_async::<()>(&mut other);
    let asking = wait::until("an answer of a loading server", SOON, async || match opened
        .ping()
        .await
    {
        Err(error) if error.message.contains("LOADING") => Ok(error.kind),
        other => Err(other),
    });
    let (seen, reloaded) = tokio::join!(asking, reloading);
    assert_eq!(seen, TRANSIENT);
    reloaded.unwrap();
    opened.ping().await.unwrap();
    opened.close().await;
}

#[tokio::test]
async fn a_killed_server_is_reported_at_once_and_calls_fail_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let host = address(&server);
    let opener = opener(&host, &[]);
    let mut opened = Opened::ready(&opener).await;
    opened.set(&set("k", "1")).await.unwrap();
    let killed = tokio::time::Instant::now();
    server.kill().await;
    let loss = wait::within("a report", SOON, opened.lost()).await;
    assert!(killed.elapsed() < Duration::from_secs(1));
    assert_eq!(loss.kind, TRANSIENT);
    let lost = format!("the connection to redis at {host} was lost");
    assert_eq!(loss.message, lost);
    assert_eq!(opened.ping().await.unwrap_err().kind, TRANSIENT);
    let error = opened.set(&set("k", "2")).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message),
        (TRANSIENT, format!("failed to set key k: {lost}"))
    );
    let error = opened.get(&get("k")).await.unwrap_err();
    assert_eq!((error.kind, error.message), (TRANSIENT, lost));
    let keys = ["k", "l"].map(get);
    let found = opened.bulk_get(&keys, 0).await.unwrap();
    assert!(found.iter().all(|(_, item)| item.is_err()));
    opened.close().await;
    server.start().await;
    let again = reopened(&opener, SOON).await;
    let item = again.get(&get("k")).await.unwrap().unwrap();
    assert_eq!(item.data.as_ref(), b"1", "nothing acknowledged was lost");
    again.close().await;
}

#[tokio::test]
async fn a_frozen_server_is_found_by_ping_and_bounds_calls_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let opened = store(&address(&server), &[("readTimeout", "400ms")]).await;
    server.pause();
    let asked = tokio::time::Instant::now();
    let errors = [
        opened.get(&get("k")).await.unwrap_err(),
        opened.set(&set("k", "1")).await.unwrap_err(),
    ];
    assert!(asked.elapsed() < Duration::from_secs(2));
    for error in errors {
        assert_eq!(error.kind, TIMEOUT, "{error}");
    }
    let ping = tokio::time::timeout(Duration::from_millis(300), opened.ping()).await;
    assert!(ping.is_err());
    server.resume();
    opened.ping().await.unwrap();
    assert!(opened.get(&get("other")).await.unwrap().is_none());
    opened.close().await;
}

#[tokio::test]
async fn publishers_and_subscribers_come_back_after_a_restart_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let settings = [
        ("processingTimeout", "300ms"),
        ("redeliverInterval", "100ms"),
    ];
    let opener = checked(resource("pubsub.redis", &address(&server), &settings).pubsub());
    let mut first = Opened::ready(&opener).await;
    let handler = Recorder::answering([Outcome::Retry("later".into())]);
    let source = subscribe(&first, "restart", &handler).await;
    publish(&first, "restart", "1").await;
    handler.wait_for(1).await;
    server.kill().await;
    wait::within("a report", SOON, first.lost()).await;
    let error = first.publish(message("restart", "x")).await.unwrap_err();
    assert_eq!(error.kind, TRANSIENT);
    let ended = wait::within("the end of the source", SOON, source.ended()).await;
    assert_eq!(ended.kind, TRANSIENT);
    wait::within("a close without server", SOON, source.close()).await;
    first.close().await;
    server.start().await;
    let second = Opened::ready(&opener).await;
    let source = subscribe(&second, "restart", &handler).await;
    publish(&second, "restart", "2").await;
    handler.wait_for(3).await;
    let mut payloads = handler.payloads();
    payloads.sort_unstable();
    assert_eq!(payloads, ["1", "1", "2"]);
    source.close().await;
    second.close().await;
}

mod tls {
    use super::*;

    fn file(name: &str) -> String {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
        path.join(name).display().to_string()
    }

    fn text(name: &str) -> String {
        std::fs::read_to_string(file(name)).unwrap()
    }

    /// A server with TLS on a second port, and that port.
    async fn launch(clients: &str) -> (RedisServer, String) {
        let port = ports::free().to_string();
        let (certificate, key, roots) = (file("server.pem"), file("server.key"), file("ca.pem"));
        let options = server(&[
            "--tls-port",
            &port,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &roots,
            "--tls-auth-clients",
            clients,
        ]);
        (
            RedisServer::launch(options).await,
            format!("localhost:{port}"),
        )
    }

    #[tokio::test]
    async fn a_server_is_trusted_by_its_authority_on_real_redis() {
        let (_server, host) = launch("no").await;
        let roots = text("ca.pem");
        let trusting = [("enableTLS", "true"), ("caCert", roots.as_str())];
        let opened = store(&host, &trusting).await;
        opened.set(&set("k", "1")).await.unwrap();
        assert!(opened.get(&get("k")).await.unwrap().is_some());
        opened.close().await;
        let unknown = refusal(&host, &[("enableTLS", "true")]).await;
        assert_eq!(unknown.kind, AUTH, "{unknown}");
        let insecure = [("enableTLS", "true"), ("insecureSkipTLSVerify", "true")];
        store(&host, &insecure).await.close().await;
        let plain = refusal(&host, &[]).await;
        assert_eq!(plain.kind, TRANSIENT, "{plain}");
    }

    #[tokio::test]
    async fn a_client_shows_its_certificate_on_real_redis() {
        let (_server, host) = launch("yes").await;
        let (roots, certificate, key) = (text("ca.pem"), text("client.pem"), text("client.key"));
        let mut settings = vec![("enableTLS", "true"), ("caCert", roots.as_str())];
        let error = refusal(&host, &settings).await;
        assert!(error.doubts_connection(), "{error}");
        settings.push(("clientCert", &certificate));
        settings.push(("clientKey", &key));
        let opened = store(&host, &settings).await;
        opened.set(&set("k", "1")).await.unwrap();
        opened.close().await;
        let broker = broker(&host, &settings).await;
        let handler = Recorder::always(Outcome::Done);
        let source = subscribe(&broker, "tls", &handler).await;
        publish(&broker, "tls", "x").await;
        handler.wait_for(1).await;
        source.close().await;
        broker.close().await;
    }

    #[tokio::test]
    async fn a_server_without_tls_is_no_partner_on_real_redis() {
        let server = RedisServer::shared().await;
        let error = refusal(&address(server), &[("enableTLS", "true")]).await;
        assert!(error.doubts_connection(), "{error}");
    }
}

mod failover {
    use super::*;

    /// A sentinel process. It ends with this handle, and with the test process.
    struct Sentinel {
        port: u16,
        guard: Child,
        _dir: PrivateDir,
    }

    impl Drop for Sentinel {
        fn drop(&mut self) {
            drop(self.guard.stdin.take());
            self.guard.wait().ok();
        }
    }

    const GUARD: &str =
        r#"redis-server "$0" --sentinel > /dev/null 2>&1 & pid=$!; cat; kill -9 $pid"#;

    impl Sentinel {
        async fn launch(primary: &RedisServer) -> Self {
            let port = ports::free();
            let dir = PrivateDir::new("sentinel");
            let file = dir.path().join("sentinel.conf");
            let lines = format!(
                "port {port}\nbind 127.0.0.1\ndir {}\n\
                 requirepass guide\n\
                 sentinel monitor main 127.0.0.1 {} 1\n\
                 sentinel auth-pass main pw\n\
                 sentinel down-after-milliseconds main 2000\n\
                 sentinel failover-timeout main 10000\n",
                dir.path().display(),
                primary.port(),
            );
            std::fs::write(&file, lines).unwrap();
            let guard = Command::new("sh")
                .args(["-c", GUARD])
                .arg(&file)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            let sentinel = Self {
                port,
                guard,
                _dir: dir,
            };
            wait::until("a sentinel that knows the replica", SOON, async || {
                let client =
                    redis::Client::open(format!("redis://:guide@127.0.0.1:{port}")).unwrap();
                let connection = client
                    .get_multiplexed_async_connection()
                    .await
                    .map_err(|error| error.to_string())?;
                let replicas: Vec<redis::Value> =
                    attempt(&connection, &["SENTINEL", "REPLICAS", "main"])
                        .await
                        .map_err(|error| error.to_string())?;
                if replicas.is_empty() {
                    return Err("no replica".to_owned());
                }
                Ok(())
            })
            .await;
            sentinel
        }
    }

    #[tokio::test]
    async fn the_primary_behind_sentinels_is_followed_on_real_redis() {
        let password = Some("pw".to_owned());
        let primary = RedisServer::launch(Redis {
            password: password.clone(),
            ..server(&["--repl-diskless-sync-delay", "0"])
        })
        .await;
        let replica = RedisServer::launch(Redis {
            password,
            replica_of: Some(address(&primary)),
            ..Redis::default()
        })
        .await;
        let sentinel = Sentinel::launch(&primary).await;
        // The first of the list is not there.
        let sentinels = format!("127.0.0.1:{},127.0.0.1:{}", ports::free(), sentinel.port);
        let settings = [
            ("failover", "true"),
            ("sentinelMasterName", "main"),
            ("sentinelPassword", "guide"),
            ("redisPassword", "pw"),
        ];
        let opener = opener(&sentinels, &settings);
        let mut opened = Opened::ready(&opener).await;
        opened.set(&set("k", "copied")).await.unwrap();
        wait::until("a copy", SOON, async || {
            let held = replica.command(&["HGET", "k", "data"]).await.unwrap();
            if held.ends_with("copied") {
                Ok(())
            } else {
                Err(held)
            }
        })
        .await;

        let killed = tokio::time::Instant::now();
        primary.kill().await;
        wait::within("a report", SOON, opened.lost()).await;
        opened.close().await;
        let opened = reopened(&opener, Duration::from_secs(15)).await;
        assert!(killed.elapsed() < Duration::from_secs(15));
        opened.set(&set("k", "2")).await.unwrap();
        assert_eq!(
            opened
                .get(&get("k"))
                .await
                .unwrap()
                .unwrap()
                .etag
                .as_deref(),
            Some("2")
        );

        // The old primary returns and is made a replica; nobody writes to it.
        primary.start().await;
        wait::until("a demotion", Duration::from_secs(20), async || {
            let role = primary.command(&["ROLE"]).await.unwrap();
            if role.contains("slave") {
                Ok(())
            } else {
                Err(role)
            }
        })
        .await;
        for n in 3..20 {
            opened.set(&set("k", &n.to_string())).await.unwrap();
        }
        opened.close().await;
        let wrong = [
            ("failover", "true"),
            ("sentinelMasterName", "other"),
            ("sentinelPassword", "guide"),
            ("redisPassword", "pw"),
        ];
        let error = refusal(&sentinels, &wrong).await;
        assert_eq!(error.kind, TRANSIENT);
        assert!(error.message.contains("`other`"), "{error}");
    }
}
