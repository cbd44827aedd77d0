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
    // What it says of this package is not about others. Build scripts that look at it would run again.
    let foreign = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "OUT_DIR"].map(str::as_bytes);
    for (name, _) in std::env::vars_os() {
        let starts = |prefix: &&[u8]| name.as_encoded_bytes().starts_with(prefix);
        if foreign.iter().any(starts) {
            command.env_remove(name);
        }
    }
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
    build("outrigger", true)?;
    Ok(target_folder()?.join("release/outrigger"))
}

/// Builds a package's programs.
pub(crate) fn build(package: &str, release: bool) -> Result<()> {
    let mut command = cargo();
    command.args(["build", &format!("--package={package}")]);
    command.args(release.then_some("--release"));
    ensure!(command.status()?.success(), "the build failed");
    Ok(())
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata.get("target_directory").and_then(Value::as_str);
    Ok(folder.context("cargo tells no target directory")?.into())
}
