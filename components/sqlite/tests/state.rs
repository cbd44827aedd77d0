//! `state.sqlite` against its own files, row by row as daprd 1.18 leaves them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail its test"
)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use outrigger_component_api::{Class, ErrorKind, Operation, Scope, StateStore};
use outrigger_testkit::{PrivateDir, wait};

const EXPIRE: &str = "UPDATE state SET expiration_time = '2001-01-01 00:00:00'";

fn dir() -> PrivateDir {
    PrivateDir::new("sqlite")
}

#[tokio::test]
async fn a_fresh_file_has_daprs_tables() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let _store = store_at(&path).await;
    let columns = |table: &str| {
        rows(
            &path,
            &format!(
                "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('{table}')"
            ),
        )
    };
    assert_eq!(
        rows(&path, "SELECT name, type FROM sqlite_master ORDER BY name"),
        [
            "metadata|table",
            "sqlite_autoindex_metadata_1|index",
            "sqlite_autoindex_state_1|index",
            "state|table"
        ]
    );
    assert_eq!(
        columns("state"),
        [
            "key|TEXT|1|null|1",
            "value|TEXT|1|null|0",
            "is_binary|BOOLEAN|1|null|0",
            "etag|TEXT|1|null|0",
            "expiration_time|TIMESTAMP|0|NULL|0",
            "update_time|TIMESTAMP|1|CURRENT_TIMESTAMP|0"
        ]
    );
    assert_eq!(
        columns("metadata"),
        ["key|TEXT|1|null|1", "value|TEXT|1|null|0"]
    );
    assert_eq!(
        rows(&path, "SELECT key, value FROM metadata"),
        ["migrations|1"]
    );
    assert_eq!(rows(&path, "PRAGMA journal_mode"), ["wal"]);
    assert_eq!(rows(&path, "PRAGMA user_version"), ["0"]);
}

#[tokio::test]
async fn json_lies_as_text_and_bytes_as_base64() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    let all: Vec<u8> = (0..=255).collect();
    for set in [
        json("o", "{\"a\":\"ä\"}"),
        json("big", "12345678901234567890"),
        json("z", "null"),
        binary("b", b"\x00\xff\xfe"),
        binary("e", b""),
        binary("all", &all),
    ] {
        store.set(&set).await.unwrap();
    }
    assert_eq!(
        rows(
            &path,
            "SELECT key, value, is_binary, expiration_time, typeof(value), typeof(is_binary), typeof(update_time),
                    length(etag), length(update_time)
             FROM state WHERE key != 'all' ORDER BY key"
        ),
        [
            "b|AP/+|1|null|text|integer|text|36|19",
            "big|12345678901234567890|0|null|text|integer|text|36|19",
            "e||1|null|text|integer|text|36|19",
            "o|{\"a\":\"ä\"}|0|null|text|integer|text|36|19",
            "z|null|0|null|text|integer|text|36|19"
        ]
    );
    assert_eq!(
        rows(
            &path,
            "SELECT count(*) FROM state WHERE abs(unixepoch(update_time) - unixepoch()) > 5"
        ),
        ["0"]
    );
    assert_eq!(text(&store, "o").await.unwrap(), "{\"a\":\"ä\"}");
    assert_eq!(text(&store, "e").await.unwrap(), "");
    let item = store.get(&get("all")).await.unwrap().unwrap();
    assert_eq!(item.data, all);
    assert_eq!(store.get(&get("none")).await.unwrap(), None);
}

#[tokio::test]
async fn first_write_wants_nothing_there() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    let first = |value: &str| first_write(json("k", value));
    store.set(&first("1")).await.unwrap();
    let refused = store.set(&first("2")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::EtagMismatch);
    store.set(&json("k", "3")).await.unwrap();
    assert_eq!(text(&store, "k").await.unwrap(), "3");
    execute(&path, EXPIRE);
    assert_eq!(text(&store, "k").await, None);
    store.set(&first("4")).await.unwrap();
    assert_eq!(
        rows(&path, "SELECT value, expiration_time FROM state"),
        ["4|null"]
    );
}

