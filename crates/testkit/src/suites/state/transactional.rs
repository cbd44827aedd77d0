//! Transactions.

use outrigger_component_api::{Metadata, Operation};

use super::{Bench, Harness, Options as _, Verdict, assert_verdict, delete, living, put};

fn upsert(key: &str, json: &str) -> Operation {
    Operation::Set(put(key, json))
}

fn remove(key: &str) -> Operation {
    Operation::Delete(delete(key))
}

/// S23.
pub async fn operations_are_applied_in_their_order<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let [a, b, c] = ["a", "b", "c"].map(|name| bench.key(name));
    bench.put(&b, "0").await;
    let operations = [
        upsert(&a, "1"),
        remove(&b),
        remove(&c),
        upsert(&c, "{\"x\":1}"),
    ];
    bench.transact(&operations, &Metadata::new()).await.unwrap();
    assert_eq!(bench.text(&a).await, "1");
    assert_eq!(bench.read(&b).await, None);
    assert_eq!(bench.text(&c).await, "{\"x\":1}");
    bench.close().await;
}

/// S24.
pub async fn of_several_operations_on_a_key_the_last_one_stays<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let [a, b] = ["a", "b"].map(|name| bench.key(name));
    let operations = [
        upsert(&a, "1"),
        upsert(&b, "1"),
        remove(&a),
        upsert(&a, "2"),
        upsert(&b, "2"),
        remove(&b),
    ];
    bench.transact(&operations, &Metadata::new()).await.unwrap();
    assert_eq!(bench.text(&a).await, "2");
    assert_eq!(bench.read(&b).await, None);
    bench.close().await;
}

/// S25.
pub async fn one_wrong_tag_fails_the_transaction<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let [new, old, tagged] = ["new", "old", "tagged"].map(|name| bench.key(name));
    bench.put(&old, "0").await;
    bench.put(&tagged, "0").await;
    let strange = H::HABITS.strange_tag;
    for wrong in [
        Operation::Set(put(&tagged, "1").tagged(strange)),
        Operation::Delete(delete(&tagged).tagged(strange)),
    ] {
        let operations = [upsert(&new, "1"), remove(&old), wrong, upsert(&old, "1")];
        let result = bench.transact(&operations, &Metadata::new()).await;
        assert_eq!(bench.text(&tagged).await, "0");
        if H::HABITS.is_atomic {
            assert_verdict(&result, Verdict::Mismatch);
            assert_eq!(bench.read(&new).await, None, "applied all the same");
            assert_eq!(bench.text(&old).await, "0");
        } else {
            assert!(result.is_err());
        }
    }
    bench.close().await;
}

pub async fn right_tags_let_a_transaction_pass_and_change<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let [kept, gone] = ["kept", "gone"].map(|name| bench.key(name));
    let (tag, other) = (bench.put(&kept, "1").await, bench.put(&gone, "1").await);
    let operations = [
        Operation::Set(put(&kept, "2").tagged(&tag)),
        Operation::Delete(delete(&gone).tagged(&other)),
    ];
    bench.transact(&operations, &Metadata::new()).await.unwrap();
    let item = bench.read(&kept).await.unwrap();
    assert_eq!(item.data.as_ref(), b"2");
    assert_ne!(item.etag, Some(tag));
    assert_eq!(bench.read(&gone).await, None);
    bench.close().await;
}

/// S26.
pub async fn a_transaction_beyond_the_limit_is_refused<H: Harness>() {
    let bench = Bench::<H>::open().await;
    if let Some(most) = bench.max_transaction_size() {
        let operations = |count: usize| -> Vec<Operation> {
            (0..count)
                .map(|i| upsert(&bench.key(&format!("k{i}")), "1"))
                .collect()
        };
        let too_many = operations(most + 1);
        assert!(bench.transact(&too_many, &Metadata::new()).await.is_err());
        assert_eq!(bench.read(&bench.key("k0")).await, None);
        let fitting = operations(most);
        bench.transact(&fitting, &Metadata::new()).await.unwrap();
    }
    bench.close().await;
}

pub async fn an_empty_transaction_does_nothing<H: Harness>() {
    let bench = Bench::<H>::open().await;
    bench.transact(&[], &Metadata::new()).await.unwrap();
    bench.close().await;
}

pub async fn a_bad_ttl_fails_the_transaction<H: Harness>() {
    let bench = Bench::<H>::open().await;
    if bench.features().ttl {
        let [first, second] = ["first", "second"].map(|name| bench.key(name));
        let operations = [
            upsert(&first, "1"),
            Operation::Set(living(put(&second, "1"), "soon")),
        ];
        let result = bench.transact(&operations, &Metadata::new()).await;
        assert_verdict(&result, Verdict::Refused);
        assert_eq!(bench.read(&second).await, None);
        if H::HABITS.is_atomic {
            assert_eq!(bench.read(&first).await, None);
        }
    }
    bench.close().await;
}

pub async fn a_hundred_operations_fit<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let count = bench.max_transaction_size().unwrap_or(100).min(100);
    let keys: Vec<String> = (0..count).map(|i| bench.key(&format!("k{i}"))).collect();
    let operations: Vec<Operation> = keys.iter().map(|key| upsert(key, "1")).collect();
    bench.transact(&operations, &Metadata::new()).await.unwrap();
    for key in &keys {
        assert_eq!(bench.text(key).await, "1");
    }
    bench.close().await;
}
