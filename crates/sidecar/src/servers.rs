//! The servers behind the listeners.

use std::sync::Arc;
use std::time::Duration;

use outrigger_blocks::{Blocks, StopRequest};
use outrigger_config::Options;
use outrigger_core::Body;
use outrigger_lifecycle::Scope;
use outrigger_telemetry::Metrics;
use outrigger_wire::grpc::{self, ServerSettings as GrpcSettings};
use outrigger_wire::http1::{self, ServerSettings};
use outrigger_wire::http2;
use outrigger_wire::listen::{Listener, accept_loop};
use tokio::sync::mpsc;

use crate::listeners::Listeners;
use crate::vital::vital;

/// What serves them.
pub(crate) struct Apis {
    pub http: Arc<outrigger_http::Api>,
    pub public: Arc<outrigger_http::PublicApi>,
    pub grpc: Arc<outrigger_grpc::Api>,
    pub internal: Arc<outrigger_grpc::Internal>,
    pub blocks: Arc<Blocks>,
}

/// Servers under way.
pub(crate) struct Servers {
    /// The API, public and internal servers.
    calls: Scope,
    /// Metrics and profiling, which outlive them.
    telling: Scope,
    /// Where a listener that fails asks for the end.
    end: mpsc::Sender<StopRequest>,
}

/// Idle peers are told to go on elsewhere when we stop; what is running has this long.
const LAST_CALLS: Duration = Duration::from_secs(2);

impl Servers {
    /// Starts accepting.
    pub(crate) fn start(
        listeners: Listeners,
        apis: Apis,
        options: &Options,
        end: mpsc::Sender<StopRequest>,
    ) -> Self {
        let servers = Self {
            end,
            calls: Scope::root(),
            telling: Scope::root(),
        };
        let api = &options.api;
        let head = usize::try_from(api.read_buffer_size).unwrap_or(usize::MAX);
        let http = ServerSettings {
            max_head: head.saturating_add(4096),
            head_timeout: Duration::from_secs(10),
            max_body: (api.max_body_size > 0).then_some(api.max_body_size),
            h2c: !options.environment.disable_h2c,
            http2: http2::Settings::default(),
        };
        for listener in listeners.http {
            let api = apis.http.clone();
            servers.serve_http(
                &servers.calls,
                listener,
                http.clone(),
                move |request, peer| {
                    let api = api.clone();
                    async move { api.handle(request, peer).await }
                },
            );
        }
        if let Some(listener) = listeners.public {
            let public = apis.public;
            servers.serve_http(
                &servers.calls,
                listener,
                ServerSettings {
                    h2c: false,
                    ..http.clone()
                },
                move |request, _| {
                    let public = public.clone();
                    async move { public.handle(request).await }
                },
            );
        }
        if let Some(listener) = listeners.metrics {
            let blocks = apis.blocks;
            servers.serve_http(
                &servers.telling,
                listener,
                ServerSettings {
                    h2c: false,
                    ..http.clone()
                },
                move |_, _| {
                    blocks.refresh_gauges();
                    let page = metrics_page(&blocks.metrics);
                    async move { page }
                },
            );
        }
        for listener in listeners.profile {
            servers.serve_http(
                &servers.telling,
                listener,
                ServerSettings {
                    h2c: false,
                    ..http.clone()
                },
                |request, _| {
                    let page = profile_page(request.uri().path());
                    async move { page }
                },
            );
        }
        let max_message = if api.max_body_size == 0 {
            usize::MAX
        } else {
            usize::try_from(api.max_body_size).unwrap_or(usize::MAX)
        };
        let header_list =
            u32::try_from(api.read_buffer_size.saturating_mul(1024)).unwrap_or(u32::MAX);
        let grpc = GrpcSettings {
            http2: http2::Settings {
                max_header_list: header_list,
                ..http2::Settings::default()
            },
            max_message,
        };
        for listener in listeners.grpc {
            let api = apis.grpc.clone();
            servers.serve_grpc(listener, grpc, move |exchange| {
                let api = api.clone();
                async move { api.handle(exchange).await }
            });
        }
        let internal = apis.internal;
        servers.serve_grpc(listeners.internal, grpc, move |exchange| {
            let internal = internal.clone();
            async move { internal.handle(exchange).await }
        });
        servers
    }

    fn serve_http<H, F>(
        &self,
        scope: &Scope,
        listener: Listener,
        settings: ServerSettings,
        handler: H,
    ) where
        H: Fn(http::Request<Body>, Option<std::net::SocketAddr>) -> F
            + Clone
            + Send
            + Sync
            + 'static,
        F: Future<Output = http::Response<Body>> + Send + 'static,
    {
        let settings = Arc::new(settings);
        let connections = scope.clone();
        vital(scope, "http.accept", &self.end, move |stop| {
            let stopping = stop.clone();
            accept_loop(listener, stop, connections, move |connection, peer| {
                let (settings, stop, handler) =
                    (settings.clone(), stopping.clone(), handler.clone());
                async move {
                    http1::serve(connection, &settings, &stop, move |request| {
                        handler(request, peer)
                    })
                    .await
                }
            })
        });
    }

    fn serve_grpc<H, F>(&self, listener: Listener, settings: GrpcSettings, handler: H)
    where
        H: Fn(grpc::Exchange) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let connections = self.calls.clone();
        vital(&self.calls, "grpc.accept", &self.end, move |stop| {
            let stopping = stop.clone();
            let calls = connections.clone();
            accept_loop(listener, stop, connections, move |connection, _| {
                let (stop, handler, calls) = (stopping.clone(), handler.clone(), calls.clone());
                async move { grpc::serve(connection, settings, &stop, &calls, handler).await }
            })
        });
    }

    /// Closes the listeners of the APIs and waits for running calls, within limits.
    pub(crate) async fn close(&self, limit: Duration) {
        self.calls.close(limit.min(LAST_CALLS)).await;
    }

    /// Closes the rest.
    pub(crate) fn close_telling(&self) {
        self.telling.cancel();
    }
}

fn metrics_page(metrics: &Metrics) -> http::Response<Body> {
    let mut response = http::Response::new(Body::from(metrics.text()));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}

/// Go's profiles have no counterpart here; the paths answer, and say what is there instead.
fn profile_page(path: &str) -> http::Response<Body> {
    let known = path.starts_with("/debug/pprof");
    let text = if known {
        "profiles of Go programs are not available; use perf, or the metrics port\n"
    } else {
        "404 page not found\n"
    };
    let mut response = http::Response::new(Body::from(text));
    if !known {
        *response.status_mut() = http::StatusCode::NOT_FOUND;
    }
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
