//! What lies in a real Redis after a write, and what is read of what others wrote.

mod bench;

use bench::{address, ask, delete, first_write, get, hash, raw, set, store, with, with_etag};
use outrigger_component_api::{
    Bytes, Concurrency, Consistency, Delete, ErrorKind, Metadata, Operation, Set, StateStore, Value,
};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::suites::open::Opened;
use outrigger_testkit::wait;

async fn shared(
    more: &[(&str, &str)],
) -> (Opened<dyn StateStore>, redis::aio::MultiplexedConnection) {
    let server = RedisServer::shared().await;
    (store(&address(server), more).await, raw(server).await)
}

fn json(key: &str, text: &'static str) -> Set {
    Set {
        value: Value::Json(Bytes::from_static(text.as_bytes())),
        ..set(key, "")
    }
}

fn kind(outcome: Result<(), outrigger_component_api::ComponentError>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind)
}

#[tokio::test]
async fn a_value_is_a_hash_with_data_and_version_on_real_redis() {
    let (store, raw) = shared(&[]).await;
    store.set(&json("form||a", "{\"b\": 1.10}")).await.unwrap();
    assert_eq!(hash(&raw, "form||a").await, "data={\"b\": 1.10} version=1");
    store.set(&set("form||a", "x")).await.unwrap();
    assert_eq!(hash(&raw, "form||a").await, "data=x version=2");
    let item = store.get(&get("form||a")).await.unwrap().unwrap();
    assert_eq!(item.data.as_ref(), b"x");
    assert_eq!(item.etag.as_deref(), Some("2"));
    store.close().await;
}

#[tokio::test]
async fn a_first_write_is_recorded_beside_the_value_on_real_redis() {
    let (store, raw) = shared(&[]).await;
    store.set(&first_write(set("first", "1"))).await.unwrap();
    assert_eq!(hash(&raw, "first").await, "data=1 first-write=0 version=1");
    let last = Set {
        concurrency: Concurrency::LastWrite,
        ..set("first", "2")
    };
    for (refused, expected) in [
        (first_write(set("first", "2")), ErrorKind::EtagMismatch),
        (with_etag(set("first", "2"), "9"), ErrorKind::EtagMismatch),
        (set("first", "2"), ErrorKind::Failed),
        (last, ErrorKind::Failed),
    ] {
        assert_eq!(kind(store.set(&refused).await), Some(expected));
    }
    store
        .set(&first_write(with_etag(set("first", "4"), "1")))
        .await
        .unwrap();
    store.set(&with_etag(set("first", "5"), "2")).await.unwrap();
    assert_eq!(hash(&raw, "first").await, "data=5 first-write=0 version=3");
    store.close().await;
}

#[tokio::test]
async fn etags_are_judged_as_dapr_does_on_real_redis() {
    let (store, raw) = shared(&[]).await;
    store
        .set(&with_etag(set("tag||new", "1"), "7"))
        .await
        .unwrap();
    assert_eq!(hash(&raw, "tag||new").await, "data=1 version=1");
    let refused = store
        .set(&with_etag(set("tag||new", "2"), "7"))
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::EtagMismatch);
    assert_eq!(
        refused.message,
        "possible etag mismatch. error from state store"
    );
    let malformed = store
        .set(&with_etag(set("tag||new", "2"), "abc"))
        .await
        .unwrap_err();
    assert_eq!(malformed.kind, ErrorKind::EtagInvalid);
    assert_eq!(
        malformed.message,
        "invalid etag value: strconv.Atoi: parsing \"abc\": invalid syntax"
    );
    store
        .set(&Set {
            concurrency: Concurrency::LastWrite,
            ..with_etag(set("tag||new", "3"), "9")
        })
        .await
        .unwrap();
    let tagged = |etag: &str| Delete {
        etag: Some(etag.to_owned()),
        ..delete("tag||new")
    };
    for etag in ["9", "abc"] {
        let refused = store.delete(&tagged(etag)).await;
        assert_eq!(kind(refused), Some(ErrorKind::EtagMismatch), "{etag}");
    }
    store.delete(&tagged("2")).await.unwrap();
    store.delete(&tagged("2")).await.unwrap();
    assert_eq!(store.get(&get("tag||new")).await.unwrap(), None);
    store.close().await;
}