#[tokio::test]
async fn an_etag_must_be_that_of_the_live_row() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    let mismatch = |result: Result<(), outrigger_component_api::ComponentError>| {
        assert_eq!(result.unwrap_err().kind, ErrorKind::EtagMismatch);
    };
    mismatch(store.set(&with_etag(json("k", "1"), "any")).await);
    mismatch(store.delete(&delete("k", Some("any"))).await);
    store.set(&with_etag(json("k", "1"), "")).await.unwrap();
    let old = etag(&store, "k").await;
    mismatch(store.set(&with_etag(json("k", "2"), "not a tag")).await);
    mismatch(store.delete(&delete("k", Some("not a tag"))).await);
    store.set(&with_etag(json("k", "2"), &old)).await.unwrap();
    mismatch(store.set(&with_etag(json("k", "3"), &old)).await);
    mismatch(
        store
            .set(&first_write(with_etag(json("k", "3"), &old)))
            .await,
    );
    assert_eq!(text(&store, "k").await.unwrap(), "2");
    let new = etag(&store, "k").await;
    assert_ne!(old, new);
    execute(&path, EXPIRE);
    mismatch(store.set(&with_etag(json("k", "3"), &new)).await);
    store.delete(&delete("k", Some(&new))).await.unwrap();
    assert_eq!(rows(&path, "SELECT * FROM state"), Vec::<String>::new());
    store.delete(&delete("k", None)).await.unwrap();
    store.delete(&delete("k", Some(""))).await.unwrap();
}

#[tokio::test]
async fn empty_keys_are_refused() {
    let store = store(&[("url", "file:empty-keys?mode=memory")]).await;
    for error in [
        store.get(&get("")).await.map(|_| ()).unwrap_err(),
        store.set(&json("", "1")).await.unwrap_err(),
        store.delete(&delete("", None)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.starts_with("missing key in "), "{error}");
    }
}

#[tokio::test]
async fn expiry_is_written_by_the_database_and_cleared_by_a_later_write() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    store.set(&with_ttl(json("k", "1"), "100")).await.unwrap();
    assert_eq!(
        rows(
            &path,
            "SELECT length(expiration_time), unixepoch(expiration_time) - unixepoch(update_time) FROM state"
        ),
        ["19|100"]
    );
    let stored = rows(&path, "SELECT expiration_time FROM state").remove(0);
    let shown = format!("{}Z", stored.replace(' ', "T"));
    let item = store.get(&get("k")).await.unwrap().unwrap();
    assert_eq!(item.metadata["ttlExpireTime"], shown);
    let all = store.bulk_get(&[get("k"), get("none")], 1).await.unwrap();
    let first = all[0].1.clone().unwrap().unwrap();
    assert_eq!(first.metadata["ttlExpireTime"], shown);
    for set in [
        json("k", "2"),
        with_ttl(json("k", "2"), "-1"),
        with_ttl(json("k", "2"), "0"),
    ] {
        store.set(&with_ttl(json("k", "1"), "100")).await.unwrap();
        store.set(&set).await.unwrap();
        assert_eq!(rows(&path, "SELECT expiration_time FROM state"), ["null"]);
        let item = store.get(&get("k")).await.unwrap().unwrap();
        assert!(item.metadata.is_empty());
    }
    for bad in ["-2", "1.5", "x", "2147483648"] {
        let error = store.set(&with_ttl(json("k", "9"), bad)).await;
        assert_eq!(error.unwrap_err().kind, ErrorKind::Invalid);
    }
    assert_eq!(text(&store, "k").await.unwrap(), "2");
}

#[tokio::test]
async fn a_value_with_a_short_life_goes_by_itself() {
    let store = store(&[("url", "file:short-life?mode=memory")]).await;
    store.set(&with_ttl(json("k", "1"), "1")).await.unwrap();
    assert!(store.get(&get("k")).await.unwrap().is_some());
    wait::until("the end of the value", Duration::from_secs(5), async || {
        store.get(&get("k")).await.unwrap().is_none()
    })
    .await;
    let all = store.bulk_get(&[get("k")], 1).await.unwrap();
    assert_eq!(all, [("k".to_owned(), Ok(None))]);
    let keys = store.keys_like("%", None, None).await.unwrap();
    assert!(keys.keys.is_empty());
}

#[tokio::test]
async fn a_write_without_etag_replaces_the_row_and_one_with_etag_keeps_it() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    for (key, value) in [("k", "1"), ("l", "1"), ("k", "2")] {
        store.set(&json(key, value)).await.unwrap();
    }
    let all = "SELECT rowid, key, value FROM state ORDER BY rowid";
    assert_eq!(rows(&path, all), ["2|l|1", "3|k|2"]);
    execute(&path, "UPDATE state SET etag = 'e' WHERE key = 'l'");
    store.set(&with_etag(json("l", "3"), "e")).await.unwrap();
    assert_eq!(rows(&path, all), ["2|l|3", "3|k|2"]);
}

