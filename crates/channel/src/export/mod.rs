//! Finished spans, on their way to whoever collects them.
//!
//! One task takes them off the tracer's queue in batches. A collector that is away costs the spans of its absence and
//! one warning a minute, nothing else.

mod otlp;
mod zipkin;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_core::shown::shown;
use outrigger_lifecycle::{Scope, Stop};
use outrigger_telemetry::span::Finished;
use outrigger_wire::http1;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::url::unescaped;

pub use otlp::{OtlpGrpc, OtlpHttp};
pub use zipkin::Zipkin;

const SCOPE: &str = "dapr.runtime.diagnostics";
/// A batch goes out when it has this many spans, or when its first one has waited this long.
const BATCH: usize = 512;
const PATIENCE: Duration = Duration::from_secs(1);
/// For one delivery to a collector, unless the configuration says otherwise.
pub const LIMIT: Duration = Duration::from_secs(10);
const WARN_EVERY: Duration = Duration::from_secs(60);
/// For what is left when the sidecar stops.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Where spans go.
pub enum Exporter {
    OtlpGrpc(OtlpGrpc),
    OtlpHttp(OtlpHttp),
    Zipkin(Zipkin),
    /// Into the log.
    Log,
}

/// What all spans have in common.
#[derive(Clone, Debug)]
pub struct Resource {
    pub service_name: String,
    pub attributes: Vec<(String, String)>,
}

/// The name under which spans are recorded.
pub(crate) const TRACER: &str = "dapr-diagnostics";

impl Exporter {
    async fn export(&self, resource: &Resource, batch: &[Finished]) -> Result<(), String> {
        match self {
            Self::OtlpGrpc(exporter) => exporter.export(resource, batch).await,
            Self::OtlpHttp(exporter) => exporter.export(resource, batch).await,
            Self::Zipkin(exporter) => exporter.export(resource, batch).await,
            Self::Log => {
                for span in batch {
                    info!(
                        target: SCOPE,
                        trace_id = hex(&span.context.trace_id),
                        span_id = hex(&span.context.span_id),
                        parent_id = span.parent.as_ref().map(|id| hex(id)).unwrap_or_default(),
                        name = span.name,
                        duration_us = span.end_nanos.saturating_sub(span.start_nanos) / 1_000,
                        error = span.error.as_deref().unwrap_or_default(),
                        "span"
                    );
                }
                Ok(())
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::OtlpGrpc(_) | Self::OtlpHttp(_) => "otlp",
            Self::Zipkin(_) => "zipkin",
            Self::Log => "log",
        }
    }
}

/// Starts exporting. What is queued when `scope` stops is sent before the task ends.
pub fn start(
    scope: &Scope,
    mut queue: mpsc::Receiver<Finished>,
    resource: Resource,
    exporters: Vec<Exporter>,
) {
    scope.spawn("trace.export", |stop: Stop| async move {
        let mut warned: Option<Instant> = None;
        loop {
            let mut batch = Vec::new();
            let stopping = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                taken = queue.recv_many(&mut batch, BATCH) => taken == 0,
            };
            if !stopping {
                fill(&mut queue, &mut batch, &stop).await;
            }
            while batch.len() < BATCH
                && let Ok(span) = queue.try_recv()
            {
                batch.push(span);
            }
            let limit = if stopping || stop.is_cancelled() { FLUSH_LIMIT } else { LIMIT * 2 };
            for exporter in exporters.iter().filter(|_| !batch.is_empty()) {
                let outcome = tokio::time::timeout(limit, exporter.export(&resource, &batch)).await.unwrap_or_else(|_| Err("timed out".to_owned()));
                if let Err(error) = outcome
                    && warned.is_none_or(|at| at.elapsed() > WARN_EVERY)
                {
                    warned = Some(Instant::now());
                    warn!(target: SCOPE, exporter = exporter.name(), spans = batch.len(), error, "spans could not be exported and are lost");
                }
            }
            if stopping {
                return;
            }
        }
    });
}

async fn fill(queue: &mut mpsc::Receiver<Finished>, batch: &mut Vec<Finished>, stop: &Stop) {
    let filling = async {
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            if queue.recv_many(batch, room).await == 0 {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        _ = tokio::time::timeout(PATIENCE, filling) => {}
    }
}

/// A server that is posted to.
pub(crate) struct Server {
    client: http1::Client,
    pub(crate) path: String,
    /// Of the URL's user and password.
    authorization: Option<(String, String)>,
}

/// The server behind a URL.
pub(crate) fn client_of(url: &str) -> Result<Server, String> {
    let (https, rest) = match url.split_once("://") {
        Some(("http", rest)) => (false, rest),
        Some(("https", rest)) => (true, rest),
        _ => {
            return Err(format!(
                "an http or https URL is expected, found {:?}",
                shown(url)
            ));
        }
    };
    let (authority, path) = rest
        .find('/')
        .map_or((rest, "/"), |place| rest.split_at(place));
    let (user, authority) = match authority.rsplit_once('@') {
        Some((user, authority)) => (Some(user), authority),
        None => (None, authority),
    };
    let default = if https { "443" } else { "80" };
    let address = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:{default}")
    };
    let mut target =
        crate::peer::target_of(&address).ok_or_else(|| format!("no host in {:?}", shown(url)))?;
    if https {
        target.tls = Some(
            outrigger_wire::tls::ClientTls::verifying(None, None, &[b"http/1.1"])
                .map_err(|error| error.to_string())?,
        );
    }
    let basic = |user: &str| {
        let mut user = unescaped(user);
        if !user.contains(&b':') {
            user.push(b':');
        }
        let value = format!("Basic {}", STANDARD.encode(user));
        ("authorization".to_owned(), value)
    };
    Ok(Server {
        client: http1::Client::new(target, 4, 64 * 1024),
        path: path.to_owned(),
        authorization: user.map(basic),
    })
}

pub(crate) async fn post(
    server: &Server,
    content_type: &'static str,
    headers: &[(String, String)],
    body: Vec<u8>,
) -> Result<(), String> {
    let path = &server.path;
    let mut request = http::Request::new(outrigger_core::Body::from(body));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = path.parse().map_err(|_| format!("invalid path {path:?}"))?;
    for (name, value) in server.authorization.iter().chain(headers) {
        outrigger_blocks::fields::add(request.headers_mut(), name, value);
    }
    request.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static(content_type),
    );
    let answer = server
        .client
        .send(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = answer.status();
    // The connection goes back once the answer has been read.
    answer.into_body().collect(1 << 20).await.ok();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("the server answered {status}"))
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
            write!(out, "{byte:02x}").ok();
            out
        })
}
