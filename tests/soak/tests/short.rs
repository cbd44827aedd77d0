//! The soak in its short form. `cargo xtask soak` is the long one.

#![allow(
    clippy::panic,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::process::Command;

/// Chosen for its variety: sidecars, apps, brokers and links of each kind are hurt within the time.
const SEED: u64 = 1;

#[test]
fn two_minutes_of_faults_lose_nothing_and_nothing_grows() {
    let out = format!("{}/soak.json", env!("CARGO_TARGET_TMPDIR"));
    let output = Command::new(env!("CARGO_BIN_EXE_outrigger-soak"))
        .args(["soak", "seconds=120", "rate=40"])
        .args([format!("seed={SEED}"), format!("out={out}")])
        .env("OUTRIGGER_E2E_BINARY", outrigger_e2e::binary::path())
        .output()
        .unwrap_or_else(|error| panic!("the soak does not start: {error}"));
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
}
