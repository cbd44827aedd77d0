//! Name resolution: from an app id to the address of its sidecar.

use std::time::Duration;

use async_trait::async_trait;
use outrigger_core::{AppId, Namespace};

use crate::{Component, ComponentError};

/// This sidecar, as others may find it.
#[derive(Clone, Debug)]
pub struct Instance {
    pub app_id: AppId,
    pub namespace: Namespace,
    /// The address to advertise: an IP address without port.
    pub address: String,
    pub http_port: u16,
    pub internal_port: u16,
    pub app_port: Option<u16>,
}

/// Addresses of an app's sidecars, `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub addresses: Vec<String>,
    /// How long the answer may be used again.
    pub keep: Duration,
}

#[async_trait]
pub trait NameResolver: Component {
    /// An id that nobody answers to is an error whose message callers see.
    ///
    /// # Errors
    /// When there is no address.
    async fn resolve(&self, id: &str, namespace: &str) -> Result<Resolved, ComponentError>;

    /// A caller could not connect to an address: forget it.
    async fn unreachable(&self, id: &str, namespace: &str, address: &str) {
        let _ = (id, namespace, address);
    }

    /// Takes this sidecar out of the registry, ahead of its end.
    async fn leave(&self) {}

    /// Enters it again after [`NameResolver::leave`].
    async fn join(&self) {}
}
