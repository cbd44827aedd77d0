//! State and name resolution over SQLite.
//!
//! `state.sqlite` keeps values in one table of a file, in the form Dapr gives them, so that both can work on one file at
//! the same time. `nameresolution.sqlite` lets sidecars that share a file find each other.
//!
//! A database belongs to a few plain threads, since SQLite's calls block: one writes, up to three read (`lane.rs`).
//! Nothing is started and no file is touched before a component is opened.
//! Start at [`register`], then `state.rs` or `names.rs`.

use outrigger_component_api::Catalog;

mod cleanup;
mod connection_string;
mod database;
mod error;
mod group;
mod lane;
mod migration;
mod names;
mod settings;
mod state;
mod write;

/// Adds every building block that SQLite offers here.
pub fn register(catalog: &mut Catalog) {
    for type_name in ["state.sqlite", "state.sqlite3"] {
        catalog.state_store(type_name, state::check);
        // A file belongs to one instance at a time.
        catalog.exclusive();
    }
    catalog.name_resolver("nameresolution.sqlite", names::check);
    catalog.exclusive();
}
