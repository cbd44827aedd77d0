//! The program under test, built before it is first used.
//!
//! It lies beside the test programs in Cargo's target folder. Cargo does not build another package's binary for a test,
//! so the first test of a program asks Cargo for it; that is a moment's work when nothing has changed.
//! `OUTRIGGER_E2E_BINARY` names another program in its place.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const VARIABLE: &str = "OUTRIGGER_E2E_BINARY";

/// Where the program is.
///
/// # Panics
/// When it cannot be built.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os(VARIABLE) {
        Some(path) => existing(PathBuf::from(path)),
        None => build(),
    })
}

/// Cargo's folder for this profile, such as `target/debug`. Programs lie there, tests one level below.
///
/// # Panics
/// When this is no program of Cargo's.
pub fn profile_folder() -> PathBuf {
    let own = std::env::current_exe().expect("a program has a path");
    let folder = own.parent();
    let folder = folder.and_then(|folder| match folder.file_name() {
        Some(name) if name == "deps" => folder.parent(),
        _ => Some(folder),
    });
    folder
        .unwrap_or_else(|| panic!("{own:?} does not lie in Cargo's target folder"))
        .to_owned()
}

fn build() -> PathBuf {
    let folder = profile_folder();
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let profile = if name == "debug" { "dev" } else { &*name };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What Cargo says of this package is not about that one. Build scripts that look at it would run again, and half of
    // the dependencies with them.
    let foreign = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "OUT_DIR"].map(str::as_bytes);
    for (name, _) in std::env::vars_os() {
        let starts = |prefix: &&[u8]| name.as_encoded_bytes().starts_with(prefix);
        if foreign.iter().any(starts) {
            command.env_remove(name);
        }
    }
    let output = command
        .args([
            "build",
            "--quiet",
            "--package",
            "outrigger",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(folder.parent().unwrap_or(&folder))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_TEST_THREADS")
        .output()
        .unwrap_or_else(|error| panic!("cannot start cargo: {error}"));
    assert!(
        output.status.success(),
        "the binary cannot be built: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    existing(folder.join("outrigger"))
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(path.is_file(), "the binary {path:?} is missing");
    path
}
