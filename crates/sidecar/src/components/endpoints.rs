//! HTTPEndpoint resources: clients for external servers, with secrets where they need some.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use outrigger_blocks::invoke::{Call, CallFailure, EndpointClient, Reply};
use outrigger_blocks::metadata::Resources;
use outrigger_channel::endpoints::{Endpoint, Endpoints};
use outrigger_config::resolve::{
    FetchedSecrets, ResolvedEndpoint, SecretRequest, Secrets, resolve_endpoint, secrets_of_endpoint,
};
use outrigger_config::{Fingerprint, HttpEndpointResource};
use outrigger_lifecycle::Scope;
use outrigger_lifecycle::connection::Failure;
use outrigger_telemetry::Metrics;
use outrigger_wire::tls::ClientTls;
use tracing::{info, warn};

use super::{SCOPE, Shared, secrets};

/// The endpoints as they are now.
pub(crate) struct ExternalEndpoints {
    metrics: Arc<Metrics>,
    present: Mutex<Present>,
    current: ArcSwap<Endpoints>,
    /// Every accepted endpoint and every resiliency resource, ready or not.
    names: ArcSwap<(Vec<String>, Vec<String>)>,
}

/// Endpoints by name, with the definitions that they were made of.
#[derive(Default)]
struct Present {
    ready: HashMap<String, (Fingerprint, Endpoint)>,
    /// Those whose secrets are not there yet. What is ready under the same name serves on.
    waiting: HashMap<String, (Fingerprint, Scope)>,
}

impl ExternalEndpoints {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let none = Endpoints::new(HashMap::new(), metrics.clone());
        Self {
            metrics,
            present: Mutex::default(),
            current: ArcSwap::from_pointee(none),
            names: ArcSwap::default(),
        }
    }

    /// Takes over what resources say now. What has not changed is not touched; what has changed takes the place of what was
    /// there when its secrets have been fetched.
    pub(crate) fn apply(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        endpoints: &[HttpEndpointResource],
        resiliencies: Vec<String>,
        scope: &Scope,
    ) {
        let names: Vec<String> = endpoints
            .iter()
            .map(|endpoint| endpoint.name.clone())
            .collect();
        let changed: Vec<&HttpEndpointResource> = {
            let mut present = self.present();
            let before = present.ready.len();
            present.ready.retain(|name, _| names.contains(name));
            let are_gone = present.ready.len() < before;
            let Present { ready, waiting } = &mut *present;
            waiting.retain(|name, (fingerprint, scope)| {
                let is_wanted = endpoints
                    .iter()
                    .any(|one| one.name == *name && one.fingerprint == *fingerprint);
                if !is_wanted {
                    scope.cancel();
                }
                is_wanted
            });
            let is_known = |one: &HttpEndpointResource| {
                waiting.contains_key(&one.name)
                    || ready
                        .get(&one.name)
                        .is_some_and(|(fingerprint, _)| *fingerprint == one.fingerprint)
            };
            let changed = endpoints.iter().filter(|one| !is_known(one)).collect();
            if are_gone {
                self.publish(&present);
            }
            changed
        };
        self.names.store(Arc::new((names, resiliencies)));
        for resource in changed {
            let requests = secrets_of_endpoint(resource, &shared.context);
            if requests.is_empty() {
                self.add(shared, resource, &FetchedSecrets::default());
            } else {
                self.await_secrets(shared, resource, requests, scope);
            }
        }
    }

    fn await_secrets(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        resource: &HttpEndpointResource,
        requests: Vec<SecretRequest>,
        scope: &Scope,
    ) {
        let scope = scope.child();
        self.present()
            .waiting
            .insert(resource.name.clone(), (resource.fingerprint, scope.clone()));
        let (me, shared, resource) = (self.clone(), shared.clone(), resource.clone());
        scope.spawn("http_endpoint", |stop| async move {
            let fetching = async {
                loop {
                    secrets::requests_ready(&shared.registry, &requests, &secrets::Needs::new(None)).await;
                    match secrets::fetch(&shared.registry, &requests).await {
                        Ok(fetched) => return fetched,
                        Err(Failure { message, .. }) => {
                            warn!(target: SCOPE, endpoint = resource.name, err = message, "HTTP endpoint waits for its secrets");
                            tokio::time::sleep(shared.timing.slow.base).await;
                        }
                    }
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                fetched = fetching => me.add(&shared, &resource, &fetched),
            }
        });
    }

    fn add(&self, shared: &Shared, resource: &HttpEndpointResource, fetched: &FetchedSecrets) {
        let lookup = shared.lookup();
        let resolved = resolve_endpoint(
            resource,
            &shared.context,
            &lookup,
            Secrets::Fetched(fetched),
        )
        .map_err(|why| why.reason());
        let made = resolved.and_then(|resolved| endpoint(resource, resolved));
        let mut present = self.present();
        present.waiting.remove(&resource.name);
        match made {
            Ok(endpoint) => {
                info!(target: SCOPE, "HTTP Endpoint loaded: {}", resource.name);
                let ready = (resource.fingerprint, endpoint);
                present.ready.insert(resource.name.clone(), ready);
                self.publish(&present);
            }
            Err(reason) => {
                let is_there = present.ready.contains_key(&resource.name);
                warn!(target: SCOPE, endpoint = resource.name, err = reason, last_good_in_force = is_there, "HTTP endpoint cannot be used")
            }
        }
    }

    fn publish(&self, present: &Present) {
        let ready = present.ready.iter();
        let named = ready
            .map(|(name, (_, endpoint))| (name.clone(), endpoint.clone()))
            .collect();
        self.current
            .store(Arc::new(Endpoints::new(named, self.metrics.clone())));
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn endpoint(
    resource: &HttpEndpointResource,
    resolved: ResolvedEndpoint,
) -> Result<Endpoint, String> {
    let has_tls = resolved.root_ca.is_some() || resolved.certificate.is_some();
    let identity = match (&resolved.certificate, &resolved.private_key) {
        (Some(certificate), Some(key)) => Some((certificate.as_str(), key.reveal())),
        (None, None) => None,
        (Some(_), None) => return Err("clientTLS has a certificate and no privateKey".to_owned()),
        (None, Some(_)) => return Err("clientTLS has a privateKey and no certificate".to_owned()),
    };
    let tls = if has_tls {
        Some(
            ClientTls::verifying(resolved.root_ca.as_deref(), identity, &[b"http/1.1"])
                .map_err(|error| error.to_string())?,
        )
    } else {
        None
    };
    let headers = resolved
        .headers
        .into_iter()
        .map(|(name, value)| (name, value.reveal().to_owned()))
        .collect();
    Ok(Endpoint {
        base_url: resource.base_url.clone(),
        headers,
        tls,
    })
}

#[async_trait]
impl EndpointClient for ExternalEndpoints {
    fn knows(&self, name: &str) -> bool {
        self.current.load().knows(name)
    }

    fn base_url(&self, name: &str) -> Option<String> {
        self.current.load().base_url(name)
    }

    async fn call(&self, target: &str, call: Call) -> Result<Reply, CallFailure> {
        let current = self.current.load_full();
        current.call(target, call).await
    }
}

impl Resources for ExternalEndpoints {
    fn http_endpoints(&self) -> Vec<String> {
        self.names.load().0.clone()
    }

    fn resiliencies(&self) -> Vec<String> {
        self.names.load().1.clone()
    }
}

impl std::fmt::Debug for ExternalEndpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ExternalEndpoints")
    }
}
