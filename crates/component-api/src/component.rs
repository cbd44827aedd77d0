//! What every component has in common.

use std::sync::Arc;

use async_trait::async_trait;
use outrigger_core::{AppId, ComponentName, Namespace};
use outrigger_lifecycle::Scope;
use tokio::sync::mpsc;

use crate::{ComponentError, Properties};

/// One connected instance of a component.
#[async_trait]
pub trait Component: Send + Sync + 'static {
    /// Makes an authenticated round trip on the path that real calls use. An open TCP port is no ping.
    ///
    /// # Errors
    /// Why the backend does not serve, with its class.
    ///
    /// # Cancel safety
    /// May be dropped at any await; the supervisor bounds it.
    async fn ping(&self) -> Result<(), ComponentError>;

    /// What keeps calls from being served although the connection lives, such as a broker that takes no messages for the
    /// moment. Shown by the health API; another connection would not help, so none is made for it.
    fn impediment(&self) -> Option<ComponentError> {
        None
    }

    /// Another number than before when what it holds has changed, such as the file of a secret store: whoever was refused
    /// by it is worth another try. Looked at after each ping.
    fn revision(&self) -> u64 {
        0
    }

    /// Lets go of connections. Idempotent; abandoned after two seconds.
    async fn close(&self);
}

/// The application on whose behalf components work.
#[derive(Clone, Debug)]
pub struct Identity {
    pub app_id: AppId,
    /// Env `NAMESPACE`; absent when unset.
    pub namespace: Option<Namespace>,
}

/// A component resource as its driver sees it: named, typed, with every value resolved.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: ComponentName,
    /// `state.redis`, in lower case.
    pub type_name: String,
    pub version: String,
    pub identity: Identity,
    pub properties: Properties,
}

/// What a driver is given to open one instance.
#[derive(Clone, Debug)]
pub struct Open {
    /// Owns the instance's tasks; stopped when the instance is let go.
    pub scope: Scope,
    /// Where to report that the connection ended.
    pub loss: Loss,
}

/// The driver's way to say that its connection is gone. Only the first report of an instance counts.
#[derive(Clone, Debug)]
pub struct Loss {
    sender: Option<Arc<mpsc::Sender<ComponentError>>>,
}

impl Loss {
    pub fn new(sender: mpsc::Sender<ComponentError>) -> Self {
        Self {
            sender: Some(Arc::new(sender)),
        }
    }

    /// Goes nowhere; for tests of a driver alone.
    pub fn ignored() -> Self {
        Self { sender: None }
    }

    /// Reports the end of the connection. Never blocks: while a report is waiting, further ones say nothing new.
    pub fn report(&self, error: ComponentError) {
        if let Some(sender) = &self.sender {
            sender.try_send(error).ok();
        }
    }
}