#[tokio::test]
async fn cleanup_deletes_expired_rows_and_keeps_its_time() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let scope = Scope::root();
    let settings = [
        ("connectionString", path.to_str().unwrap()),
        ("cleanupInterval", "1s"),
    ];
    let store = try_store(&scope, &settings).await.unwrap();
    store.set(&json("l", "1")).await.unwrap();
    for i in 0..1500 {
        store.set(&json(&format!("k{i}"), "1")).await.unwrap();
    }
    execute(&path, &format!("{EXPIRE} WHERE key LIKE 'k%'"));
    wait::until(
        "only the live row left",
        Duration::from_secs(10),
        async || {
            let keys = rows(&path, "SELECT key FROM state LIMIT 2");
            if keys == ["l"] { Ok(()) } else { Err(keys) }
        },
    )
    .await;
    assert_eq!(
        rows(
            &path,
            "SELECT key, length(value), typeof(value) FROM metadata ORDER BY key"
        ),
        ["last-cleanup|19|text", "migrations|1|text"]
    );
    assert_eq!(
        scope.close(Duration::from_secs(5)).await,
        Vec::<&str>::new()
    );
}

#[tokio::test]
async fn who_comes_too_early_does_not_clean() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let settings = [
        ("connectionString", path.to_str().unwrap()),
        ("cleanupInterval", "1s"),
    ];
    let scope = Scope::root();
    let store = try_store(&scope, &settings).await.unwrap();
    store.set(&json("k", "1")).await.unwrap();
    // Another sidecar has just cleaned, and its clock is ahead.
    execute(
        &path,
        "INSERT INTO metadata VALUES ('last-cleanup', datetime('now', '+1 hour'))",
    );
    execute(&path, EXPIRE);
    wait::never("a cleanup", Duration::from_millis(2500), async || {
        rows(&path, "SELECT key FROM state").is_empty()
    })
    .await;
}

#[tokio::test]
async fn tables_and_journal_follow_the_settings() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store(&[
        ("connectionString", path.to_str().unwrap()),
        ("tableName", "order"),
        ("metadataTableName", "my_meta"),
        ("disableWAL", "true"),
    ])
    .await;
    store.set(&json("k", "1")).await.unwrap();
    assert_eq!(
        rows(
            &path,
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
        ),
        ["my_meta", "order"]
    );
    assert_eq!(rows(&path, "SELECT key, value FROM \"order\""), ["k|1"]);
    assert_eq!(rows(&path, "PRAGMA journal_mode"), ["delete"]);
}

#[tokio::test]
async fn a_newer_level_is_served_and_left() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    store.set(&json("k", "1")).await.unwrap();
    store.close().await;
    execute(&path, "UPDATE metadata SET value = '9'");
    let store = store_at(&path).await;
    assert_eq!(text(&store, "k").await.unwrap(), "1");
    assert_eq!(
        rows(&path, "SELECT key, value FROM metadata"),
        ["migrations|9"]
    );
}

#[tokio::test]
async fn a_read_only_file_is_read() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let made = store(&[("url", path.to_str().unwrap()), ("disableWAL", "true")]).await;
    made.set(&json("k", "1")).await.unwrap();
    made.close().await;
    for mode in ["mode=ro", "immutable=1"] {
        let url = format!("file:{}?{mode}", path.display());
        let store = store(&[("url", &url), ("cleanupInterval", "1s")]).await;
        assert_eq!(text(&store, "k").await.unwrap(), "1", "{mode}");
        store.ping().await.unwrap();
        let refused = store.set(&json("k", "2")).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Failed);
        assert!(refused.message.contains("readonly"), "{refused}");
    }
}

