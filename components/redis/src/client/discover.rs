//! From a topology to links: a server by its name, the primary that sentinels know, the primaries of a cluster.
//!
//! Everything is asked anew for every instance, because all of it moves: addresses, primaries, slots.

use futures_util::future::try_join_all;
use outrigger_component_api::ComponentError;
use redis::Value;

use super::link::{Dialer, Link, Purpose};
use super::race;
use super::slots::{self, Range, slot};
use crate::error::Failure;
use crate::settings::{Server, Topology};

/// The primaries, and in a cluster who has which slots.
pub(super) struct View {
    pub links: Vec<Link>,
    /// Empty outside of clusters.
    pub ranges: Vec<Range>,
}

impl View {
    /// The link to the owner of a key.
    pub(super) fn link(&self, key: &[u8]) -> Option<&Link> {
        if self.ranges.is_empty() {
            return self.links.first();
        }
        let slot = slot(key);
        let range = self
            .ranges
            .iter()
            .find(|range| (range.first..=range.last).contains(&slot))?;
        self.links
            .iter()
            .find(|link| *link.server() == range.primary)
    }
}

/// Connects to whatever the settings describe.
pub(super) async fn open(dialer: &Dialer) -> Result<View, ComponentError> {
    match &dialer.settings.topology {
        Topology::Node(server) => node(dialer, server).await,
        Topology::Sentinel { servers, name, .. } => sentinel(dialer, servers, name).await,
        Topology::Cluster(servers) => cluster(dialer, servers).await,
    }
}

async fn node(dialer: &Dialer, server: &Server) -> Result<View, ComponentError> {
    let link = dialer.connect(server, Purpose::Primary).await?;
    Ok(View {
        links: vec![link],
        ranges: Vec::new(),
    })
}

/// Asks sentinels for the primary until one names a server that is one.
async fn sentinel(dialer: &Dialer, servers: &[Server], name: &str) -> Result<View, ComponentError> {
    let attempts = servers
        .iter()
        .map(|server| -> race::Attempt<'_, View> { Box::pin(behind(dialer, server, name)) })
        .collect();
    race::first(attempts)
        .await
        .unwrap_or_else(|| Err(ComponentError::config("no sentinel is configured")))
}

async fn behind(dialer: &Dialer, sentinel: &Server, name: &str) -> Result<View, ComponentError> {
    let guide = dialer.connect(sentinel, Purpose::Guide).await?;
    let mut question = redis::cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer = guide
        .send(&question, dialer.greeting)
        .await
        .map_err(|failure| failure.of_connection(sentinel))?;
    let primary = primary(answer, sentinel, name)?;
    node(dialer, &primary).await
}

fn primary(answer: Value, sentinel: &Server, name: &str) -> Result<Server, ComponentError> {
    let failed =
        |why: String| Failure::Lost(why).of_connection(format_args!("sentinel {sentinel}"));
    let Value::Array(parts) = answer else {
        return Err(failed(format!("no primary is known by the name `{name}`")));
    };
    let texts: Option<Vec<String>> = parts
        .into_iter()
        .map(|part| match part {
            Value::BulkString(text) => String::from_utf8(text).ok(),
            _ => None,
        })
        .collect();
    match texts.as_deref() {
        Some([host, port]) => match port.parse() {
            Ok(port) => Ok(Server {
                host: host.clone(),
                port,
            }),
            Err(_) => Err(failed("a primary without port".to_owned())),
        },
        _ => Err(failed("an unexpected answer".to_owned())),
    }
}

async fn cluster(dialer: &Dialer, seeds: &[Server]) -> Result<View, ComponentError> {
    let attempts = seeds
        .iter()
        .map(|seed| -> race::Attempt<'_, View> {
            Box::pin(async move {
                let guide = dialer.connect(seed, Purpose::Guide).await?;
                layout(dialer, &guide, &[]).await
            })
        })
        .collect();
    race::first(attempts).await.unwrap_or_else(|| {
        Err(ComponentError::config(
            "no node of the cluster is configured",
        ))
    })
}

/// Asks `guide` for the slots and connects to their owners, except to those of `known` that still live.
pub(super) async fn layout(
    dialer: &Dialer,
    guide: &Link,
    known: &[Link],
) -> Result<View, ComponentError> {
    let mut question = redis::cmd("CLUSTER");
    question.arg("SLOTS");
    let failed = |failure: Failure| failure.of_connection(guide.server());
    let answer = guide
        .send(&question, dialer.greeting)
        .await
        .map_err(failed)?;
    let ranges = slots::read(answer, guide.server()).map_err(failed)?;
    let mut primaries: Vec<&Server> = Vec::new();
    for range in &ranges {
        if !primaries.contains(&&range.primary) {
            primaries.push(&range.primary);
        }
    }
    if primaries.is_empty() {
        return Err(failed(Failure::Lost("the cluster has no slots yet".into())));
    }
    let connected = primaries
        .into_iter()
        .map(|server| -> race::Attempt<'_, Link> {
            let living = known
                .iter()
                .find(|link| link.server() == server && link.is_alive())
                .cloned();
            Box::pin(async move {
                match living {
                    Some(link) => Ok(link),
                    None => dialer.connect(server, Purpose::Primary).await,
                }
            })
        });
    let links = try_join_all(connected).await?;
    Ok(View { links, ranges })
}
