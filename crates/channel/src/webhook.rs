//! A server that is told what happens to the sidecar.

use std::time::Duration;

use crate::export::{Server, client_of, post};

const LIMIT: Duration = Duration::from_secs(2);

/// The server behind `--lifecycle-webhook-url`.
pub struct Webhook(Server);

impl Webhook {
    /// # Errors
    /// When it is no URL.
    pub fn new(url: &str) -> Result<Self, String> {
        client_of(url).map(Self)
    }

    /// Sends a CloudEvent once.
    ///
    /// # Errors
    /// When the server did not take it.
    pub async fn send(&self, event: Vec<u8>) -> Result<(), String> {
        let posting = post(&self.0, "application/cloudevents+json", &[], event);
        tokio::time::timeout(LIMIT, posting)
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Webhook")
    }
}
