//! Which crate of the workspace may depend on which.
//!
//! Owns: the table of allowed directions. A new edge is a new line here, in a commit of its own that says why.
//! Start at [`ALLOWED`].

use super::manifests::{Kind, Package};

/// A crate, and the crates of ours that it may be linked with. Short names are those of the folders.
///
/// What cannot be read off: building blocks know no transport, so `wire`, `proto`, `http` and `grpc` are not theirs; a
/// component knows its contract only; nothing but the binary knows a component.
const ALLOWED: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("policy", &["core"]),
    // Values of `google.protobuf` are made from JSON, which `core` reads.
    ("proto", &["core"]),
    ("lifecycle", &["core", "policy"]),
    ("telemetry", &["core", "lifecycle"]),
    ("component-api", &["core", "lifecycle"]),
    ("config", &["core", "policy", "component-api"]),
    // A server's connections are tasks, and tasks live in scopes; gRPC frames carry messages.
    ("wire", &["core", "lifecycle", "proto"]),
    // What applies is read off the resources, and shown in metrics.
    (
        "resiliency",
        &["core", "policy", "lifecycle", "telemetry", "config"],
    ),
    (
        "blocks",
        &[
            "core",
            "policy",
            "lifecycle",
            "telemetry",
            "component-api",
            "resiliency",
        ],
    ),
    (
        "channel",
        &[
            "core",
            "policy",
            "proto",
            "lifecycle",
            "telemetry",
            "wire",
            "blocks",
            "resiliency",
        ],
    ),
    (
        "http",
        &[
            "core",
            "policy",
            "lifecycle",
            "telemetry",
            "component-api",
            "wire",
            "blocks",
            "resiliency",
        ],
    ),
    // The proxy of user services and the codec between sidecars have two ends: one in the channel, one here.
    (
        "grpc",
        &[
            "core",
            "proto",
            "lifecycle",
            "telemetry",
            "wire",
            "blocks",
            "channel",
            "resiliency",
        ],
    ),
    (
        "sidecar",
        &[
            "core",
            "policy",
            "proto",
            "lifecycle",
            "telemetry",
            "component-api",
            "config",
            "resiliency",
            "wire",
            "blocks",
            "channel",
            "http",
            "grpc",
        ],
    ),
    // What a sidecar would do with its policies is told without one.
    (
        "outrigger",
        &[
            "core",
            "policy",
            "resiliency",
            "lifecycle",
            "telemetry",
            "component-api",
            "config",
            "sidecar",
            COMPONENTS,
        ],
    ),
    ("testkit", &["core", "lifecycle", "component-api"]),
    (COMPONENTS, &["component-api"]),
    // These look at the finished binary from outside.
    ("e2e", &["core", "proto", "testkit"]),
    ("soak", &["e2e", "testkit"]),
    ("xtask", &[]),
];

/// What tests may have besides.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] = &[
    (COMPONENTS, &["testkit"]),
    // The simplest real store and broker serve better than fakes.
    ("blocks", &["testkit", "component-memory"]),
    (
        "sidecar",
        &["testkit", "component-memory", "component-local"],
    ),
    ("outrigger", &["testkit"]),
    ("channel", &["testkit"]),
    ("grpc", &["testkit"]),
    ("http", &["testkit"]),
];

/// Stands for each crate under `components/`.
const COMPONENTS: &str = "component-*";

pub(super) fn faults(packages: &[Package]) -> Vec<String> {
    packages.iter().flat_map(package_faults).collect()
}

fn package_faults(package: &Package) -> Vec<String> {
    let Some(allowed) = row(ALLOWED, &package.name) else {
        return vec![format!(
            "`{}` has no line in the table of allowed dependencies",
            package.name
        )];
    };
    let in_tests = row(ALLOWED_IN_TESTS, &package.name).unwrap_or_default();
    let may_have = |name: &str, kind: Kind| {
        let in_tests =
            kind == Kind::Test && (in_tests.contains(&class(name)) || in_tests.contains(&name));
        allowed.contains(&class(name)) || in_tests
    };
    let edges = package
        .ours
        .iter()
        .filter(|(name, kind)| !may_have(name, *kind));
    edges
        .map(|(name, kind)| {
            format!(
                "`{}` must not depend on `{name}`{}",
                package.name,
                kind.text()
            )
        })
        .collect()
}

fn row(table: &[(&str, &'static [&'static str])], name: &str) -> Option<&'static [&'static str]> {
    table
        .iter()
        .find(|(row, _)| *row == class(name))
        .map(|(_, allowed)| *allowed)
}

/// The name by which the table knows a crate.
fn class(name: &str) -> &str {
    match name.strip_prefix("component-") {
        Some("api") | None => name,
        Some(_) => COMPONENTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, on: &str, kind: Kind) -> Package {
        Package {
            name: name.to_owned(),
            ours: vec![(on.to_owned(), kind)],
            ..Package::default()
        }
    }

    fn is_allowed(name: &str, on: &str, kind: Kind) -> bool {
        faults(&[package(name, on, kind)]).is_empty()
    }

    #[test]
    fn building_blocks_know_no_transport() {
        for transport in ["wire", "http", "grpc", "channel", "proto"] {
            assert!(!is_allowed("blocks", transport, Kind::Normal));
        }
    }

    #[test]
    fn only_the_binary_knows_components() {
        for (name, _) in ALLOWED.iter().filter(|(name, _)| *name != "outrigger") {
            assert!(!is_allowed(name, "component-redis", Kind::Normal), "{name}");
        }
        assert!(is_allowed("outrigger", "component-redis", Kind::Normal));
    }

    #[test]
    fn the_test_kit_is_for_tests() {
        assert!(is_allowed("component-redis", "testkit", Kind::Test));
        assert!(!is_allowed("component-redis", "testkit", Kind::Normal));
    }

    #[test]
    fn a_crate_without_a_line_is_named() {
        assert!(
            faults(&[package("utils", "core", Kind::Normal)])[0].contains("`utils` has no line")
        );
    }

    #[test]
    fn the_table_has_no_circle() {
        // Every line leans on lines above it only; the test kit and what watches from outside come last.
        for (place, (name, allowed)) in ALLOWED.iter().enumerate() {
            for on in *allowed {
                let found = ALLOWED.iter().position(|(row, _)| row == on).unwrap();
                assert!(found < place || *on == COMPONENTS, "{name} -> {on}");
            }
        }
    }
}