#[tokio::test]
async fn a_read_only_file_without_tables_is_told() {
    let dir = dir();
    let path = dir.path().join("s.db");
    execute(&path, "CREATE TABLE other (a)");
    let url = format!("file:{}?mode=ro", path.display());
    let error = try_store(&Scope::root(), &[("url", &url)]).await;
    let error = error.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Connection(Class::Transient));
    assert!(error.message.contains("read-only"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_opened_may_be_tried_again() {
    let dir = dir();
    let garbage = dir.write("garbage.db", [b'x'; 8192]);
    let absent = dir.path().join("absent/s.db");
    for path in [garbage, absent] {
        let scope = Scope::root();
        let opened = try_store(&scope, &[("url", path.to_str().unwrap())]).await;
        assert_eq!(
            opened.err().unwrap().kind,
            ErrorKind::Connection(Class::Transient)
        );
        assert_eq!(scope.running(), 0);
    }
}

#[tokio::test]
async fn an_in_memory_database_works_and_leaves_no_file() {
    for url in [
        ":memory:",
        "file::memory:",
        "file:named?mode=memory&cache=shared",
    ] {
        let store = store(&[("url", url), ("tableName", "in_memory")]).await;
        store.set(&json("k", "1")).await.unwrap();
        assert_eq!(text(&store, "k").await.unwrap(), "1");
        store.delete(&delete("k", None)).await.unwrap();
        assert_eq!(text(&store, "k").await, None);
        store.ping().await.unwrap();
        store.close().await;
    }
    assert!(!std::path::Path::new(":memory:").exists());
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing_and_keeps_its_order() {
    for lock in ["immediate", "deferred", "exclusive"] {
        let dir = dir();
        let path = dir.path().join("s.db");
        let url = format!("{}?_txlock={lock}", path.display());
        let store = store(&[("url", &url)]).await;
        store.set(&json("a", "1")).await.unwrap();
        let none = outrigger_component_api::Metadata::new();
        let remove = |key: &str| Operation::Delete(delete(key, None));
        store.transact(&[], &none).await.unwrap();
        store
            .transact(&[op(json("one", "1"))], &none)
            .await
            .unwrap();
        store
            .transact(
                &[
                    op(json("b", "1")),
                    remove("b"),
                    op(json("b", "2")),
                    remove("a"),
                    remove("absent"),
                ],
                &none,
            )
            .await
            .unwrap();
        assert_eq!(text(&store, "b").await.unwrap(), "2");
        assert_eq!(text(&store, "a").await, None);
        let refused = store
            .transact(
                &[
                    op(json("b", "3")),
                    remove("one"),
                    op(with_etag(json("b", "4"), "wrong")),
                ],
                &none,
            )
            .await;
        assert_eq!(refused.unwrap_err().kind, ErrorKind::EtagMismatch);
        assert_eq!(text(&store, "b").await.unwrap(), "2");
        assert_eq!(text(&store, "one").await.unwrap(), "1");
        let refused = store
            .transact(
                &[op(json("b", "3")), op(with_ttl(json("c", "1"), "x"))],
                &none,
            )
            .await;
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Invalid);
        assert_eq!(text(&store, "b").await.unwrap(), "2");
    }
}

#[tokio::test]
async fn a_bulk_read_gives_found_keys_first() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    for key in ["c", "a", "b"] {
        store.set(&json(key, "1")).await.unwrap();
    }
    store.set(&binary("broken", b"1")).await.unwrap();
    execute(&path, "UPDATE state SET value = '!' WHERE key = 'broken'");
    let keys = ["x", "c", "a", "broken", "y", "a", "x"].map(get);
    let found = store.bulk_get(&keys, 1).await.unwrap();
    let shown: Vec<_> = found
        .iter()
        .map(|(key, result)| match result {
            Ok(Some(_)) => format!("{key}: found"),
            Ok(None) => format!("{key}: missing"),
            Err(error) => format!("{key}: {}", error.message.split(':').next().unwrap()),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "a: found",
            "broken: failed to decode binary data",
            "c: found",
            "x: missing",
            "y: missing",
            "x: missing",
            "a: found"
        ]
    );
    assert_eq!(store.bulk_get(&[], 1).await.unwrap(), []);
}

#[tokio::test]
async fn a_bulk_read_may_be_large() {
    let store = store(&[("url", "file:large-bulk?mode=memory")]).await;
    let none = outrigger_component_api::Metadata::new();
    let all: Vec<_> = (0..3000)
        .map(|i| op(json(&format!("{i:05}"), "1")))
        .collect();
    store.transact(&all, &none).await.unwrap();
    let keys: Vec<_> = (0..40_000).map(|i| get(&format!("{i:05}"))).collect();
    let found = store.bulk_get(&keys, 1).await.unwrap();
    assert_eq!(found.len(), 40_000);
    let hits = found
        .iter()
        .filter(|(_, item)| item.clone().unwrap().is_some());
    assert_eq!(hits.count(), 3000);
}

#[tokio::test]
async fn keys_are_matched_case_by_case() {
    let store = store(&[("url", "file:keys-like?mode=memory")]).await;
    for key in [
        "app||a", "app||A", "app||b_c", "app||bxc", "app||50%", "x'\"--",
    ] {
        store.set(&json(key, "1")).await.unwrap();
    }
    for (pattern, keys) in [
        ("%", 6),
        ("app||%", 5),
        ("app||a", 1),
        ("APP||%", 0),
        ("app||b_c", 2),
        ("app||b\\_c", 1),
        ("%\\%", 1),
        ("%'\"--", 1),
    ] {
        let page = store.keys_like(pattern, None, None).await.unwrap();
        assert_eq!((page.keys.len(), page.token), (keys, None), "{pattern}");
    }
    let error = store.keys_like("", None, None).await.unwrap_err();
    assert_eq!(error.message, "keys like pattern cannot be empty");
}

#[tokio::test]
async fn pages_follow_the_rows() {
    let store = store(&[("url", "file:pages?mode=memory")]).await;
    for i in 0..5 {
        store.set(&json(&format!("k{i}"), "1")).await.unwrap();
    }
    let first = store.keys_like("k%", Some(2), None).await.unwrap();
    assert_eq!(first.keys, ["k0", "k1"]);
    store.delete(&delete("k1", None)).await.unwrap();
    store.delete(&delete("k2", None)).await.unwrap();
    let token = first.token.unwrap();
    let second = store.keys_like("k%", Some(2), Some(&token)).await.unwrap();
    assert_eq!(second.keys, ["k3", "k4"]);
    assert_eq!(second.token, None);
    // Tokens are rowids, so that daprd's can be gone on with.
    let last = store.keys_like("k%", Some(2), Some("4")).await.unwrap();
    assert_eq!(
        (last.keys.as_slice(), last.token),
        (["k4".to_owned()].as_slice(), None)
    );
    let strange = store
        .keys_like("k%", Some(2), Some("x' OR 1"))
        .await
        .unwrap();
    assert!(strange.keys.is_empty());
    let all = store.keys_like("k%", Some(0), None).await.unwrap();
    assert_eq!((all.keys.len(), all.token), (3, None));
}

#[tokio::test]
async fn a_lock_of_another_process_is_waited_for() {
    for wal in ["false", "true"] {
        let dir = dir();
        let path = dir.path().join("s.db");
        let store = store(&[
            ("url", path.to_str().unwrap()),
            ("busyTimeout", "20ms"),
            ("disableWAL", wal),
        ])
        .await;
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let none = outrigger_component_api::Metadata::new();
        let pair = [op(json("a", "1")), op(json("b", "1"))];
        let (set, both, read, ()) = tokio::join!(
            async { store.set(&json("k", "1")).await },
            async { store.transact(&pair, &none).await },
            async { store.get(&get("k")).await },
            async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                other.execute_batch("COMMIT").unwrap();
            }
        );
        set.unwrap();
        both.unwrap();
        read.unwrap();
        assert_eq!(text(&store, "k").await.unwrap(), "1");
        store.ping().await.unwrap();
    }
}

