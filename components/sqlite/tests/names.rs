//! `nameresolution.sqlite` against its own files.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper that fails must fail its test"
)]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::*;
use outrigger_component_api::{ErrorKind, NameResolver, Scope};
use outrigger_testkit::{PrivateDir, wait};

const SECONDS: Duration = Duration::from_secs(8);

fn dir() -> PrivateDir {
    PrivateDir::new("sqlite-names")
}

async fn join(
    scope: &Scope,
    path: &Path,
    app_id: &str,
    address: &str,
    port: u16,
) -> Arc<dyn NameResolver> {
    let settings = [
        ("connectionString", path.to_str().unwrap()),
        ("updateInterval", "2s"),
    ];
    let instance = instance(app_id, address, port);
    let opener = check_names(&settings, &instance).unwrap();
    opener(opening(scope)).await.unwrap()
}

async fn addresses(resolver: &Arc<dyn NameResolver>, id: &str) -> Vec<String> {
    let mut found = resolver
        .resolve(id, "default")
        .await
        .map(|resolved| resolved.addresses)
        .unwrap_or_default();
    found.sort();
    found
}

#[tokio::test]
async fn a_sidecar_writes_daprs_row() {
    let dir = dir();
    let path = dir.path().join("n.db");
    let scope = Scope::root();
    let _one = join(&scope, &path, "App-1", "192.0.2.7", 50002).await;
    assert_eq!(
        rows(
            &path,
            "SELECT name, type, \"notnull\", pk FROM pragma_table_info('hosts')"
        ),
        [
            "registration_id|TEXT|1|1",
            "address|TEXT|1|0",
            "app_id|TEXT|1|0",
            "namespace|TEXT|1|0",
            "last_update|INTEGER|1|0"
        ]
    );
    assert_eq!(
        rows(
            &path,
            "SELECT name, \"unique\" FROM pragma_index_list('hosts') ORDER BY name"
        ),
        [
            "hosts_address_idx|1",
            "hosts_last_update_idx|0",
            "sqlite_autoindex_hosts_1|1"
        ]
    );
    assert_eq!(
        rows(
            &path,
            "SELECT length(registration_id), address, app_id, namespace, abs(last_update - unixepoch()) < 3 FROM hosts"
        ),
        ["36|192.0.2.7:50002|App-1||1"]
    );
    assert_eq!(
        rows(&path, "SELECT key, value FROM metadata"),
        ["nr-migrations|1"]
    );
}

