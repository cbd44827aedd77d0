//! Resiliency resources of a test, and what a sidecar tells of those in force.

use std::time::Duration;

use outrigger_testkit::wait;
use serde_json::{Value, json};

use crate::{Plan, Sidecar};

/// A Resiliency resource. JSON is YAML.
pub fn resource(name: &str, spec: &Value) -> String {
    let document = json!({
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Resiliency",
        "metadata": {"name": name},
        "spec": spec,
    });
    document.to_string()
}

impl Plan {
    /// A resource file `resiliency.yaml`.
    #[must_use]
    pub fn policies(self, spec: &Value) -> Self {
        self.file("resiliency.yaml", resource("policies", spec))
    }
}

impl Sidecar {
    /// What it tells of policies and breakers.
    pub async fn resiliency(&self) -> Value {
        self.get("/outrigger/v1/resiliency").await.json()
    }

    /// What it tells of a target of calls; null when it tells nothing.
    pub async fn target(&self, label: &str) -> Value {
        self.target_in(label, "outbound").await
    }

    /// What it tells of a target in a direction; null when it tells nothing.
    pub async fn target_in(&self, label: &str, flow: &str) -> Value {
        let view = self.resiliency().await;
        let all = view["targets"].as_array().cloned().unwrap_or_default();
        let mut found = all
            .into_iter()
            .filter(|one| one["target"] == label && one["flow"] == flow);
        found.next().unwrap_or_default()
    }

    /// What it tells of a breaker; null when it tells nothing.
    pub async fn breaker(&self, name: &str) -> Value {
        let view = self.resiliency().await;
        let targets = view["targets"].as_array().cloned().unwrap_or_default();
        let mut all = targets
            .iter()
            .flat_map(|target| target["breakers"].as_array().cloned().unwrap_or_default());
        all.find(|one| one["breaker"] == name).unwrap_or_default()
    }

    /// Waits for the state of a breaker; what it tells then.
    pub async fn until_breaker(&self, name: &str, state: &str, limit: Duration) -> Value {
        wait::until(format!("{name} {state}"), limit, async || {
            let seen = self.breaker(name).await;
            if seen["state"] == state {
                Ok(seen)
            } else {
                Err(seen)
            }
        })
        .await
    }

    /// Closes breakers; how many.
    pub async fn reset_breakers(&self, chosen: &Value) -> Value {
        let answer = self
            .post("/outrigger/v1/resiliency/reset", chosen.to_string())
            .await;
        answer.assert(200, "");
        answer.json()["reset"].clone()
    }
}
