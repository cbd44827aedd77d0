//! The server for other sidecars: their calls to our app, proxied ones, reflection.

use std::sync::Arc;

use http::HeaderMap;
use outrigger_blocks::activity::Activity;
use outrigger_channel::peer::PeerServer;
use outrigger_channel::proxy::{Proxy, Side};
use outrigger_wire::grpc::{Exchange, Status};

use crate::reflection;

const SERVICE: &str = "/dapr.proto.internals.v1.ServiceInvocation/";
const SERVICES: &[&str] = &[
    "dapr.proto.internals.v1.ServiceInvocation",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Answers other sidecars.
#[derive(Debug)]
pub struct Internal {
    pub peers: Arc<PeerServer>,
    pub proxy: Arc<Proxy>,
    pub activity: Arc<Activity>,
}

impl Internal {
    /// Every call is a task of its own, which is moved while it is made: what is rare or large is boxed, so that tasks stay
    /// small.
    pub async fn handle(&self, exchange: Exchange) {
        let path = exchange.path();
        let _running = (self.activity.begin(), self.activity.invocation());
        if PeerServer::serves(path) {
            self.peers.answer(exchange).await;
        } else if path.starts_with(SERVICE) {
            // Actors live where there is a placement service.
            exchange.refuse(
                HeaderMap::new(),
                &Status::unavailable("placement service is not configured"),
            );
        } else if matches!(path, reflection::V1 | reflection::V1_ALPHA) {
            Box::pin(reflection::serve(exchange, SERVICES)).await;
        } else {
            Box::pin(self.proxy.pass(exchange, Side::Internal, None)).await;
        }
    }
}
