//! Secret stores.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::{Component, ComponentError};
use outrigger_core::{Metadata, Secret};

/// The entries of one secret; a single-valued secret has one, under its own name.
pub type SecretValue = BTreeMap<String, Secret>;

#[async_trait]
pub trait SecretStore: Component {
    /// `None` where there is no such secret.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn get(
        &self,
        name: &str,
        metadata: &Metadata,
    ) -> Result<Option<SecretValue>, ComponentError>;

    /// # Errors
    /// When the store cannot answer.
    async fn bulk_get(
        &self,
        metadata: &Metadata,
    ) -> Result<BTreeMap<String, SecretValue>, ComponentError>;

    /// Whether a secret may have several entries.
    fn has_multiple_values(&self) -> bool {
        false
    }
}
