//! Tells the binary which commit it was built from, where that is known.

use std::process::Command;

fn main() {
    let commit = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_default();
    println!("cargo::rustc-env=OUTRIGGER_COMMIT={}", commit.trim());
    println!("cargo::rerun-if-changed=../../.git/HEAD");
}
