//! Secret stores as dependencies: waiting for them, asking them.

use std::sync::Arc;

use outrigger_blocks::Registry;
use outrigger_blocks::component::Handle;
use outrigger_blocks::waiting::Need;
use outrigger_component_api::SecretStore;
use outrigger_config::resolve::{FetchedSecrets, SecretRequest};
use outrigger_core::Metadata;
use outrigger_lifecycle::connection::{Class, Failure, State};
use tokio::sync::watch;

/// The type that answers every name, unknown ones with an empty text.
const LENIENT: &str = "secretstores.local.env";

/// Where the store is shown that is missing.
pub(crate) type Needs = watch::Sender<Option<Need>>;

/// Waits until every store that is asked is there.
pub(super) async fn requests_ready(registry: &Registry, requests: &[SecretRequest], needs: &Needs) {
    for request in requests {
        let handle = registry.secrets(&request.store);
        let status = handle.as_ref().map(|handle| handle.watch());
        let is_missing = |status: &Receiver| status.borrow().state != State::Ready;
        if status.as_ref().is_none_or(is_missing) {
            needs.send_replace(Some(Need {
                store: request.store.clone(),
                status: status.clone(),
            }));
        }
        let (Some(handle), Some(mut status)) = (handle, status) else {
            // Resources are applied as a whole: a store that is not there now has gone, and so will we.
            return std::future::pending().await;
        };
        handle.want();
        if status
            .wait_for(|status| status.state == State::Ready)
            .await
            .is_err()
        {
            return std::future::pending().await;
        }
    }
    needs.send_if_modified(|need| need.take().is_some());
}

type Receiver = watch::Receiver<outrigger_lifecycle::connection::Status>;

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
