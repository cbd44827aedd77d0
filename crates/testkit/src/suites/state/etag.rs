//! Entity tags and concurrency.

use futures_util::future::join_all;

use super::{Bench, Harness, Options as _, Verdict, assert_verdict, delete, get, put};

/// S12.
pub async fn every_write_gives_a_new_tag_on_which_all_reads_agree<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("tag");
    let mut seen = Vec::new();
    for _ in 0..5 {
        let tag = bench.put(&key, "1").await;
        assert!(!tag.is_empty(), "a value without a tag");
        assert!(!seen.contains(&tag), "{tag} came twice");
        let bulk = bench.bulk_get(&[get(&key)], 1).await.unwrap();
        let item = bulk[0].1.clone().unwrap().unwrap();
        assert_eq!(item.etag.as_ref(), Some(&tag));
        seen.push(tag);
    }
    bench.close().await;
}

/// S13.
pub async fn a_wrong_tag_changes_nothing<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("wrong");
    let tag = bench.put(&key, "1").await;
    let strange = H::HABITS.strange_tag;
    let result = bench.set(&put(&key, "2").tagged(strange)).await;
    assert_verdict(&result, Verdict::Mismatch);
    let result = bench.delete(&delete(&key).tagged(strange)).await;
    assert_verdict(&result, Verdict::Mismatch);
    let item = bench.read(&key).await.unwrap();
    assert_eq!((item.data.as_ref(), item.etag), (b"1".as_ref(), Some(tag)));
    bench.close().await;
}

/// S14.
pub async fn a_malformed_tag_gets_its_verdict<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("malformed");
    bench.put(&key, "1").await;
    let (tag, on_set, on_delete) = H::HABITS.malformed_tag;
    assert_verdict(&bench.set(&put(&key, "2").tagged(tag)).await, on_set);
    assert_verdict(&bench.delete(&delete(&key).tagged(tag)).await, on_delete);
    assert_eq!(bench.text(&key).await, "1");
    bench.close().await;
}

/// S15.
pub async fn the_right_tag_serves_once<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("right");
    let tag = bench.put(&key, "1").await;
    bench.set(&put(&key, "2").tagged(&tag)).await.unwrap();
    let result = bench.set(&put(&key, "3").tagged(&tag)).await;
    assert_verdict(&result, Verdict::Mismatch);
    let result = bench.delete(&delete(&key).tagged(&tag)).await;
    assert_verdict(&result, Verdict::Mismatch);
    assert_eq!(bench.text(&key).await, "2");
    let tag = bench.read(&key).await.unwrap().etag.unwrap();
    bench.delete(&delete(&key).tagged(&tag)).await.unwrap();
    assert_eq!(bench.read(&key).await, None);
    bench.close().await;
}

/// S17.
pub async fn a_tag_for_an_absent_key_gets_its_verdict<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("absent");
    let strange = H::HABITS.strange_tag;
    let result = bench.delete(&delete(&key).tagged(strange)).await;
    assert_verdict(&result, H::HABITS.tagged_delete_of_absent);
    let result = bench.set(&put(&key, "1").tagged(strange)).await;
    assert_verdict(&result, H::HABITS.tagged_set_of_absent);
    assert_eq!(bench.read(&key).await.is_some(), result.is_ok());
    bench.close().await;
}

/// S18.
pub async fn of_two_first_writes_the_second_is_refused<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("first");
    bench.set(&put(&key, "1").first_write()).await.unwrap();
    let result = bench.set(&put(&key, "2").first_write()).await;
    assert_verdict(&result, Verdict::Mismatch);
    assert_eq!(bench.text(&key).await, "1");
    bench.close().await;
}

pub async fn a_first_write_over_a_usual_one_gets_its_verdict<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("over");
    bench.put(&key, "1").await;
    let result = bench.set(&put(&key, "2").first_write()).await;
    assert_verdict(&result, H::HABITS.first_write_over_usual);
    let expected = if result.is_ok() { "2" } else { "1" };
    assert_eq!(bench.text(&key).await, expected);
    bench.close().await;
}

/// S19.
pub async fn a_first_write_with_a_stale_tag_loses<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("stale");
    let stale = bench.put(&key, "1").await;
    let first = put(&key, "2").first_write().tagged(&stale);
    bench.set(&first).await.unwrap();
    let late = put(&key, "3").first_write().tagged(&stale);
    assert_verdict(&bench.set(&late).await, Verdict::Mismatch);
    assert_eq!(bench.text(&key).await, "2");
    bench.close().await;
}

pub async fn a_first_write_delete_gets_its_verdict<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("delete");
    bench.delete(&delete(&key).first_write()).await.unwrap();
    bench.put(&key, "1").await;
    let result = bench.delete(&delete(&key).first_write()).await;
    assert_verdict(&result, H::HABITS.first_write_delete);
    assert_eq!(bench.read(&key).await.is_none(), result.is_ok());
    bench.close().await;
}

pub async fn a_deleted_value_can_be_written_first_again<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("again");
    for text in ["1", "2"] {
        bench.set(&put(&key, text).first_write()).await.unwrap();
        assert_eq!(bench.text(&key).await, text);
        bench.delete(&delete(&key)).await.unwrap();
    }
    bench.close().await;
}

/// S20.
pub async fn fifty_increments_at_once_lose_none<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("counter");
    bench.put(&key, "0").await;
    let increment = async || {
        loop {
            let item = bench.read(&key).await.unwrap();
            let number: u32 = std::str::from_utf8(&item.data).unwrap().parse().unwrap();
            let next = put(&key, &(number + 1).to_string()).tagged(&item.etag.unwrap());
            match bench.set(&next).await {
                Ok(()) => return,
                Err(error) if error.is_etag() => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    join_all((0..50).map(|_| increment())).await;
    assert_eq!(bench.text(&key).await, "50");
    bench.close().await;
}
