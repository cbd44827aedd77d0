//! The JSON mode, against a stand-in that answers as a server with the module does.
//!
//! The module is not part of a usual Redis, so what the script does inside the server is not covered here; README.md
//! tells how to try it.

mod bench;

use bench::{StandIn, bulk, delete, get, set, store, with};
use outrigger_component_api::{Bytes, Delete, ErrorKind, Get, Metadata, Operation, Set, Value};

const JSON: (&str, &str) = ("contentType", "application/json");

/// Answers what a store asks.
async fn launch() -> StandIn {
    StandIn::launch(|words| match words {
        ["JSON.GET"] => "-ERR wrong number of arguments for 'json.get' command\r\n".to_owned(),
        ["JSON.GET", "present"] => bulk("{\"data\":{\"a\":[1.50]},\"version\":7}"),
        ["JSON.GET", "hash"] => "-Existing key has wrong Redis type\r\n".to_owned(),
        ["JSON.GET", _] => "$-1\r\n".to_owned(),
        ["PTTL", "present"] => ":100000\r\n".to_owned(),
        ["PTTL", _] => ":-2\r\n".to_owned(),
        ["SCRIPT", "LOAD", _] => bulk("digest"),
        ["EVALSHA", "digest", ..] => ":0\r\n".to_owned(),
        _ => "-ERR unexpected\r\n".to_owned(),
    })
    .await
}

/// The arguments of the last run of the script.
fn last_run(server: &StandIn) -> Vec<String> {
    let mut run = server.commands("EVALSHA").pop().unwrap_or_default();
    run.remove(0);
    run
}

fn document(key: &str, text: &'static str) -> Set {
    let value = Value::Json(Bytes::from_static(text.as_bytes()));
    with(
        Set {
            value,
            ..set(key, "")
        },
        JSON.0,
        JSON.1,
    )
}

fn wanted(key: &str) -> Get {
    Get {
        metadata: Metadata::from([(JSON.0.to_owned(), JSON.1.to_owned())]),
        ..get(key)
    }
}

#[tokio::test]
async fn a_request_for_json_reads_a_document() {
    let server = launch().await;
    let store = store(&server.address, &[]).await;
    let item = store.get(&wanted("present")).await.unwrap().unwrap();
    assert_eq!(item.data.as_ref(), b"{\"a\":[1.50]}");
    assert_eq!(item.etag.as_deref(), Some("7"));
    assert!(item.metadata.contains_key("ttlExpireTime"));
    assert_eq!(store.get(&wanted("absent")).await.unwrap(), None);
    let error = store.get(&wanted("hash")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed);
    assert!(!store.features().query, "queries are not served yet");
    store.close().await;
}

#[tokio::test]
async fn a_request_for_json_writes_a_document() {
    let server = launch().await;
    let store = store(&server.address, &[]).await;
    store.set(&document("k", "{\"b\": 1.10}")).await.unwrap();
    let data = "{\"data\":{\"b\": 1.10}}";
    assert_eq!(
        last_run(&server),
        ["1", "k", "write", "json", "set", "0", "0", "", data]
    );
    let bytes = with(set("k", "raw"), JSON.0, JSON.1);
    store.set(&bytes).await.unwrap();
    assert_eq!(last_run(&server).last().unwrap(), "{\"data\":\"cmF3\"}");
    store.set(&set("k", "raw")).await.unwrap();
    assert_eq!(
        last_run(&server),
        ["1", "k", "write", "hash", "set", "0", "0", "", "raw"]
    );
    let gone = Delete {
        etag: Some("3".into()),
        metadata: wanted("").metadata,
        ..delete("k")
    };
    store.delete(&gone).await.unwrap();
    assert_eq!(
        last_run(&server),
        ["1", "k", "write", "json", "delete", "3", "", "", ""]
    );
    let invalid = store.set(&document("k", "{no")).await.unwrap_err();
    assert_eq!(invalid.kind, ErrorKind::Invalid);
    store.close().await;
}

#[tokio::test]
async fn a_transaction_may_ask_for_json_as_a_whole_or_by_item() {
    let server = launch().await;
    let store = store(&server.address, &[]).await;
    let forms = async |metadata: Metadata| {
        let operations = [
            Operation::Set(document("a", "1")),
            Operation::Set(set("b", "2")),
        ];
        store.transact(&operations, &metadata).await.unwrap();
        let run = last_run(&server);
        (run[4].clone(), run[10].clone())
    };
    assert_eq!(
        forms(Metadata::new()).await,
        ("json".to_owned(), "hash".to_owned())
    );
    assert_eq!(
        forms(wanted("").metadata).await,
        ("json".to_owned(), "json".to_owned())
    );
    store.close().await;
}

#[tokio::test]
async fn indexes_need_the_module_on_real_redis() {
    let server = outrigger_testkit::servers::RedisServer::shared().await;
    let indexes = [("queryIndexes", "[{\"name\":\"i\",\"indexes\":[]}]")];
    let resource = bench::resource("state.redis", &bench::address(server), &indexes);
    let opener = bench::checked(resource.state_store());
    let attempt = outrigger_testkit::suites::open::Opened::attempt(&opener).await;
    assert_eq!(
        attempt.err().map(|error| error.kind),
        Some(ErrorKind::Connection(
            outrigger_component_api::Class::Config
        ))
    );
    let stand_in = launch().await;
    store(&stand_in.address, &indexes).await.close().await;
}