#[tokio::test]
async fn peers_find_each_other_and_are_gone_after_leaving() {
    let dir = dir();
    let path = dir.path().join("n.db");
    let scope = Scope::root();
    let one = join(&scope, &path, "one", "127.0.0.1", 1).await;
    let two = join(&scope, &path, "two", "127.0.0.1", 2).await;
    let again = join(&scope, &path, "two", "fd00::1", 3).await;
    assert_eq!(addresses(&one, "one").await, ["127.0.0.1:1"]);
    assert_eq!(addresses(&one, "two").await, ["127.0.0.1:2", "[fd00::1]:3"]);
    let unknown = one.resolve("three", "default").await.unwrap_err();
    assert_eq!(unknown.message, "no host found with the given ID");
    assert_eq!(unknown.kind, ErrorKind::Failed);
    two.leave().await;
    assert_eq!(addresses(&one, "two").await, ["[fd00::1]:3"]);
    again.close().await;
    assert!(addresses(&one, "two").await.is_empty());
    // It has left, and does not come back.
    assert_eq!(addresses(&two, "one").await, ["127.0.0.1:1"]);
    wait::never("a row of who left", Duration::from_secs(2), async || {
        !addresses(&one, "two").await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_row_is_kept_fresh_and_an_old_one_is_not_used() {
    let dir = dir();
    let path = dir.path().join("n.db");
    let scope = Scope::root();
    let one = join(&scope, &path, "one", "127.0.0.1", 1).await;
    let now = "unixepoch(CURRENT_TIMESTAMP)";
    execute(
        &path,
        &format!(
            "INSERT INTO hosts VALUES ('live', '127.0.0.1:8', 'other', '', {now} - 1 + 1),
                                      ('dead', '127.0.0.1:9', 'other', '', {now} - 100)"
        ),
    );
    assert_eq!(addresses(&one, "other").await, ["127.0.0.1:8"]);
    execute(
        &path,
        "UPDATE hosts SET last_update = 1 WHERE app_id = 'one'",
    );
    wait::until("the refresh", SECONDS, async || {
        addresses(&one, "one").await == ["127.0.0.1:1"]
    })
    .await;
}

#[tokio::test]
async fn who_lost_its_row_registers_again() {
    let dir = dir();
    let path = dir.path().join("n.db");
    let scope = Scope::root();
    let one = join(&scope, &path, "one", "127.0.0.1", 1).await;
    for change in [
        "DELETE FROM hosts",
        "UPDATE hosts SET registration_id = 'taken', app_id = 'thief'",
    ] {
        execute(&path, change);
        wait::until("a new registration", SECONDS, async || {
            addresses(&one, "one").await == ["127.0.0.1:1"]
        })
        .await;
    }
    assert_eq!(rows(&path, "SELECT count(*) FROM hosts"), ["1"]);
}

#[tokio::test]
async fn who_comes_to_an_address_takes_it_over() {
    let dir = dir();
    let path = dir.path().join("n.db");
    let scope = Scope::root();
    let one = join(&scope, &path, "one", "127.0.0.1", 1).await;
    execute(
        &path,
        "INSERT INTO hosts VALUES ('old', '127.0.0.1:2', 'old', '', unixepoch(CURRENT_TIMESTAMP))",
    );
    let _two = join(&scope, &path, "two", "127.0.0.1", 2).await;
    assert!(addresses(&one, "old").await.is_empty());
    assert_eq!(addresses(&one, "two").await, ["127.0.0.1:2"]);
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_passed_over() {
    let dir = dir();
    let path = dir.path().join("n.db");
    let scope = Scope::root();
    let one = join(&scope, &path, "one", "127.0.0.1", 1).await;
    let _two = join(&scope, &path, "two", "127.0.0.1", 2).await;
    let _three = join(&scope, &path, "two", "127.0.0.1", 3).await;
    one.unreachable("two", "default", "127.0.0.1:2").await;
    assert_eq!(addresses(&one, "two").await, ["127.0.0.1:3"]);
    // The last hope is tried all the same.
    one.unreachable("two", "default", "127.0.0.1:3").await;
    assert_eq!(addresses(&one, "two").await.len(), 2);
}

#[tokio::test]
async fn cleanup_takes_only_rows_that_are_long_dead() {
    let dir = dir();
    let path = dir.path().join("n.db");
    let settings = [
        ("connectionString", path.to_str().unwrap()),
        ("updateInterval", "2s"),
        ("cleanupInterval", "1s"),
    ];
    let scope = Scope::root();
    let opener = check_names(&settings, &instance("one", "127.0.0.1", 1)).unwrap();
    let one = opener(opening(&scope)).await.unwrap();
    let now = "unixepoch(CURRENT_TIMESTAMP)";
    execute(
        &path,
        &format!(
            "INSERT INTO hosts VALUES ('quiet', '127.0.0.1:8', 'other', '', {now} - 10),
                                      ('dead', '127.0.0.1:9', 'other', '', {now} - 100)"
        ),
    );
    wait::until("the cleanup", SECONDS, async || {
        let left = rows(&path, "SELECT address FROM hosts ORDER BY address");
        if left == ["127.0.0.1:1", "127.0.0.1:8"] {
            Ok(())
        } else {
            Err(left)
        }
    })
    .await;
    assert_eq!(
        rows(
            &path,
            "SELECT length(value) FROM metadata WHERE key = 'nr-last-cleanup'"
        ),
        ["19"]
    );
    one.close().await;
}

#[tokio::test]
async fn stopping_the_scope_leaves_no_row_and_no_task() {
    let dir = dir();
    let path = dir.path().join("n.db");
    let scope = Scope::root();
    let one = join(&scope, &path, "one", "127.0.0.1", 1).await;
    one.ping().await.unwrap();
    let left = scope.close(Duration::from_secs(5)).await;
    assert_eq!(left, Vec::<&str>::new());
    assert_eq!(rows(&path, "SELECT count(*) FROM hosts"), ["0"]);
    one.leave().await;
    one.close().await;
    assert!(one.resolve("one", "default").await.is_err());
}

#[test]
fn a_sidecar_without_address_or_port_is_a_fault() {
    let settings = [("connectionString", "x.db")];
    for (instance, expected) in [
        (instance("a", "", 1), "address is missing"),
        (instance("a", "127.0.0.1", 0), "port is missing or invalid"),
        (instance("", "127.0.0.1", 1), "name is missing"),
    ] {
        let faults = check_names(&settings, &instance).err().unwrap();
        assert_eq!(faults, [expected]);
    }
}
