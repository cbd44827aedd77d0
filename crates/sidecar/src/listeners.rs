//! Every port of the sidecar, bound before anything else happens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use outrigger_config::Options;
use outrigger_wire::listen::{self, Listener, PATIENCE};
use tracing::warn;

use crate::host;

const SCOPE: &str = "dapr.runtime";

/// Bound and accepting into their backlogs.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub http: Vec<Listener>,
    pub grpc: Vec<Listener>,
    pub public: Option<Listener>,
    pub metrics: Option<Listener>,
    pub internal: Listener,
    pub profile: Vec<Listener>,
    pub ports: Ports,
}

/// The numbers that were bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ports {
    pub http: u16,
    pub grpc: u16,
    pub internal: u16,
    pub metrics: u16,
    pub profile: u16,
}

/// Binds all of them side by side. A port in use is asked for again for ten seconds.
///
/// # Errors
/// With the name of the port that cannot be had.
pub(crate) async fn bind(options: &Options, host_name: &str) -> Result<Listeners, String> {
    let api = &options.api;
    let addresses = &api.listen_addresses;
    let unix = api.unix_domain_socket.as_deref();
    let named = |kind: &str| {
        unix.map(|folder| Path::new(folder).join(format!("dapr-{}-{kind}.socket", options.app_id)))
    };
    let (http, grpc, public, metrics, internal, profile) = tokio::join!(
        bind_api("HTTP API", addresses, api.http_port, named("http")),
        bind_api("gRPC API", addresses, api.grpc_port, named("grpc")),
        bind_optional("public HTTP", &api.public_listen_address, api.public_port),
        bind_optional(
            "metrics",
            &options.metrics.listen_address,
            options.metrics.enabled.then_some(options.metrics.port)
        ),
        bind_internal(options, host_name),
        bind_profile(addresses, api.profile_port),
    );
    let (http, grpc, metrics, internal) = (http?, grpc?, metrics?, internal?);
    let first = |listeners: &[Listener], otherwise| {
        listeners
            .first()
            .and_then(Listener::port)
            .unwrap_or(otherwise)
    };
    let ports = Ports {
        http: first(&http, api.http_port),
        grpc: first(&grpc, api.grpc_port),
        internal: internal.port().unwrap_or_default(),
        metrics: metrics
            .as_ref()
            .and_then(Listener::port)
            .unwrap_or(options.metrics.port),
        profile: first(&profile, api.profile_port.unwrap_or(7777)),
    };
    Ok(Listeners {
        http,
        grpc,
        public: public?,
        metrics,
        internal,
        profile,
        ports,
    })
}

/// Binds each address, or the socket file in their place; it is enough that one can be had.
async fn bind_api(
    what: &str,
    addresses: &[String],
    port: u16,
    socket: Option<std::path::PathBuf>,
) -> Result<Vec<Listener>, String> {
    if let Some(path) = socket {
        return match listen::bind_unix(&path) {
            Ok(listener) => Ok(vec![listener]),
            Err(error) => Err(format!(
                "cannot listen on {} for the {what}: {error}",
                path.display()
            )),
        };
    }
    if addresses.is_empty() {
        return bind_one("", port, PATIENCE)
            .await
            .map(|listener| vec![listener])
            .map_err(|error| refused(what, "", port, &error));
    }
    let mut bound: Vec<Listener> = Vec::new();
    let mut last = String::new();
    for address in addresses {
        // Any free port means the same one on every address.
        let port = bound.first().and_then(Listener::port).unwrap_or(port);
        match bind_one(address, port, PATIENCE).await {
            Ok(listener) => bound.push(listener),
            Err(error) => {
                last = refused(what, address, port, &error);
                warn!(target: SCOPE, "{last}");
            }
        }
    }
    if bound.is_empty() {
        Err(last)
    } else {
        Ok(bound)
    }
}

async fn bind_optional(
    what: &str,
    address: &str,
    port: Option<u16>,
) -> Result<Option<Listener>, String> {
    let Some(port) = port else { return Ok(None) };
    bind_one(address, port, PATIENCE)
        .await
        .map(Some)
        .map_err(|error| refused(what, address, port, &error))
}

/// The port that was asked for; else one that a restart keeps; else any.
async fn bind_internal(options: &Options, host_name: &str) -> Result<Listener, String> {
    let address = &options.internal.listen_address;
    if let Some(port) = options.internal.port {
        return bind_one(address, port, PATIENCE)
            .await
            .map_err(|error| refused("internal gRPC", address, port, &error));
    }
    let derived = host::derived_port(options.app_id.as_str(), host_name);
    match bind_one(address, derived, Duration::ZERO).await {
        Ok(listener) => Ok(listener),
        Err(_) => bind_one(address, 0, Duration::ZERO)
            .await
            .map_err(|error| refused("internal gRPC", address, 0, &error)),
    }
}

/// Profiling is no reason to fail.
async fn bind_profile(addresses: &[String], port: Option<u16>) -> Vec<Listener> {
    let Some(port) = port else { return Vec::new() };
    let everywhere = [String::new()];
    let mut bound = Vec::new();
    for address in if addresses.is_empty() {
        &everywhere
    } else {
        addresses
    } {
        match bind_one(address, port, Duration::ZERO).await {
            Ok(listener) => bound.push(listener),
            Err(error) => warn!(target: SCOPE, "{}", refused("profiling", address, port, &error)),
        }
    }
    bound
}

/// In Go's words, which people search for.
fn refused(what: &str, address: &str, port: u16, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
        io::ErrorKind::PermissionDenied => "bind: permission denied".to_owned(),
        _ => error.to_string(),
    };
    format!("could not listen for the {what}: listen tcp {address}:{port}: {why}")
}

async fn bind_one(address: &str, port: u16, patience: Duration) -> io::Result<Listener> {
    if address.is_empty() {
        return match listen::bind_tcp(
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
            patience,
        )
        .await
        {
            // There are machines without IPv6.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                listen::bind_tcp(
                    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
                    patience,
                )
                .await
            }
            outcome => outcome,
        };
    }
    let plain = address.trim_start_matches('[').trim_end_matches(']');
    let found = match plain.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port),
        Err(_) => tokio::net::lookup_host((plain, port))
            .await?
            .next()
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("no such host {plain}"))
            })?,
    };
    listen::bind_tcp(found, patience).await
}