#[tokio::test]
async fn expiry_is_the_keys_own_on_real_redis() {
    let (store, raw) = shared(&[]).await;
    let left = async |key: &str| ask::<i64>(&raw, &["TTL", key]).await;
    let ttl = |seconds: &str| with(set("ttl", "1"), "ttlInSeconds", seconds);
    store.set(&ttl("100")).await.unwrap();
    assert!((95..=100).contains(&left("ttl").await));
    store.set(&set("ttl", "2")).await.unwrap();
    assert!((95..=100).contains(&left("ttl").await), "kept");
    let item = store.get(&get("ttl")).await.unwrap().unwrap();
    let told = chrono::DateTime::parse_from_rfc3339(&item.metadata["ttlExpireTime"]).unwrap();
    let seconds = told.signed_duration_since(chrono::Utc::now()).num_seconds();
    assert!((90..=100).contains(&seconds), "{seconds}");
    for never in ["-1", "0", "-2"] {
        store.set(&ttl("100")).await.unwrap();
        store.set(&ttl(never)).await.unwrap();
        assert_eq!(left("ttl").await, -1, "{never}");
    }
    let item = store.get(&get("ttl")).await.unwrap().unwrap();
    assert_eq!(item.metadata, Metadata::new());
    store.set(&ttl("99999999999")).await.unwrap();
    assert!(left("ttl").await > 99_999_000_000);
    let before = hash(&raw, "ttl").await;
    for bad in ["x", "9223372036854775807"] {
        assert!(store.set(&ttl(bad)).await.is_err(), "{bad}");
    }
    assert_eq!(hash(&raw, "ttl").await, before, "nothing was written");
    store.close().await;
}

#[tokio::test]
async fn the_components_expiry_goes_to_writes_without_one_on_real_redis() {
    let (store, raw) = shared(&[("ttlInSeconds", "50")]).await;
    store.set(&set("dttl||a", "1")).await.unwrap();
    assert!(ask::<i64>(&raw, &["TTL", "dttl||a"]).await > 40);
    store
        .set(&with(set("dttl||b", "1"), "ttlInSeconds", "-1"))
        .await
        .unwrap();
    assert_eq!(ask::<i64>(&raw, &["TTL", "dttl||b"]).await, -1);
    let operations = ["dttl||c", "dttl||d"].map(|key| Operation::Set(set(key, "1")));
    store.transact(&operations, &Metadata::new()).await.unwrap();
    assert!(ask::<i64>(&raw, &["TTL", "dttl||c"]).await > 40);
    store.close().await;
}

#[tokio::test]
async fn values_of_others_are_read_or_refused_on_real_redis() {
    let (store, raw) = shared(&[]).await;
    let () = ask(&raw, &["SET", "other||text", "plain"]).await;
    let () = ask(&raw, &["RPUSH", "other||list", "1"]).await;
    let () = ask(&raw, &["HSET", "other||half", "data", "x"]).await;
    let item = store.get(&get("other||text")).await.unwrap().unwrap();
    assert_eq!((item.data.as_ref(), item.etag), (&b"plain"[..], None));
    let list = store.get(&get("other||list")).await.unwrap_err();
    assert_eq!(
        list.message,
        "WRONGTYPE Operation against a key holding the wrong kind of value"
    );
    let half = store.get(&get("other||half")).await.unwrap_err();
    assert_eq!(
        half.message,
        "required hash field 'data' or 'version' was not found"
    );
    let keys = ["other||text", "other||none", "other||list", "other||text"].map(get);
    let found = store.bulk_get(&keys, 0).await.unwrap();
    let shown: Vec<String> = found
        .iter()
        .map(|(key, item)| match item {
            Ok(Some(item)) => format!("{key}={}", String::from_utf8_lossy(&item.data)),
            Ok(None) => format!("{key} absent"),
            Err(error) => format!("{key} {:?}", error.kind),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "other||text=plain",
            "other||none absent",
            "other||list Failed",
            "other||text=plain"
        ]
    );
    for key in ["other||text", "other||list", "other||half"] {
        store.set(&set(key, "new")).await.unwrap();
        assert_eq!(hash(&raw, key).await, "data=new version=1");
    }
    let () = ask(&raw, &["RPUSH", "other||list2", "1"]).await;
    store.delete(&delete("other||list2")).await.unwrap();
    assert_eq!(ask::<i64>(&raw, &["EXISTS", "other||list2"]).await, 0);
    store.close().await;
}

