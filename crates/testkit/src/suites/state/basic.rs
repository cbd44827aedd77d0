//! Values go in and come out.

use std::collections::BTreeMap;
use std::time::Duration;

use outrigger_component_api::{Bytes, ErrorKind, Get, Value};

use super::{Bench, Harness, assert_verdict, delete, get, put, put_value};
use crate::suites::Hold;
use crate::suites::open::{Opened, Resource, assert_requires};
use crate::wait;

/// S1.
pub async fn a_valid_resource_is_ready_and_closes_without_leftovers<H: Harness>() {
    let bench = Bench::<H>::open().await;
    bench.ping().await.unwrap();
    bench.close().await;
}

/// S2.
pub async fn each_required_property_is_named_when_it_is_missing<H: Harness>() {
    let harness = H::start(Hold::Shared).await;
    for name in H::HABITS.required {
        assert_requires(&harness.properties(), name, |properties| {
            let resource = Resource {
                register: H::register,
                type_name: H::TYPE,
                properties,
            };
            resource.state_store().map(|_| ())
        });
    }
}

/// S3. The store keeps the text: no blank, digit or order of members changes.
pub async fn json_comes_back_as_it_was_written<H: Harness>() {
    let bench = Bench::<H>::open().await;
    for json in [
        "42",
        "-1.5e3",
        "true",
        "null",
        r#""text with \"quotes\", \\ and \u00e4""#,
        r#""""#,
        r#"{"z":1,"a":"<&>"}"#,
        r#"{ "a" : { "b" : [ 1, { "c" : null } ] } }"#,
        "[]",
    ] {
        let key = bench.key("json");
        bench.put(&key, json).await;
        assert_eq!(bench.text(&key).await, json);
    }
    bench.close().await;
}

/// S4 and S5.
pub async fn bytes_come_back_as_they_were_written<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let all: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0_u32..1_048_576).map(|i| (i % 251) as u8).collect();
    let message = b"\x0a\x07testing\x10\x96\x01\x1a\x00".to_vec();
    for bytes in [
        all,
        large,
        message,
        Vec::new(),
        b"{\"not\":\"json\"".to_vec(),
    ] {
        let key = bench.key("bytes");
        let value = Value::Bytes(Bytes::from(bytes.clone()));
        bench.set(&put_value(&key, value)).await.unwrap();
        let item = bench.read(&key).await.expect("an empty value is a value");
        assert!(item.data == bytes, "{} bytes differ", bytes.len());
    }
    bench.close().await;
}

/// S6.
pub async fn numbers_keep_every_digit<H: Harness>() {
    let bench = Bench::<H>::open().await;
    for json in ["12345678901234567890", "0.1234567890123", "1e400"] {
        let key = bench.key("number");
        bench.put(&key, json).await;
        assert_eq!(bench.text(&key).await, json);
    }
    bench.close().await;
}

/// S7.
pub async fn a_value_may_change_its_form<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("form");
    for value in [
        Value::Bytes(Bytes::from_static(b"\xff\x00")),
        Value::Json(Bytes::from_static(b"{\"a\":1}")),
        Value::Bytes(Bytes::from_static(b"{\"a\":1}")),
        Value::Json(Bytes::from_static(b"\"/wA=\"")),
    ] {
        let bytes = value.bytes().clone();
        bench.set(&put_value(&key, value)).await.unwrap();
        assert_eq!(bench.read(&key).await.unwrap().data, bytes);
    }
    bench.close().await;
}

/// S8.
pub async fn an_absent_key_is_no_error<H: Harness>() {
    let bench = Bench::<H>::open().await;
    assert_eq!(bench.read(&bench.key("absent")).await, None);
    bench.close().await;
}

/// S9.
pub async fn a_value_may_be_deleted_more_than_once<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("gone");
    bench.delete(&delete(&key)).await.unwrap();
    bench.put(&key, "1").await;
    for _ in 0..2 {
        bench.delete(&delete(&key)).await.unwrap();
        assert_eq!(bench.read(&key).await, None);
    }
    bench.close().await;
}

/// S10.
pub async fn an_empty_key_gets_its_verdict<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let result = bench.set(&put("", "1")).await;
    assert_verdict(&result, H::HABITS.empty_key);
    bench.delete(&delete("")).await.ok();
    bench.close().await;
}

