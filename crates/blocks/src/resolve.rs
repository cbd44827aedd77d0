//! From an app's name to an address of its sidecar.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use outrigger_component_api::{ComponentError, NameResolver};
use outrigger_core::ApiError;
use outrigger_core::error::GrpcCode;
use outrigger_lifecycle::{Clock, Moment};

use crate::component::Handle;
use crate::guard::Guard;
use crate::invoke::{CallFailure, RESOLVE_LIMIT};

/// Addresses that are remembered at most.
const REMEMBERED: usize = 4_096;

/// Addresses by app id and namespace, and until when they hold.
type Known = HashMap<(String, String), (Vec<String>, Moment)>;

/// Finds peers, remembering what the resolver allows to be remembered.
pub struct Resolver {
    guard: Guard,
    clock: Clock,
    handle: ArcSwapOption<Handle<dyn NameResolver>>,
    known: Mutex<Known>,
}

/// Why there is no address.
#[derive(Debug)]
pub enum Unresolved {
    /// The resolver itself is not there or not ready.
    Unavailable(Box<ApiError>),
    /// Nobody answers to this name.
    Unknown(String),
}

impl Unresolved {
    pub fn failure(self) -> CallFailure {
        match self {
            // Name resolution that is down is the callers' trouble as much as a peer that is down.
            Self::Unavailable(error) => CallFailure::coded(GrpcCode::Unavailable, error.message),
            Self::Unknown(message) => CallFailure::plain(message),
        }
    }

    pub fn message(&self) -> &str {
        match self {
            Self::Unavailable(error) => &error.message,
            Self::Unknown(message) => message,
        }
    }
}

impl Resolver {
    pub fn new(guard: Guard, clock: Clock) -> Self {
        Self {
            guard,
            clock,
            handle: ArcSwapOption::empty(),
            known: Mutex::default(),
        }
    }

    /// From now on this one is asked. What another one said is forgotten.
    pub fn install(&self, handle: Arc<Handle<dyn NameResolver>>) {
        self.handle.store(Some(handle));
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The name resolver, if there is one.
    pub fn handle(&self) -> Option<Arc<Handle<dyn NameResolver>>> {
        self.handle.load_full()
    }

    /// An address of the app's sidecar, one at random where there are several; not the one to avoid, if there is another.
    ///
    /// # Errors
    /// When there is none.
    pub async fn resolve(
        &self,
        id: &str,
        namespace: &str,
        avoid: Option<&str>,
    ) -> Result<String, Unresolved> {
        if let Some(address) = self.remembered(id, namespace, avoid) {
            return Ok(address);
        }
        let Some(handle) = self.handle.load_full() else {
            return Err(Unresolved::Unknown(format!("couldn't find service: {id}")));
        };
        let instance = self
            .guard
            .ready(&handle)
            .await
            .map_err(|error| Unresolved::Unavailable(Box::new(error)))?;
        let found =
            tokio::time::timeout(RESOLVE_LIMIT, instance.driver.resolve(id, namespace)).await;
        let found = found.unwrap_or_else(|_| {
            Err(ComponentError::failed(format!(
                "timeout waiting for address for app id {id}"
            )))
        });
        let found = found.map_err(|error| {
            if error.doubts_connection() {
                handle.suspect();
            }
            Unresolved::Unknown(error.message)
        })?;
        handle.used();
        let address = pick(&found.addresses, avoid)
            .ok_or_else(|| Unresolved::Unknown(format!("couldn't find service: {id}")))?;
        if found.keep > Duration::ZERO {
            self.remember(id, namespace, found.addresses, found.keep);
        }
        Ok(address)
    }

    /// A caller could not connect to an address.
    pub async fn unreachable(&self, id: &str, namespace: &str, address: &str) {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(id.to_owned(), namespace.to_owned()));
        if let Some(instance) = self.handle.load_full().and_then(|handle| handle.instance()) {
            instance.driver.unreachable(id, namespace, address).await;
        }
    }

    fn remembered(&self, id: &str, namespace: &str, avoid: Option<&str>) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() {
            return None;
        }
        let (addresses, until) = known.get(&(id.to_owned(), namespace.to_owned()))?;
        if *until <= self.clock.now() {
            None
        } else {
            pick(addresses, avoid)
        }
    }

    fn remember(&self, id: &str, namespace: &str, addresses: Vec<String>, keep: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(
            (id.to_owned(), namespace.to_owned()),
            (addresses, self.clock.now() + keep),
        );
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

fn pick(addresses: &[String], avoid: Option<&str>) -> Option<String> {
    match addresses {
        [] => None,
        [single] => Some(single.clone()),
        several => {
            let others: Vec<&String> = several
                .iter()
                .filter(|address| Some(address.as_str()) != avoid)
                .collect();
            others
                .get(rand::random_range(0..others.len().max(1)))
                .map(|address| (*address).clone())
        }
    }
}
