//! Secret stores as dependencies: waiting for them, asking them.

use std::sync::Arc;

use outrigger_blocks::Registry;
use outrigger_blocks::component::Handle;
use outrigger_component_api::SecretStore;
use outrigger_config::resolve::{FetchedSecrets, SecretRequest, secrets_of};
use outrigger_config::{ComponentResource, Context};
use outrigger_core::Metadata;
use outrigger_lifecycle::connection::{Class, Failure, State};

/// The type that answers every name, unknown ones with an empty text.
const LENIENT: &str = "secretstores.local.env";

/// Waits until every store that a resource asks is there.
pub(super) async fn stores_ready(
    registry: &Registry,
    resource: &ComponentResource,
    context: &Context,
) {
    requests_ready(registry, &secrets_of(resource, context)).await;
}

pub(super) async fn requests_ready(registry: &Registry, requests: &[SecretRequest]) {
    for request in requests {
        let Some(handle) = registry.secrets(&request.store) else {
            // Resources are applied as a whole: a store that is not there now has gone, and so will we.
            return std::future::pending().await;
        };
        handle.want();
        let mut status = handle.watch();
        if status
            .wait_for(|status| status.state == State::Ready)
            .await
            .is_err()
        {
            return std::future::pending().await;
        }
    }
}

/// Asks the stores.
pub(super) async fn fetch(
    registry: &Registry,
    requests: &[SecretRequest],
) -> Result<FetchedSecrets, Failure> {
    let mut fetched = FetchedSecrets::default();
    for request in requests {
        let failed = |why: String| {
            Failure::new(
                Class::Secret,
                format!("secret {} of store {}: {why}", request.name, request.store),
            )
        };
        let handle: Arc<Handle<dyn SecretStore>> = registry
            .secrets(&request.store)
            .ok_or_else(|| failed("there is no such store".to_owned()))?;
        let instance = handle
            .instance()
            .ok_or_else(|| failed("the store is not ready".to_owned()))?;
        if handle.info().type_name == LENIENT {
            fetched.lenient_stores.insert(request.store.clone());
        }
        match instance.driver.get(&request.name, &Metadata::new()).await {
            Ok(Some(values)) => {
                fetched.values.insert(request.clone(), values);
            }
            // What is missing is told by whoever needed it, with its place.
            Ok(None) => {}
            Err(error) => {
                if error.doubts_connection() {
                    handle.suspect();
                }
                return Err(failed(error.message));
            }
        }
    }
    Ok(fetched)
}