/// S21.
pub async fn a_bulk_read_answers_for_every_key<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let keys: Vec<String> = (0..20).map(|i| bench.key(&format!("bulk{i}"))).collect();
    for (i, key) in keys.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
        bench.put(key, &i.to_string()).await;
    }
    for parallelism in [0, 1, 10] {
        let mut requests: Vec<Get> = keys.iter().map(|key| get(key)).collect();
        requests.push(get(&keys[0]));
        let answers = bench.bulk_get(&requests, parallelism).await.unwrap();
        assert_eq!(answers.len(), requests.len(), "one answer per request");
        let mut counts = BTreeMap::new();
        for (key, answer) in answers {
            let i = keys.iter().position(|known| *known == key).unwrap();
            *counts.entry(i).or_insert(0) += 1;
            let found = answer.unwrap();
            assert_eq!(found, bench.read(&key).await);
            assert_eq!(found.is_some(), i % 2 == 0, "{key}");
        }
        assert_eq!(counts.len(), keys.len());
        assert_eq!(counts[&0], 2, "a key that is asked for twice");
    }
    assert_eq!(bench.bulk_get(&[], 10).await.unwrap(), Vec::new());
    bench.close().await;
}

/// S39.
pub async fn names_with_quotes_and_sql_are_only_names<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let names = [
        "'",
        "\"",
        "`",
        "\\",
        "%",
        "_",
        "a' OR '1'='1",
        "'); DROP TABLE state; --",
        "a b\tc",
        "äöü漢字😀",
        "{tag}",
        "*",
        "?",
        "[a]",
        "..",
        "a/b",
    ];
    for (i, name) in names.iter().enumerate() {
        bench.put(&bench.key(name), &i.to_string()).await;
    }
    for (i, name) in names.iter().enumerate() {
        assert_eq!(bench.text(&bench.key(name)).await, i.to_string(), "{name}");
    }
    for (i, name) in names.iter().enumerate() {
        bench.delete(&delete(&bench.key(name))).await.unwrap();
        for (j, other) in names.iter().enumerate() {
            let is_there = bench.read(&bench.key(other)).await.is_some();
            assert_eq!(is_there, j > i, "{other} after {name} was deleted");
        }
    }
    bench.close().await;
}

/// What one instance wrote, another reads, also after the first one is closed.
pub async fn two_instances_see_the_same_values<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let other = Opened::ready(&bench.opener).await;
    let key = bench.key("shared");
    bench.put(&key, "1").await;
    let item = bench.read(&key).await;
    assert_eq!(other.get(&get(&key)).await.unwrap(), item);
    bench.close().await;
    assert_eq!(other.get(&get(&key)).await.unwrap(), item);
    other.close().await;
}

/// Callers give up at any time.
pub async fn a_call_that_is_dropped_harms_no_other<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("dropped");
    bench.put(&key, "0").await;
    for i in 0..50_u64 {
        let patience = Duration::from_micros(i * 40);
        let text = i.to_string();
        let request = put(&key, &text);
        tokio::time::timeout(patience, bench.set(&request))
            .await
            .ok();
        tokio::time::timeout(patience, bench.read(&key)).await.ok();
    }
    wait::within(
        "a write",
        Duration::from_secs(5),
        bench.put(&key, "\"end\""),
    )
    .await;
    let read = bench.text(&key);
    let text = wait::within("a read", Duration::from_secs(5), read).await;
    assert_eq!(text, "\"end\"");
    bench.close().await;
}

pub async fn what_is_not_declared_is_unsupported<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let features = bench.features();
    let mut refused = Vec::new();
    if !features.transactional {
        refused.push(bench.transact(&[], &BTreeMap::new()).await.err());
    }
    if !features.delete_with_prefix {
        refused.push(bench.delete_with_prefix("a||").await.err());
    }
    if !features.keys_like {
        refused.push(bench.keys_like("a%", None, None).await.err());
    }
    for error in refused {
        let kind = error.map(|error| error.kind);
        assert_eq!(kind, Some(ErrorKind::Unsupported));
    }
    bench.close().await;
}
