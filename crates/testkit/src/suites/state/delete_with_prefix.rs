//! Deleting all values of one owner.

use super::{Bench, Harness, put};

async fn fill<H: Harness>(bench: &Bench<H>) {
    for name in ["a||1", "a||2", "a||3||x", "ab||1", "a", "b||a||1"] {
        bench.set(&put(&bench.key(name), "1")).await.unwrap();
    }
}

async fn left<H: Harness>(bench: &Bench<H>) -> Vec<&'static str> {
    let mut left = Vec::new();
    for name in ["a||1", "a||2", "a||3||x", "ab||1", "a", "b||a||1"] {
        if bench.read(&bench.key(name)).await.is_some() {
            left.push(name);
        }
    }
    left
}

/// S37.
pub async fn only_keys_right_below_the_prefix_go<H: Harness>() {
    let bench = Bench::<H>::open().await;
    fill(&bench).await;
    let prefix = bench.key("a||");
    assert_eq!(bench.delete_with_prefix(&prefix).await.unwrap(), 2);
    assert_eq!(left(&bench).await, ["a||3||x", "ab||1", "a", "b||a||1"]);
    assert_eq!(bench.delete_with_prefix(&prefix).await.unwrap(), 0);
    bench.close().await;
}

/// S37.
pub async fn a_prefix_gets_its_separator<H: Harness>() {
    let bench = Bench::<H>::open().await;
    fill(&bench).await;
    let prefix = bench.key("a");
    assert_eq!(bench.delete_with_prefix(&prefix).await.unwrap(), 2);
    assert_eq!(left(&bench).await, ["a||3||x", "ab||1", "a", "b||a||1"]);
    bench.close().await;
}

/// S37.
pub async fn an_empty_prefix_is_refused<H: Harness>() {
    let bench = Bench::<H>::open().await;
    fill(&bench).await;
    for prefix in ["", "||"] {
        let error = bench.delete_with_prefix(prefix).await.unwrap_err();
        assert_eq!(
            error.message,
            "a prefix is required for deleteWithPrefix request"
        );
    }
    assert_eq!(left(&bench).await.len(), 6);
    bench.close().await;
}
