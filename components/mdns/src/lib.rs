//! Name resolution by multicast DNS, as Dapr's sidecars do it among themselves.
//!
//! One task per component tells the network of this sidecar, answers for it, and asks for others; it has one socket per
//! address family, shared with every other program on the machine that speaks multicast DNS.
//! Start at [`register`], then `resolver.rs`; what is decided is in `engine.rs`, what goes over the wire in `packet.rs`.

use outrigger_component_api::Catalog;

mod advert;
mod cache;
mod engine;
mod interfaces;
mod network;
mod packet;
mod resolver;
mod socket;

/// Adds the resolver.
pub fn register(catalog: &mut Catalog) {
    catalog.name_resolver("nameresolution.mdns", resolver::check);
    // A second one would answer under the same name.
    catalog.exclusive();
}
