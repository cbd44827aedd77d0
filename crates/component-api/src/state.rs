//! State stores: values under keys, with entity tags and expiry.
//!
//! The runtime builds the keys and checks option words; the store keeps bytes. A value is `Bytes` or `Json`, and the
//! difference is visible on disk.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use outrigger_core::Metadata;

use crate::{Component, ComponentError};

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bytes that mean nothing to us.
    Bytes(Bytes),
    /// A JSON text.
    Json(Bytes),
}

impl Value {
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Bytes(bytes) | Self::Json(bytes) => bytes,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Concurrency {
    #[default]
    Unset,
    FirstWrite,
    LastWrite,
}

impl Concurrency {
    /// # Errors
    /// For any other word; the text is Dapr's.
    pub fn parse(word: &str) -> Result<Self, ComponentError> {
        match word {
            "" => Ok(Self::Unset),
            "first-write" => Ok(Self::FirstWrite),
            "last-write" => Ok(Self::LastWrite),
            other => Err(ComponentError::invalid(format!(
                "unrecognized concurrency model '{other}'"
            ))),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    #[default]
    Unset,
    Eventual,
    Strong,
}

impl Consistency {
    /// # Errors
    /// For any other word; the text is Dapr's.
    pub fn parse(word: &str) -> Result<Self, ComponentError> {
        match word {
            "" => Ok(Self::Unset),
            "eventual" => Ok(Self::Eventual),
            "strong" => Ok(Self::Strong),
            other => Err(ComponentError::invalid(format!(
                "unrecognized consistency model '{other}'"
            ))),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Get {
    pub key: String,
    pub consistency: Consistency,
    pub metadata: Metadata,
}

#[derive(Clone, Debug)]
pub struct Set {
    pub key: String,
    pub value: Value,
    /// An empty tag counts as none and never reaches a store.
    pub etag: Option<String>,
    pub concurrency: Concurrency,
    pub consistency: Consistency,
    pub metadata: Metadata,
}

#[derive(Clone, Debug)]
pub struct Delete {
    pub key: String,
    pub etag: Option<String>,
    pub concurrency: Concurrency,
    pub consistency: Consistency,
    pub metadata: Metadata,
}

#[derive(Clone, Debug)]
pub enum Operation {
    Set(Set),
    Delete(Delete),
}

impl Operation {
    pub fn key(&self) -> &str {
        match self {
            Self::Set(set) => &set.key,
            Self::Delete(delete) => &delete.key,
        }
    }
}

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateItem {
    pub data: Bytes,
    pub etag: Option<String>,
    /// Facts about the value, such as `ttlExpireTime`.
    pub metadata: Metadata,
}

/// One page of keys, in the store's own order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysPage {
    pub keys: Vec<String>,
    /// Where the next page begins; opaque.
    pub token: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StateFeatures {
    pub etag: bool,
    pub transactional: bool,
    pub ttl: bool,
    pub query: bool,
    pub delete_with_prefix: bool,
    pub keys_like: bool,
}

impl StateFeatures {
    /// The words of the metadata API, in its order.
    pub fn capabilities(self) -> Vec<&'static str> {
        let words = [
            (self.etag, "ETAG"),
            (self.transactional, "TRANSACTIONAL"),
            (self.ttl, "TTL"),
            (self.query, "QUERY_API"),
            (self.delete_with_prefix, "DELETE_WITH_PREFIX"),
            (self.keys_like, "KEYS_LIKE"),
            (self.etag && self.transactional, "ACTOR"),
        ];
        words
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, word)| word)
            .collect()
    }
}

/// How the store's counterpart in Dapr writes JSON, for callers that compare stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum JsonForm {
    #[default]
    Standard,
    Fast,
}

#[async_trait]
pub trait StateStore: Component {
    fn features(&self) -> StateFeatures;

    fn json_form(&self) -> JsonForm {
        JsonForm::Standard
    }

    /// The most operations one transaction may have; `None` for no limit.
    fn max_transaction_size(&self) -> Option<usize> {
        None
    }

    /// An absent or expired key is `None`, not an error.
    ///
    /// # Errors
    /// When the store cannot answer.
    async fn get(&self, request: &Get) -> Result<Option<StateItem>, ComponentError>;

    /// # Errors
    /// Entity tag errors as their kinds; anything else as the store said it.
    async fn set(&self, request: &Set) -> Result<(), ComponentError>;

    /// Deleting an absent key without entity tag succeeds.
    ///
    /// # Errors
    /// As [`StateStore::set`].
    async fn delete(&self, request: &Delete) -> Result<(), ComponentError>;

    /// One result per key, a failure of one key inside its result. The order is free; the default keeps that of the
    /// request.
    ///
    /// # Errors
    /// When the whole read failed.
    async fn bulk_get(
        &self,
        requests: &[Get],
        parallelism: usize,
    ) -> Result<Vec<(String, Result<Option<StateItem>, ComponentError>)>, ComponentError> {
        let reads: Vec<_> = requests
            .iter()
            .map(|request| Box::pin(self.get(request)))
            .collect();
        let found: Vec<_> = futures_util::stream::iter(reads)
            .buffered(parallelism.clamp(1, 64))
            .collect()
            .await;
        Ok(requests
            .iter()
            .map(|request| request.key.clone())
            .zip(found)
            .collect())
    }

    /// Ordered upserts and deletes; later operations see earlier ones.
    ///
    /// # Errors
    /// When nothing, or for stores without rollback not everything, was applied.
    async fn transact(
        &self,
        operations: &[Operation],
        metadata: &Metadata,
    ) -> Result<(), ComponentError> {
        let _ = (operations, metadata);
        Err(ComponentError::unsupported(
            "transactions are not supported",
        ))
    }

    /// Removes the keys that start with `prefix` (`||` is added where it lacks) and have no further `||`; returns how many.
    ///
    /// # Errors
    /// For an empty prefix, and where unsupported.
    async fn delete_with_prefix(&self, prefix: &str) -> Result<u64, ComponentError> {
        let _ = prefix;
        Err(ComponentError::unsupported(
            "delete with prefix is not supported",
        ))
    }

    /// Stored keys that match a SQL `LIKE` pattern with `\` as escape.
    ///
    /// # Errors
    /// For an empty pattern, and where unsupported.
    async fn keys_like(
        &self,
        pattern: &str,
        page_size: Option<u32>,
        token: Option<&str>,
    ) -> Result<KeysPage, ComponentError> {
        let _ = (pattern, page_size, token);
        Err(ComponentError::unsupported("listing keys is not supported"))
    }

    /// Why queries fail, for a store that has them only under a condition.
    fn query_needs(&self) -> Option<&'static str> {
        None
    }
}

/// `ttlInSeconds` of a request: absent, or a whole number; zero and -1 mean that the value never expires.
///
/// # Errors
/// For any other text, in Dapr's words.
pub fn ttl_in_seconds(metadata: &Metadata) -> Result<Option<i64>, ComponentError> {
    match metadata.get("ttlInSeconds").map(String::as_str) {
        None | Some("") => Ok(None),
        Some(text) => text.parse::<i64>().map(Some).map_err(|error| {
            let why = match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                    "value out of range"
                }
                _ => "invalid syntax",
            };
            ComponentError::invalid(format!(
                "failed to parse ttl from metadata: strconv.ParseInt: parsing {text:?}: {why}"
            ))
        }),
    }
}
