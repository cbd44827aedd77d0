//! HTTPEndpoint resources: clients for external servers, with secrets where they need some.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use outrigger_blocks::invoke::{Call, CallFailure, EndpointClient, Reply};
use outrigger_blocks::metadata::Resources;
use outrigger_channel::endpoints::{Endpoint, Endpoints};
use outrigger_config::HttpEndpointResource;
use outrigger_config::resolve::{ResolvedEndpoint, Secrets, resolve_endpoint, secrets_of_endpoint};
use outrigger_lifecycle::Scope;
use outrigger_lifecycle::connection::Failure;
use outrigger_telemetry::Metrics;
use outrigger_wire::tls::ClientTls;
use tracing::{info, warn};

use super::{SCOPE, Shared, secrets};

/// The endpoints as they are now.
pub(crate) struct ExternalEndpoints {
    metrics: Arc<Metrics>,
    known: Mutex<HashMap<String, Endpoint>>,
    current: ArcSwap<Endpoints>,
    /// Every accepted endpoint and every resiliency resource, ready or not.
    names: ArcSwap<(Vec<String>, Vec<String>)>,
    waiting: Mutex<Option<Scope>>,
}

impl ExternalEndpoints {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let none = Endpoints::new(HashMap::new(), metrics.clone());
        Self {
            metrics,
            known: Mutex::default(),
            current: ArcSwap::from_pointee(none),
            names: ArcSwap::default(),
            waiting: Mutex::default(),
        }
    }

    /// Takes over what resources say now. Endpoints whose secrets have to be asked for come in when they are there.
    pub(crate) fn apply(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        endpoints: &[HttpEndpointResource],
        resiliencies: Vec<String>,
        scope: &Scope,
    ) {
        let names = endpoints
            .iter()
            .map(|endpoint| endpoint.name.clone())
            .collect();
        self.names.store(Arc::new((names, resiliencies)));
        let before = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(scope.child());
        if let Some(before) = before {
            before.cancel();
        }
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        let waiting = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for resource in endpoints {
            let requests = secrets_of_endpoint(resource, &shared.context);
            if requests.is_empty() {
                self.add(
                    shared,
                    resource,
                    &outrigger_config::resolve::FetchedSecrets::default(),
                );
                continue;
            }
            let (me, shared, resource) = (self.clone(), shared.clone(), resource.clone());
            if let Some(scope) = &waiting {
                scope.spawn("http_endpoint", |stop| async move {
                    let fetching = async {
                        loop {
                            secrets::requests_ready(&shared.registry, &requests).await;
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
                        () = stop.cancelled() => {}
                        fetched = fetching => me.add(&shared, &resource, &fetched),
                    }
                });
            }
        }
        self.publish();
    }

    fn add(
        &self,
        shared: &Shared,
        resource: &HttpEndpointResource,
        fetched: &outrigger_config::resolve::FetchedSecrets,
    ) {
        let lookup = shared.lookup();
        let resolved = resolve_endpoint(
            resource,
            &shared.context,
            &lookup,
            Secrets::Fetched(fetched),
        )
        .map_err(|why| why.reason());
        match resolved.and_then(|resolved| endpoint(resource, resolved)) {
            Ok(endpoint) => {
                info!(target: SCOPE, "HTTP Endpoint loaded: {}", resource.name);
                self.known
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(resource.name.clone(), endpoint);
                self.publish();
            }
            Err(reason) => {
                warn!(target: SCOPE, endpoint = resource.name, err = reason, "HTTP endpoint cannot be used")
            }
        }
    }

    fn publish(&self) {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        self.current
            .store(Arc::new(Endpoints::new(known, self.metrics.clone())));
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
