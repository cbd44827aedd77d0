//! Listing keys by SQL patterns.

use std::collections::BTreeSet;

use super::{Bench, Harness, delete, put};

/// Pattern characters in the case's own prefix would match more than it; there are none but `_`-free ids.
fn pattern<H: Harness>(bench: &Bench<H>, tail: &str) -> String {
    format!("{}{tail}", bench.prefix)
}

async fn fill<H: Harness>(bench: &Bench<H>, names: impl IntoIterator<Item = String>) {
    for name in names {
        bench.set(&put(&bench.key(&name), "1")).await.unwrap();
    }
}

/// S35.
pub async fn patterns_match_as_in_sql<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let names = [
        "apple",
        "apricot",
        "banana",
        "Apple",
        "a%b",
        "a_b",
        "axb",
        r"a\b",
        "axxb",
        "ä",
        "line\nbreak",
        "x*y",
        "x?y",
        "[x]y",
    ];
    fill(&bench, names.map(str::to_owned)).await;
    let cases: [(&str, &[&str]); 17] = [
        ("apple", &["apple"]),
        ("ap%", &["apple", "apricot"]),
        ("%na", &["banana"]),
        ("%nan%", &["banana"]),
        ("a_ple", &["apple"]),
        ("A%", &["Apple"]),
        (r"a\%b", &["a%b"]),
        (r"a\_b", &["a_b"]),
        (r"a\\b", &[r"a\b"]),
        ("a_b", &["a%b", "a_b", "axb", r"a\b"]),
        ("a__b", &["axxb"]),
        ("_", &["ä"]),
        ("line%break", &["line\nbreak"]),
        ("x*y", &["x*y"]),
        ("x?y", &["x?y"]),
        ("[x]y", &["[x]y"]),
        ("none%", &[]),
    ];
    for (tail, expected) in cases {
        let page = bench.keys_like(&pattern(&bench, tail), None, None).await;
        let page = page.unwrap();
        let found: BTreeSet<String> = page.keys.into_iter().collect();
        let expected: BTreeSet<String> = expected.iter().map(|name| bench.key(name)).collect();
        assert_eq!(found, expected, "pattern {tail:?}");
    }
    let all = bench.keys_like(&pattern(&bench, "%"), None, None).await;
    assert_eq!(all.unwrap().keys.len(), names.len());
    bench.close().await;
}

/// S36.
pub async fn pages_are_full_and_hold_every_key_once<H: Harness>() {
    let bench = Bench::<H>::open().await;
    fill(&bench, (0..25).map(|i| format!("k{i}"))).await;
    for (size, pages) in [(10, 3), (25, 1), (26, 1), (5, 5), (1, 25)] {
        let (mut seen, mut token, mut count) = (BTreeSet::new(), None, 0);
        loop {
            let page = bench
                .keys_like(&pattern(&bench, "k%"), Some(size), token.as_deref())
                .await
                .unwrap();
            count += 1;
            let left = 25 - seen.len();
            assert_eq!(page.keys.len(), left.min(size as usize), "page {count}");
            for key in page.keys {
                assert!(seen.insert(key), "a key on two pages");
            }
            token = page.token;
            if token.is_none() {
                break;
            }
        }
        assert_eq!((seen.len(), count), (25, pages), "pages of {size}");
    }
    bench.close().await;
}

/// S36.
pub async fn without_a_page_size_all_keys_come_at_once<H: Harness>() {
    let bench = Bench::<H>::open().await;
    fill(&bench, (0..1025).map(|i| format!("k{i}"))).await;
    let page = bench.keys_like(&pattern(&bench, "k%"), None, None).await;
    let page = page.unwrap();
    assert_eq!((page.keys.len(), page.token), (1025, None));
    bench.close().await;
}

/// S36.
pub async fn keys_that_go_between_two_pages_do_no_harm<H: Harness>() {
    let bench = Bench::<H>::open().await;
    fill(&bench, (0..20).map(|i| format!("k{i:02}"))).await;
    let all = pattern(&bench, "k%");
    let first = bench.keys_like(&all, Some(10), None).await.unwrap();
    let (gone, stays) = first.keys.split_at(5);
    for key in gone {
        bench.delete(&delete(key)).await.unwrap();
    }
    let mut seen: BTreeSet<String> = stays.iter().cloned().collect();
    let mut token = first.token;
    while let Some(next) = token {
        let page = bench.keys_like(&all, Some(10), Some(&next)).await.unwrap();
        seen.extend(page.keys);
        token = page.token;
    }
    let rest = bench.keys_like(&all, None, None).await.unwrap();
    // A store may count positions and so skip some that moved up, but it must not name a key that is gone.
    assert_eq!(rest.keys.len(), 15);
    let rest: BTreeSet<String> = rest.keys.into_iter().collect();
    assert!(seen.is_subset(&rest), "{seen:?}");
    bench.close().await;
}

/// S35.
pub async fn an_empty_pattern_is_refused<H: Harness>() {
    let bench = Bench::<H>::open().await;
    let error = bench.keys_like("", None, None).await.unwrap_err();
    assert_eq!(error.message, "keys like pattern cannot be empty");
    bench.close().await;
}
