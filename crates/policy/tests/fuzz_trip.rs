//! Random conditions: none panics, and each is compiled and asked within bounded time.
//!
//! `OUTRIGGER_FUZZ_CASES=1000000 cargo test --release -p outrigger-policy --test fuzz_trip` runs for long.

use std::time::{Duration, Instant};

use outrigger_policy::Counts;
use outrigger_policy::trip::Trip;
use proptest::prelude::*;

/// Far above what any text may take, on a busy machine and without optimisation.
const LIMIT: Duration = Duration::from_secs(2);

fn cases(divisor: u32) -> ProptestConfig {
    let cases: u32 = std::env::var("OUTRIGGER_FUZZ_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(1_000);
    ProptestConfig {
        cases: (cases / divisor).max(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn piece() -> impl Strategy<Value = String> {
    let fixed = [
        "requests",
        "totalSuccesses",
        "totalFailures",
        "consecutiveSuccesses",
        "consecutiveFailures",
        "nosuch",
        "x",
        "true",
        "null",
        "0",
        "1",
        "-9223372036854775808",
        "9223372036854775807",
        "18446744073709551615u",
        "1.5",
        "1e308",
        "0x7f",
        "'a'",
        "\"b\"",
        "r'\\'",
        "'''",
        "b'\\xff'",
        "'\\ud800'",
        "+",
        "-",
        "*",
        "/",
        "%",
        "==",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "&&",
        "||",
        "!",
        "?",
        ":",
        " in ",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ".",
        ".?",
        "[?",
        "double(",
        "int(",
        "uint(",
        "string(",
        "size(",
        "type(",
        "timestamp(",
        "duration('1h')",
        ".matches('(a{9}){9}')",
        ".all(x, ",
        ".exists(x, ",
        ".map(x, ",
        ".filter(x, ",
        "has(x.y)",
        "foo(",
        ".getFullYear()",
        " ",
        "\n",
        "// ",
    ];
    prop_oneof![
        9 => proptest::sample::select(fixed.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,4}",
    ]
}

/// Expressions that mostly compile.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        proptest::sample::select(Counts::NAMES.to_vec()).prop_map(str::to_owned),
        any::<i64>().prop_map(|number| format!("({number})")),
        (0_u32..12).prop_map(|number| number.to_string()),
        any::<u64>().prop_map(|number| format!("{number}u")),
        any::<f64>().prop_map(|number| format!("({number:e})")),
        Just("true".to_owned()),
        Just("'a'".to_owned()),
        Just("null".to_owned()),
        Just("nosuch".to_owned()),
    ];
    leaf.prop_recursive(6, 64, 4, |inner| {
        let signs = [
            "+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in",
        ];
        let calls = [
            "double", "int", "uint", "string", "size", "type", "bool", "dyn", "!", "-", "bytes",
            "timestamp", "duration",
        ];
        let loops = ["all", "exists", "exists_one", "map", "filter"];
        prop_oneof![
            4 => (inner.clone(), proptest::sample::select(signs.to_vec()), inner.clone())
                .prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            2 => (proptest::sample::select(calls.to_vec()), inner.clone())
                .prop_map(|(call, a)| format!("{call}({a})")),
            1 => (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
            1 => (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            1 => (proptest::collection::vec(inner.clone(), 0..4), proptest::sample::select(loops.to_vec()), inner)
                .prop_map(|(items, each, body)| format!("[{}].{each}(x, {body} == x)", items.join(", "))),
        ]
    })
}

fn counts() -> impl Strategy<Value = Counts> {
    proptest::array::uniform5(prop_oneof![0_u32..20, any::<u32>()]).prop_map(
        |[
            requests,
            total_successes,
            total_failures,
            consecutive_successes,
            consecutive_failures,
        ]| {
            Counts {
                requests,
                total_successes,
                total_failures,
                consecutive_successes,
                consecutive_failures,
            }
        },
    )
}

fn try_it(text: &str, counts: &Counts) {
    let started = Instant::now();
    match Trip::compile(text) {
        Ok(trip) => {
            let first = trip.holds(counts);
            assert_eq!(first, trip.holds(counts), "{text:?}");
            assert_eq!(trip.text(), text.trim());
            trip.caution();
        }
        Err(error) => {
            let lines = text.matches('\n').count() + 1;
            assert!(!error.message.is_empty(), "{text:?}");
            assert!(!error.message.contains('\n'), "{text:?}");
            assert!((1..=lines).contains(&error.line), "{text:?}: {error}");
            assert!(
                (1..=text.chars().count() + 2).contains(&error.column),
                "{text:?}: {error}"
            );
        }
    }
    let took = started.elapsed();
    assert!(took < LIMIT, "{took:?} for {text:?}");
}

proptest! {
    #![proptest_config(cases(1))]

    #[test]
    fn no_pieces_panic(pieces in proptest::collection::vec(piece(), 0..24), counts in counts()) {
        try_it(&pieces.concat(), &counts);
    }

    #[test]
    fn no_expression_panics(text in expression(), counts in counts()) {
        try_it(&text, &counts);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), counts in counts()) {
        try_it(&String::from_utf8_lossy(&bytes), &counts);
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn no_length_panics(pieces in proptest::collection::vec(piece(), 0..2_000), counts in counts()) {
        try_it(&pieces.concat(), &counts);
    }

    #[test]
    fn no_repetition_panics(piece in piece(), other in piece(), times in 0_usize..2_000, counts in counts()) {
        try_it(&piece.repeat(times), &counts);
        try_it(&format!("{}requests{}", piece.repeat(times), other.repeat(times)), &counts);
    }
}