#[tokio::test]
async fn a_transaction_is_applied_as_a_whole_or_not_at_all_on_real_redis() {
    let (store, raw) = shared(&[]).await;
    let operations = [
        Operation::Set(with(set("tx||a", "1"), "ttlInSeconds", "100")),
        Operation::Set(first_write(set("tx||b", "2"))),
        Operation::Delete(delete("tx||c")),
    ];
    store.transact(&operations, &Metadata::new()).await.unwrap();
    assert!(ask::<i64>(&raw, &["TTL", "tx||a"]).await > 90);
    assert_eq!(hash(&raw, "tx||b").await, "data=2 version=1", "no flag");
    let refused = [
        Operation::Set(with_etag(set("tx||a", "9"), "1")),
        Operation::Set(set("tx||new", "9")),
        Operation::Delete(Delete {
            etag: Some("7".into()),
            ..delete("tx||b")
        }),
    ];
    let outcome = store.transact(&refused, &Metadata::new()).await;
    assert_eq!(kind(outcome), Some(ErrorKind::EtagMismatch));
    assert_eq!(hash(&raw, "tx||a").await, "data=1 version=1");
    assert_eq!(ask::<i64>(&raw, &["EXISTS", "tx||new"]).await, 0);
    let malformed = [
        Operation::Set(set("tx||new", "9")),
        Operation::Set(with_etag(set("tx||a", "9"), "x")),
    ];
    let error = store
        .transact(&malformed, &Metadata::new())
        .await
        .unwrap_err();
    assert_eq!(
        error.message,
        "invalid etag value: strconv.Atoi: parsing \"x\": invalid syntax"
    );
    assert_eq!(ask::<i64>(&raw, &["EXISTS", "tx||new"]).await, 0);
    let single = [Operation::Set(first_write(set("tx||one", "1")))];
    store.transact(&single, &Metadata::new()).await.unwrap();
    assert_eq!(hash(&raw, "tx||one").await, "data=1 version=1");
    store.transact(&[], &Metadata::new()).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn later_operations_of_a_transaction_see_the_earlier_ones_on_real_redis() {
    let (store, raw) = shared(&[]).await;
    let () = ask(&raw, &["RPUSH", "seq||list", "1"]).await;
    let operations = [
        Operation::Set(set("seq", "1")),
        Operation::Set(with_etag(set("seq", "2"), "1")),
        Operation::Delete(Delete {
            etag: Some("2".into()),
            ..delete("seq")
        }),
        Operation::Set(with_etag(set("seq", "4"), "77")),
        Operation::Set(with_etag(set("seq", "5"), "1")),
        Operation::Set(set("seq||list", "6")),
        Operation::Set(set("seq||list", "7")),
    ];
    store.transact(&operations, &Metadata::new()).await.unwrap();
    assert_eq!(hash(&raw, "seq").await, "data=5 version=2");
    assert_eq!(hash(&raw, "seq||list").await, "data=7 version=2");
    for stale in ["2", "1"] {
        let operations = [
            Operation::Set(with_etag(set("seq", "6"), "2")),
            Operation::Set(with_etag(set("seq", "7"), stale)),
        ];
        let outcome = store.transact(&operations, &Metadata::new()).await;
        assert_eq!(kind(outcome), Some(ErrorKind::EtagMismatch), "{stale}");
    }
    let overtaken = [
        Operation::Set(set("seq||new", "1")),
        Operation::Set(with_etag(set("seq||new", "2"), "2")),
    ];
    let outcome = store.transact(&overtaken, &Metadata::new()).await;
    assert_eq!(kind(outcome), Some(ErrorKind::EtagMismatch));
    assert_eq!(hash(&raw, "seq").await, "data=5 version=2");
    assert_eq!(ask::<i64>(&raw, &["EXISTS", "seq||new"]).await, 0);
    store.close().await;
}

#[tokio::test]
async fn fifty_writers_with_etags_lose_no_increment_on_real_redis() {
    let (store, _) = shared(&[]).await;
    store.set(&set("count", "0")).await.unwrap();
    let add = async || loop {
        let item = store.get(&get("count")).await.unwrap().unwrap();
        let number: u32 = String::from_utf8_lossy(&item.data).parse().unwrap();
        let next = with_etag(set("count", &(number + 1).to_string()), &item.etag.unwrap());
        match store.set(&next).await {
            Ok(()) => return,
            Err(error) => assert_eq!(error.kind, ErrorKind::EtagMismatch),
        }
    };
    futures_util::future::join_all((0..50).map(|_| add())).await;
    let item = store.get(&get("count")).await.unwrap().unwrap();
    assert_eq!(item.data.as_ref(), b"50");
    assert_eq!(item.etag.as_deref(), Some("51"));
    store.close().await;
}

#[tokio::test]
async fn the_script_is_sent_again_after_the_server_forgot_it_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let store = store(&address(&server), &[]).await;
    let raw = raw(&server).await;
    let () = ask(&raw, &["SCRIPT", "FLUSH"]).await;
    store.set(&set("k", "1")).await.unwrap();
    let operations = ["k", "l"].map(|key| Operation::Set(set(key, "2")));
    store.transact(&operations, &Metadata::new()).await.unwrap();
    assert_eq!(hash(&raw, "k").await, "data=2 version=2");
    store.close().await;
}

