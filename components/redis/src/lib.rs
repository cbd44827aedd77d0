//! Redis as state store (`state.redis`) and as message broker on Streams (`pubsub.redis`).
//!
//! ```text
//! settings.rs   properties to checked settings; the connection block is shared
//! client.rs     one connected instance: a server, the primary behind sentinels, or a cluster's primaries
//! error.rs      what an answer of Redis means to the supervisor
//! state.rs      hashes with `data` and `version`, written by one atomic script
//! pubsub.rs     one stream per topic, one consumer group per application
//! ```
//!
//! Stored bytes and stream entries are those of Dapr, so that both can work on the same data at the same time.
//! Nothing here reconnects: a connection that ends is reported, and the supervisor opens a new instance.

mod client;
mod error;
mod pubsub;
mod settings;
mod state;

use outrigger_component_api::Catalog;

/// Adds every building block that Redis offers here.
pub fn register(catalog: &mut Catalog) {
    catalog.state_store("state.redis", state::check);
    catalog.pubsub("pubsub.redis", pubsub::check);
}
