//! `state.in-memory` and `pubsub.in-memory`: state and messages that live as long as the component.
//!
//! Neither type has settings or a server. What they hold belongs to the configured component, not to an opened
//! instance: a second instance sees the same values, and all are gone with the component.
//!
//! Start at `state/mod.rs` and `pubsub/mod.rs`. Tests: beside the code, and `tests/conformance.rs` for the suites.

mod pubsub;
mod state;

use std::sync::Arc;

use outrigger_component_api::{Catalog, Findings, Opener, PubSub, Reader, Spec, StateStore};

/// Adds both types.
pub fn register(catalog: &mut Catalog) {
    catalog.state_store("state.in-memory", check_state);
    catalog.exclusive();
    catalog.pubsub("pubsub.in-memory", check_pubsub);
    catalog.exclusive();
}

fn check_state(spec: &Spec, findings: &mut Findings) -> Option<Opener<dyn StateStore>> {
    if !Reader::standard(&spec.properties).finish(findings) {
        return None;
    }
    let table = Arc::new(state::Table::default());
    Some(Arc::new(move |open| {
        let store: Arc<dyn StateStore> =
            Arc::new(state::Store::open(Arc::clone(&table), &open.scope));
        Box::pin(std::future::ready(Ok(store)))
    }))
}

fn check_pubsub(spec: &Spec, findings: &mut Findings) -> Option<Opener<dyn PubSub>> {
    if !Reader::standard(&spec.properties).finish(findings) {
        return None;
    }
    let exchange = Arc::new(pubsub::Exchange::new(spec.name.clone()));
    Some(Arc::new(move |open| {
        let broker: Arc<dyn PubSub> =
            Arc::new(pubsub::Broker::open(Arc::clone(&exchange), open.scope));
        Box::pin(std::future::ready(Ok(broker)))
    }))
}
