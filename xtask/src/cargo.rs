//! What cargo knows and builds.
//!
//! Owns: the workspace's metadata, and the building of the binary that is measured.
//! Start at [`metadata`].

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The repository's folder.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn cargo() -> Command {
    // Cargo tells the programs that it starts where it is.
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The packages of the workspace, as `cargo metadata` tells them.
pub(crate) fn metadata() -> Result<Value> {
    let words = ["metadata", "--no-deps", "--offline", "--format-version=1"];
    let output = cargo().args(words).output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Builds `outrigger` with the release profile and returns its path.
pub(crate) fn build_release() -> Result<PathBuf> {
    let status = cargo()
        .args(["build", "--release", "--package=outrigger"])
        .status()?;
    ensure!(status.success(), "the release build failed");
    let metadata = metadata()?;
    let folder = metadata.get("target_directory").and_then(Value::as_str);
    let folder = folder.context("cargo tells no target directory")?;
    Ok([folder, "release", "outrigger"].iter().collect())
}