#[tokio::test]
async fn a_lock_that_stays_is_an_error_after_the_timeout() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store(&[("url", path.to_str().unwrap()), ("timeout", "1s")]).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    let error = store.set(&json("k", "1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Connection(Class::Timeout));
    assert!(begun.elapsed() < Duration::from_secs(3));
    // It is alive nevertheless.
    store.ping().await.unwrap();
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(text(&store, "k").await, None);
    store.set(&json("k", "2")).await.unwrap();
}

#[tokio::test]
async fn a_caller_who_leaves_takes_its_write_back() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (left, queued) = (json("left", "1"), json("queued", "1"));
    let both = async { tokio::join!(store.set(&left), store.set(&queued)) };
    let gone = tokio::time::timeout(Duration::from_millis(100), both).await;
    assert!(gone.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    store.set(&json("next", "1")).await.unwrap();
    assert_eq!(rows(&path, "SELECT key FROM state"), ["next"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_increments_lose_none() {
    let dir = dir();
    let path = dir.path().join("s.db");
    // Two sidecars on one file.
    let stores = [store_at(&path).await, store_at(&path).await];
    stores[0].set(&json("n", "0")).await.unwrap();
    let increments = (0..50).map(|i| {
        let store = stores[i % 2].clone();
        async move {
            loop {
                let item = store.get(&get("n")).await.unwrap().unwrap();
                let number: i64 = std::str::from_utf8(&item.data).unwrap().parse().unwrap();
                let next = json("n", &(number + 1).to_string());
                match store.set(&with_etag(next, &item.etag.unwrap())).await {
                    Ok(()) => return,
                    Err(error) => assert_eq!(error.kind, ErrorKind::EtagMismatch),
                }
            }
        }
    });
    let all: Vec<_> = increments.map(Box::pin).collect();
    join_all(all).await;
    assert_eq!(text(&stores[1], "n").await.unwrap(), "50");
}

#[tokio::test]
async fn writes_that_waited_together_each_get_their_verdict() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writes = (0..100).map(|i| {
        let store = store.clone();
        async move {
            let set = json(&format!("k{i:02}"), "1");
            if i % 10 == 0 {
                let refused = store.set(&with_etag(set, "none")).await.unwrap_err();
                assert_eq!(refused.kind, ErrorKind::EtagMismatch);
            } else {
                store.set(&set).await.unwrap();
            }
        }
    });
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        other.execute_batch("COMMIT").unwrap();
    };
    tokio::join!(join_all(writes.map(Box::pin).collect()), release);
    assert_eq!(rows(&path, "SELECT count(*) FROM state"), ["90"]);
}

/// Polls all futures until every one is done.
async fn join_all(futures: Vec<std::pin::Pin<Box<impl Future<Output = ()>>>>) {
    let mut futures = futures;
    std::future::poll_fn(move |context| {
        futures.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_that_start_together_migrate_once() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let open = || store_at(&path);
    let (a, b, c) = tokio::join!(open(), open(), open());
    a.set(&json("k", "1")).await.unwrap();
    assert_eq!(text(&b, "k").await.unwrap(), "1");
    assert_eq!(text(&c, "k").await.unwrap(), "1");
}

#[tokio::test]
async fn pragmas_of_the_connection_string_reach_every_connection() {
    let dir = dir();
    let path = dir.path().join("s.db");
    store_at(&path).await.close().await;
    let url = format!("file:{}?_pragma=query_only(1)", path.display());
    let store = store(&[("url", &url)]).await;
    let refused = store.set(&json("k", "1")).await.unwrap_err();
    assert!(refused.message.contains("readonly"), "{refused}");
}

#[tokio::test]
async fn a_file_that_vanishes_is_noticed() {
    let dir = dir();
    let path = dir.path().join("s.db");
    let store = store_at(&path).await;
    store.ping().await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Connection(Class::Transient));
}

#[tokio::test]
async fn closing_ends_every_thread_and_refuses_further_work() {
    let dir = dir();
    let path = dir.path().join("s.db");
    for by_scope in [false, true] {
        let scope = Scope::root();
        let settings = [("url", path.to_str().unwrap()), ("cleanupInterval", "1h")];
        let store: Arc<dyn StateStore> = try_store(&scope, &settings).await.unwrap();
        store.set(&json("k", "1")).await.unwrap();
        store.get(&get("k")).await.unwrap();
        if !by_scope {
            store.close().await;
            store.close().await;
        }
        let left = scope.close(Duration::from_secs(5)).await;
        assert_eq!(left, Vec::<&str>::new());
        assert!(store.get(&get("k")).await.unwrap_err().doubts_connection());
        // The last connection tidied up.
        assert!(!dir.path().join("s.db-wal").exists());
    }
}

#[test]
fn faults_are_told_without_touching_a_file() {
    for (pairs, property) in [
        (&[("tableName", "x")][..], "connectionString"),
        (&[("url", "x.db"), ("tableName", "my-state")], "tableName"),
        (
            &[("url", "file:x.db?_pragma=busy_timeout(1)")],
            "connectionString",
        ),
        (&[("url", "x.db"), ("timeout", "1ms")], "timeout"),
    ] {
        let faults = check_state(pairs).err().unwrap();
        assert!(faults[0].contains(property), "{faults:?}");
    }
    assert!(!std::path::Path::new("x.db").exists());
}
