//! Values that end on their own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_component_api::{Metadata, Operation, StateItem};

use super::{
    Bench, EXPIRY, Harness, Options as _, Verdict, assert_verdict, delete, get, living, put,
};
use crate::wait;

/// S27.
pub async fn a_value_lives_as_long_as_it_was_given<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let [short, long] = ["short", "long"].map(|name| bench.key(name));
    bench.set(&living(put(&short, "1"), "1")).await.unwrap();
    bench.set(&living(put(&long, "1"), "1000")).await.unwrap();
    assert_eq!(bench.text(&short).await, "1");
    wait::until("the end of a value", EXPIRY, async || {
        bench.read(&short).await.is_none()
    })
    .await;
    let bulk = bench.bulk_get(&[get(&short), get(&long)], 2).await.unwrap();
    for (key, answer) in bulk {
        assert_eq!(answer.unwrap().is_some(), key == long);
    }
    if bench.features().keys_like {
        let pattern = format!("{}%", bench.prefix);
        let page = bench.keys_like(&pattern, None, None).await.unwrap();
        assert_eq!(page.keys, std::slice::from_ref(&long));
    }
    bench.close().await;
}

/// S28, first half.
pub async fn a_ttl_that_is_no_number_changes_nothing<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("ttl");
    bench.put(&key, "1").await;
    for text in ["soon", "1.5", "1s", " 1", "99999999999999999999"] {
        let result = bench.set(&living(put(&key, "2"), text)).await;
        assert_verdict(&result, Verdict::Refused);
        assert_eq!(bench.text(&key).await, "1", "{text}");
    }
    bench.close().await;
}

/// S28, second half.
pub async fn a_ttl_out_of_range_gets_its_verdict<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("range");
    for seconds in [-2, i64::from(i32::MAX), i64::from(i32::MAX) + 1] {
        bench.put(&key, "1").await;
        let is_allowed = H::HABITS
            .ttl_limits
            .is_none_or(|(least, most)| (least..=most).contains(&seconds));
        let result = bench
            .set(&living(put(&key, "2"), &seconds.to_string()))
            .await;
        let (verdict, text) = if is_allowed {
            (Verdict::Written, "2")
        } else {
            (Verdict::Refused, "1")
        };
        assert_verdict(&result, verdict);
        assert_eq!(bench.text(&key).await, text, "{seconds}");
    }
    bench.close().await;
}

/// S29.
pub async fn the_end_of_a_value_is_told<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("told");
    let before = unix_now();
    bench.set(&living(put(&key, "1"), "1000")).await.unwrap();
    let bulk = bench.bulk_get(&[get(&key)], 1).await.unwrap();
    let items = [
        bench.read(&key).await.unwrap(),
        bulk[0].1.clone().unwrap().unwrap(),
    ];
    for item in items {
        let end = end_of(&item).expect("`ttlExpireTime`");
        let expected = before + 1000;
        assert!(
            (expected - 2..=expected + 5).contains(&end),
            "{:?} is {end}, expected about {expected}",
            item.metadata
        );
    }
    let lasting = bench.key("lasting");
    bench.put(&lasting, "1").await;
    assert_eq!(end_of(&bench.read(&lasting).await.unwrap()), None);
    bench.close().await;
}

/// S30.
pub async fn minus_one_and_zero_lift_the_end<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("lifted");
    for none in ["-1", "0"] {
        bench.set(&living(put(&key, "1"), "1000")).await.unwrap();
        bench.set(&living(put(&key, "2"), none)).await.unwrap();
        let item = bench.read(&key).await.unwrap();
        assert_eq!((item.data.as_ref(), end_of(&item)), (b"2".as_ref(), None));
    }
    bench.close().await;
}

/// S31.
pub async fn rewriting_without_ttl_does_as_the_store_is_known_to<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let key = bench.key("rewritten");
    bench.set(&living(put(&key, "1"), "1000")).await.unwrap();
    bench.set(&put(&key, "2")).await.unwrap();
    let item = bench.read(&key).await.unwrap();
    assert_eq!(end_of(&item).is_some(), H::HABITS.rewriting_keeps_ttl);
    bench.close().await;
}

/// S32. Whether or not the store has collected it.
pub async fn an_expired_value_counts_as_absent<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let [first, tagged] = ["first", "tagged"].map(|name| bench.key(name));
    for key in [&first, &tagged] {
        bench.set(&living(put(key, "1"), "1")).await.unwrap();
    }
    let tag = bench.read(&tagged).await.unwrap().etag.unwrap_or_default();
    wait::until("the end of two values", EXPIRY, async || {
        bench.read(&first).await.is_none() && bench.read(&tagged).await.is_none()
    })
    .await;
    if bench.features().etag {
        bench.set(&put(&first, "2").first_write()).await.unwrap();
        let result = bench.set(&put(&tagged, "2").tagged(&tag)).await;
        assert_verdict(&result, H::HABITS.tagged_set_of_absent);
    }
    bench.delete(&delete(&first)).await.unwrap();
    bench.set(&put(&first, "3")).await.unwrap();
    let item = bench.read(&first).await.unwrap();
    assert_eq!((item.data.as_ref(), end_of(&item)), (b"3".as_ref(), None));
    bench.close().await;
}

pub async fn a_transaction_can_give_a_ttl<H: Harness>() {
    let bench = Bench::<H>::open().await;
    if bench.features().transactional {
        let key = bench.key("transaction");
        let operations = [Operation::Set(living(put(&key, "1"), "1"))];
        bench.transact(&operations, &Metadata::new()).await.unwrap();
        assert!(end_of(&bench.read(&key).await.unwrap()).is_some());
        wait::until("the end of a value", EXPIRY, async || {
            bench.read(&key).await.is_none()
        })
        .await;
    }
    bench.close().await;
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or(Duration::ZERO).as_secs()).unwrap()
}

/// `ttlExpireTime` in seconds since 1970; it must be written as `2026-01-02T03:04:05Z`.
fn end_of(item: &StateItem) -> Option<i64> {
    let text = item.metadata.get("ttlExpireTime")?;
    let end = seconds_of(text);
    Some(end.unwrap_or_else(|| panic!("`ttlExpireTime` is {text:?}")))
}

fn seconds_of(text: &str) -> Option<i64> {
    let digits = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let form: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    if form != "0000-00-00T00:00:00Z" {
        return None;
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    // Days since 1970, with years that begin in March so that the leap day is the last one.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 719_469;
    Some(days * 86_400 + digits(11, 13)? * 3_600 + digits(14, 16)? * 60 + digits(17, 19)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_one_form_only() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600)),
            ("2026-01-02T03:04:05Z", Some(1_767_323_045)),
            ("2026-01-02T03:04:05+00:00", None),
            ("2026-01-02 03:04:05Z", None),
            ("2026-01-02T03:04:05.1Z", None),
        ] {
            assert_eq!(seconds_of(text), seconds, "{text}");
        }
    }
}
