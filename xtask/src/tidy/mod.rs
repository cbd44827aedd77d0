//! The rules of the house that no compiler checks.
//!
//! Owns: the command `tidy`, and the same as a test, so that `cargo test` covers it.
//! Never: says what clippy or rustfmt can say.
//! Start at [`faults`]. Which crate may depend on which is written down in [`edges`].

mod edges;
mod manifests;
mod sources;

use std::path::Path;

use anyhow::{Result, ensure};

use crate::cargo;
use crate::words::Words;

pub(crate) fn command(words: Words) -> Result<()> {
    words.finish()?;
    let faults = faults(cargo::root())?;
    ensure!(
        faults.is_empty(),
        "the house is not tidy\n  {}",
        faults.join("\n  ")
    );
    crate::say("the house is tidy\n")
}

/// Everything that breaks a rule, one line each.
fn faults(root: &Path) -> Result<Vec<String>> {
    let metadata = cargo::metadata()?;
    let packages = manifests::packages(&metadata)?;
    let mut faults = edges::faults(&packages);
    faults.extend(manifests::faults(&packages));
    faults.extend(manifests::lock_faults(&std::fs::read_to_string(
        root.join("Cargo.lock"),
    )?));
    faults.extend(manifests::component_faults(root)?);
    faults.extend(sources::faults(root)?);
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_tidy() {
        let faults = faults(cargo::root()).unwrap();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
