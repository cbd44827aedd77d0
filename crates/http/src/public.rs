//! The public port: health and metadata, without a token.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use outrigger_blocks::Blocks;
use outrigger_blocks::fields::API_TOKEN;
use outrigger_core::secret::equal_in_constant_time;
use outrigger_core::{Body, Secret};

use crate::pipeline::Api;
use crate::{path, reply};

/// What is served without protection.
#[derive(Debug)]
pub struct PublicApi {
    api: Api,
    prestop: Option<PreStop>,
}

/// Who may drain the sidecar without the API's token: the kubelet, ahead of the end of a pod.
#[derive(Debug, Default)]
pub struct PreStop {
    /// None: whoever reaches the port.
    pub token: Option<Secret>,
}

/// Where the token stands.
const PRESTOP_TOKEN: &str = "outrigger-prestop-token";

impl PublicApi {
    pub fn new(blocks: Arc<Blocks>, prestop: Option<PreStop>) -> Self {
        Self {
            api: Api::for_strangers(blocks),
            prestop,
        }
    }

    /// Whether a request may drain the sidecar.
    fn may_drain(&self, request: &Request<Body>) -> bool {
        let Some(token) = self
            .prestop
            .as_ref()
            .and_then(|prestop| prestop.token.as_ref())
        else {
            return true;
        };
        let given = request.headers().get(PRESTOP_TOKEN);
        given.is_some_and(|given| {
            equal_in_constant_time(given.as_bytes(), token.reveal().as_bytes())
        })
    }

    /// Answers a request; what is not served here is not found.
    pub async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        let uri = request.uri().clone();
        let cleaned = path::clean(uri.path());
        let parts: Vec<&str> = cleaned.trim_start_matches('/').split('/').collect();
        let verbs: &[&Method] = match parts.as_slice() {
            ["v1.0", "metadata"]
            | ["v1.0", "healthz"]
            | ["v1.0", "healthz", "outbound" | "live" | "components"]
            | ["v1.0", "healthz", "components", _] => &[&Method::GET],
            ["v1.0", "metadata", _] => &[&Method::PUT],
            ["outrigger", "v1", "drain"] if self.prestop.is_some() => {
                if !self.may_drain(&request) {
                    return reply::text(StatusCode::UNAUTHORIZED, "invalid prestop token");
                }
                &[&Method::GET, &Method::POST]
            }
            _ => return reply::not_found(),
        };
        let allowed = verbs.contains(&request.method());
        if !allowed || *request.method() == Method::HEAD {
            return reply::not_allowed(verbs);
        }
        request.headers_mut().remove(API_TOKEN);
        self.api.handle(request, None).await
    }
}