#[tokio::test]
async fn the_database_of_the_settings_is_used_on_real_redis() {
    let server = RedisServer::shared().await;
    let store = store(&address(server), &[("redisDB", "3")]).await;
    store.set(&set("db", "1")).await.unwrap();
    let raw = bench::raw_at(&format!("redis://{}/3", address(server))).await;
    assert_eq!(hash(&raw, "db").await, "data=1 version=1");
    store.close().await;
}

#[tokio::test]
async fn documents_are_hashes_where_the_module_is_missing_on_real_redis() {
    let (store, raw) = shared(&[]).await;
    let wanted = with(json("doc", "{\"a\":1}"), "contentType", "application/json");
    store.set(&wanted).await.unwrap();
    assert_eq!(hash(&raw, "doc").await, "data={\"a\":1} version=1");
    let operations = [Operation::Set(wanted), Operation::Set(set("doc||2", "x"))];
    store.transact(&operations, &Metadata::new()).await.unwrap();
    assert_eq!(hash(&raw, "doc").await, "data={\"a\":1} version=2");
    assert!(!store.features().query);
    store.close().await;
}

#[tokio::test]
async fn keys_are_listed_by_pattern_and_page_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let store = store(&address(&server), &[]).await;
    let operations: Vec<Operation> = (0..1025)
        .map(|n| Operation::Set(set(&format!("k{n:04}"), "x")))
        .collect();
    store.transact(&operations, &Metadata::new()).await.unwrap();
    for key in ["a_b", "axb", "a%b", "äb"] {
        store.set(&set(key, "x")).await.unwrap();
    }
    let all = store.keys_like("k%", None, None).await.unwrap();
    assert_eq!((all.keys.len(), all.token), (1025, None));
    let mut seen = Vec::new();
    let mut token = None;
    loop {
        let page = store
            .keys_like("k%", Some(100), token.as_deref())
            .await
            .unwrap();
        seen.extend(page.keys);
        token = page.token;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, all.keys);
    let like = async |pattern: &str| store.keys_like(pattern, None, None).await.unwrap().keys;
    assert_eq!(like("a\\_b").await, ["a_b"]);
    assert_eq!(like("a_b").await, ["a%b", "a_b", "axb"]);
    assert_eq!(like("_b").await, ["äb"]);
    let error = store.keys_like("", None, None).await.unwrap_err();
    assert_eq!(error.message, "keys like pattern cannot be empty");
    store.close().await;
}

#[tokio::test]
async fn strong_writes_wait_for_every_replica_on_real_redis() {
    let primary = RedisServer::launch(Redis {
        arguments: ["--repl-diskless-sync-delay", "0"]
            .map(str::to_owned)
            .to_vec(),
        ..Redis::default()
    })
    .await;
    let replica = RedisServer::launch(Redis {
        replica_of: Some(address(&primary)),
        ..Redis::default()
    })
    .await;
    let raw_primary = raw(&primary).await;
    wait::until("a replica that follows", bench::SOON, async || {
        let () = ask(&raw_primary, &["SET", "warm", "up"]).await;
        let heard: usize = ask(&raw_primary, &["WAIT", "1", "500"]).await;
        if heard == 1 { Ok(()) } else { Err(heard) }
    })
    .await;
    let store = store(&address(&primary), &[]).await;
    let strong = |value: &str| Set {
        consistency: Consistency::Strong,
        ..set("strong", value)
    };
    let values: Vec<Set> = (0..20).map(|n| strong(&n.to_string())).collect();
    let writes = values.iter().map(|value| store.set(value));
    for written in futures_util::future::join_all(writes).await {
        written.unwrap();
    }
    let raw_replica = raw(&replica).await;
    let copied: String = ask(&raw_replica, &["HGET", "strong", "version"]).await;
    assert_eq!(copied, "20");
    let refused = store.set(&with_etag(strong("x"), "3")).await;
    assert_eq!(kind(refused), Some(ErrorKind::EtagMismatch));

    replica.pause();
    let error = store.set(&strong("late")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed);
    assert_eq!(
        error.message,
        "redis waiting for 1 replicas to acknowledge write, err: only 0 did"
    );
    assert_eq!(hash(&raw_primary, "strong").await, "data=late version=21");
    replica.kill().await;
    store.close().await;
}
