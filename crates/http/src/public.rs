//! The public port: health and metadata, without a token.

use std::sync::Arc;

use http::{Method, Request, Response};
use outrigger_blocks::Blocks;
use outrigger_blocks::fields::API_TOKEN;
use outrigger_core::Body;

use crate::pipeline::Api;
use crate::{path, reply};

/// What is served without protection.
#[derive(Debug)]
pub struct PublicApi {
    api: Api,
}

impl PublicApi {
    pub fn new(blocks: Arc<Blocks>) -> Self {
        Self {
            api: Api::for_strangers(blocks),
        }
    }

    /// Answers a request; what is not served here is not found.
    pub async fn handle(&self, mut request: Request<Body>) -> Response<Body> {
        let uri = request.uri().clone();
        let cleaned = path::clean(uri.path());
        let parts: Vec<&str> = cleaned.trim_start_matches('/').split('/').collect();
        let verbs: &'static [&'static str] = match parts.as_slice() {
            ["v1.0", "metadata"]
            | ["v1.0", "healthz"]
            | ["v1.0", "healthz", "outbound" | "live" | "components"]
            | ["v1.0", "healthz", "components", _] => &["GET"],
            ["v1.0", "metadata", _] => &["PUT"],
            _ => return reply::not_found(),
        };
        let allowed = verbs.iter().any(|verb| *verb == request.method().as_str());
        if !allowed || *request.method() == Method::HEAD {
            return reply::not_allowed(verbs);
        }
        request.headers_mut().remove(API_TOKEN);
        self.api.handle(request, None).await
    }
}
