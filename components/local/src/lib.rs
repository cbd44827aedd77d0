//! `secretstores.local.env` and `secretstores.local.file`: secrets from the environment, or from a JSON file.
//!
//! Owns: both types' settings, the rule of withheld variables, the flattening of nested files.
//! Never: writes a secret anywhere, not into a log either.
//!
//! Start at `env.rs` and `file.rs`. Settings and caveats: `README.md`. Tests: beside the code, and `tests/conformance.rs`.

mod env;
mod file;

use outrigger_component_api::Catalog;

/// Adds both types.
pub fn register(catalog: &mut Catalog) {
    catalog.secret_store("secretstores.local.env", env::check);
    catalog.secret_store("secretstores.local.file", file::check);
}
