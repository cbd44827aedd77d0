//! What manifests, the lock file and the catalog must say.
//!
//! Owns: the reading of cargo's metadata, licences, sources of packages, the completeness of the catalog.
//! Start at [`packages`].

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

const PREFIX: &str = "outrigger-";
/// How a package of a registry is named; one from a repository begins with `git+`.
const REGISTRY: &str = "registry+";
const LICENCE: &str = "Apache-2.0";

/// When a dependency is linked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Normal,
    Test,
}

impl Kind {
    pub(super) fn text(self) -> &'static str {
        match self {
            Kind::Normal => "",
            Kind::Test => ", not even in tests",
        }
    }
}

/// A crate of the workspace; names are without the common prefix.
#[derive(Default, Debug)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) licence: String,
    pub(super) takes_workspace_lints: bool,
    /// Crates of ours that it depends on.
    pub(super) ours: Vec<(String, Kind)>,
}

pub(super) fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let packages = metadata.get("packages").and_then(Value::as_array);
    packages
        .context("cargo tells no packages")?
        .iter()
        .map(package)
        .collect()
}

fn package(value: &Value) -> Result<Package> {
    let manifest = fs::read_to_string(text(value, "manifest_path"))?;
    let dependencies = value.get("dependencies").and_then(Value::as_array);
    Ok(Package {
        name: short(text(value, "name")),
        licence: text(value, "license").to_owned(),
        takes_workspace_lints: manifest.contains("[lints"),
        ours: dependencies
            .context("cargo tells no dependencies")?
            .iter()
            .filter_map(edge)
            .collect(),
    })
}

/// A dependency that has a path is one of ours.
fn edge(dependency: &Value) -> Option<(String, Kind)> {
    dependency.get("path")?.as_str()?;
    let kind = if text(dependency, "kind") == "dev" {
        Kind::Test
    } else {
        Kind::Normal
    };
    Some((short(text(dependency, "name")), kind))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn short(name: &str) -> String {
    name.strip_prefix(PREFIX).unwrap_or(name).to_owned()
}

pub(super) fn faults(packages: &[Package]) -> Vec<String> {
    let licences = packages.iter().filter(|package| package.licence != LICENCE);
    let licences =
        licences.map(|package| format!("the licence of `{}` is not {LICENCE}", package.name));
    let lints = packages
        .iter()
        .filter(|package| !package.takes_workspace_lints);
    licences
        .chain(lints.map(|package| format!("`{}` has no lints", package.name)))
        .collect()
}

/// Packages that come from anywhere but the registry.
pub(super) fn lock_faults(lock: &str) -> Vec<String> {
    let sources = lock
        .lines()
        .filter_map(|line| line.strip_prefix("source = "));
    let strange = sources.filter(|source| !source.trim_matches('"').starts_with(REGISTRY));
    strange
        .map(|source| format!("Cargo.lock has a package from {source}"))
        .collect()
}

/// Each component is in the catalog, explains itself, and runs a conformance suite.
pub(super) fn component_faults(root: &Path) -> Result<Vec<String>> {
    let catalog = fs::read_to_string(root.join("crates/outrigger/src/catalog.rs"))?;
    let mut faults = Vec::new();
    for entry in fs::read_dir(root.join("components"))? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        if !folder.join("Cargo.toml").is_file() {
            continue;
        }
        if !catalog.contains(&format!(
            "outrigger_component_{}::register(",
            name.replace('-', "_")
        )) {
            faults.push(format!(
                "components/{name} is not in crates/outrigger/src/catalog.rs"
            ));
        }
        for file in ["README.md", "tests/conformance.rs"] {
            if !folder.join(file).is_file() {
                faults.push(format!("components/{name} has no {file}"));
            }
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_from_a_git_repository_is_named() {
        let lock = format!(
            "source = \"{REGISTRY}https://example.org/index\"\nsource = \"git+https://example.org/x\"\n"
        );
        assert_eq!(
            lock_faults(&lock),
            ["Cargo.lock has a package from \"git+https://example.org/x\""]
        );
    }

    #[test]
    fn only_dependencies_with_a_path_are_ours() {
        let dependency = |text: &str| edge(&serde_json::from_str(text).unwrap());
        assert_eq!(dependency(r#"{"name":"tokio","kind":null}"#), None);
        let ours = dependency(r#"{"name":"outrigger-core","kind":null,"path":"/x"}"#);
        assert_eq!(ours, Some(("core".to_owned(), Kind::Normal)));
        let in_tests = dependency(r#"{"name":"outrigger-testkit","kind":"dev","path":"/x"}"#);
        assert_eq!(in_tests, Some(("testkit".to_owned(), Kind::Test)));
    }

    #[test]
    fn another_licence_is_a_fault() {
        let package = Package {
            name: "x".to_owned(),
            takes_workspace_lints: true,
            ..Package::default()
        };
        assert_eq!(faults(&[package]), ["the licence of `x` is not Apache-2.0"]);
    }
}
