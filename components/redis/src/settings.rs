//! From properties to settings.
//!
//! The connection block is the same for every Redis component; a few defaults differ. Times follow Dapr's Redis decoder:
//! a bare number is milliseconds, and -1 switches a limit off.

mod hosts;

use std::sync::Arc;
use std::time::Duration;

use outrigger_component_api::{Reader, Secret, Timespan, json};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) use hosts::Server;

/// How to reach Redis, and how long to wait for it.
pub(crate) struct Settings {
    pub topology: Topology,
    pub login: Login,
    /// `redisDB`: 0. Not used with a cluster, which has one database only.
    pub database: i64,
    /// `enableTLS`: false.
    pub tls: Option<Tls>,
    pub retry: Retry,
    /// `dialTimeout`: 5s. For TCP and TLS, per address.
    pub dial_timeout: Option<Duration>,
    /// `readTimeout`: 3s. The deadline of every call that reads.
    pub read_timeout: Option<Duration>,
    /// `writeTimeout`: as `readTimeout`. The deadline of every call that writes.
    pub write_timeout: Option<Duration>,
    /// `poolSize`: ten per processor. How many connections strongly consistent writes may use at once.
    pub pool_size: usize,
}

/// What stands behind `redisHost`.
pub(crate) enum Topology {
    Node(Server),
    /// `redisType: cluster`; some of the nodes.
    Cluster(Vec<Server>),
    /// `failover: true`; the sentinels, which know the primary.
    Sentinel {
        servers: Vec<Server>,
        /// `sentinelMasterName`.
        name: String,
        login: Login,
    },
}

#[derive(Clone, Default)]
pub(crate) struct Login {
    pub username: String,
    pub password: Secret,
}

pub(crate) struct Tls {
    /// `insecureSkipTLSVerify`: false.
    pub insecure: bool,
    /// `caCert`: absent, which means the system's roots.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// `clientCert` and `clientKey`, both or none.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// How often a command is sent again after an answer that says it was not carried out.
#[derive(Clone, Copy)]
pub(crate) struct Retry {
    /// `redisMaxRetries`: 3; -1 for none.
    pub times: u32,
    /// `redisMinRetryInterval`: 2s for state, else 8ms.
    pub shortest: Duration,
    /// `redisMaxRetryInterval`: 512ms. Wins where it is below the minimum.
    pub longest: Duration,
}

impl Retry {
    /// The pause before the retry with this number, from 0. `dice` lies in `0.0..1.0`.
    pub(crate) fn pause(&self, retry: u32, dice: f64) -> Duration {
        let base = self.shortest.saturating_mul(1 << retry.min(16));
        (base + base.mul_f64(dice)).min(self.longest)
    }
}

/// `state.redis`.
pub(crate) struct State {
    pub connection: Arc<Settings>,
    /// `ttlInSeconds`: absent. For writes that bring none.
    pub ttl: Option<i64>,
    /// `queryIndexes`: some are declared, so the server must have the modules.
    pub has_indexes: bool,
}

impl State {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let connection = Arc::new(connection(reader, Block::State));
        // Dapr: state/redis/metadata.yaml lists them, and nobody reads them.
        reader.knows(&["processingTimeout", "redeliverInterval"]);
        let ttl = reader
            .has("ttlInSeconds")
            .then(|| reader.integer("ttlInSeconds", 0_i64));
        Self {
            connection,
            ttl,
            has_indexes: indexes(reader),
        }
    }
}

/// `pubsub.redis`.
pub(crate) struct PubSub {
    pub connection: Arc<Settings>,
    /// `consumerID`: the application's id. Names the group and the consumer.
    pub group: String,
    pub redelivery: Option<Redelivery>,
    /// `queueDepth`: 100 messages, and where 0.
    pub queue_depth: usize,
    /// `concurrency`: 10 handlers per subscription; at least 1.
    pub concurrency: usize,
    pub trim: Trim,
    /// How long one read waits for messages: `readTimeout` between 1s and 5s.
    pub block: Duration,
}

/// When a pending message is delivered again; absent where either time is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Redelivery {
    /// `redeliverInterval`: 15s.
    pub interval: Duration,
    /// `processingTimeout`: 60s.
    pub idle: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trim {
    Nothing,
    /// `maxLenApprox`, in entries.
    Length(i64),
    /// `streamTTL`.
    Age(Duration),
}

impl PubSub {
    pub(crate) fn read(reader: &mut Reader<'_>, app_id: &str) -> Self {
        let block = match reader.duration("readTimeout") {
            Some(Timespan::Disabled) => LONGEST_BLOCK,
            Some(Timespan::Of(wait)) => wait.clamp(SHORTEST_BLOCK, LONGEST_BLOCK),
            None => SHORTEST_BLOCK,
        };
        let connection = Arc::new(connection(reader, Block::PubSub));
        let group = reader.text("consumerID").unwrap_or_default();
        let group = match group.trim() {
            "" => app_id.to_owned(),
            name => name.to_owned(),
        };
        let idle = reader.duration_or("processingTimeout", Duration::from_secs(60));
        let interval = reader.duration_or("redeliverInterval", Duration::from_secs(15));
        let redelivery =
            (!idle.is_zero() && !interval.is_zero()).then_some(Redelivery { interval, idle });
        let queue_depth = match reader.integer("queueDepth", 0_u32) {
            0 => 100,
            depth => depth as usize,
        };
        let concurrency = reader.integer("concurrency", 10_u32).max(1) as usize;
        let length = reader.integer("maxLenApprox", 0_i64);
        let age = reader.duration_or("streamTTL", Duration::ZERO);
        let trim = match (length, age.is_zero()) {
            (1.., _) => Trim::Length(length),
            (_, false) => Trim::Age(age),
            (_, true) => Trim::Nothing,
        };
        Self {
            connection,
            group,
            redelivery,
            queue_depth,
            concurrency,
            trim,
            block,
        }
    }
}

/// A shorter wait would poll; a longer one would hold a stop up where `CLIENT UNBLOCK` is forbidden.
const SHORTEST_BLOCK: Duration = Duration::from_secs(1);
const LONGEST_BLOCK: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    State,
    PubSub,
}

fn connection(reader: &mut Reader<'_>, block: Block) -> Settings {
    // A multiplexed connection has no use for these.
    reader.knows(&[
        "minIdleConns",
        "maxConnAge",
        "poolTimeout",
        "idleTimeout",
        "idleCheckFrequency",
    ]);
    refuse_tokens(reader);
    let database = reader.integer("redisDB", 0_i64);
    if database < 0 {
        reader.fault("redisDB", "a database number, 0 or more");
    }
    let read_timeout = limit(reader, "readTimeout", Some(Duration::from_secs(3)));
    Settings {
        topology: topology(reader),
        login: Login {
            username: reader.text("redisUsername").unwrap_or_default(),
            password: reader.secret("redisPassword"),
        },
        database,
        tls: tls(reader),
        retry: retry(reader, block),
        dial_timeout: limit(reader, "dialTimeout", Some(Duration::from_secs(5))),
        read_timeout,
        write_timeout: limit(reader, "writeTimeout", read_timeout),
        pool_size: pool_size(reader),
    }
}

/// A time limit: absent and 0 mean the default, negative means none.
fn limit(
    reader: &mut Reader<'_>,
    name: &'static str,
    default: Option<Duration>,
) -> Option<Duration> {
    match reader.duration(name) {
        Some(Timespan::Disabled) => None,
        Some(Timespan::Of(time)) if !time.is_zero() => Some(time),
        Some(Timespan::Of(_)) | None => default,
    }
}

fn topology(reader: &mut Reader<'_>) -> Topology {
    let host = reader.text("redisHost").unwrap_or_default();
    let port = match reader.integer("redisPort", 0_u16) {
        0 => None,
        port => Some(port),
    };
    let mut servers = hosts::parse(&host, port).unwrap_or_else(|expected| {
        reader.fault("redisHost", expected);
        Vec::new()
    });
    let kind = reader.text("redisType").unwrap_or_default();
    let name = reader.text("sentinelMasterName").unwrap_or_default();
    let login = Login {
        username: reader.text("sentinelUsername").unwrap_or_default(),
        password: reader.secret("sentinelPassword"),
    };
    if reader.boolean("failover", false) {
        if name.is_empty() {
            reader.fault(
                "sentinelMasterName",
                "the name of the primary, because `failover` is on",
            );
        }
        return Topology::Sentinel {
            servers,
            name,
            login,
        };
    }
    // Dapr: common/component/redis/v9client.go; every other word means a single node.
    if kind.eq_ignore_ascii_case("cluster") {
        return Topology::Cluster(servers);
    }
    if servers.len() > 1 {
        reader.fault(
            "redisHost",
            "one host; a list goes with `redisType: cluster` or `failover: true`",
        );
    }
    Topology::Node(servers.pop().unwrap_or_default())
}

fn tls(reader: &mut Reader<'_>) -> Option<Tls> {
    let insecure = reader.boolean("insecureSkipTLSVerify", false);
    let roots = certificates(reader, "caCert");
    let chain = certificates(reader, "clientCert");
    let key = private_key(reader);
    reader.boolean("enableTLS", false).then_some(Tls {
        insecure,
        roots,
        identity: chain.zip(key),
    })
}

/// Unlike other faults, one about a key does not quote what was found.
fn private_key(reader: &mut Reader<'_>) -> Option<PrivateKeyDer<'static>> {
    let pem = reader.secret("clientKey");
    if pem.is_empty() || pem.reveal() == UNRESOLVED {
        return None;
    }
    let key = PrivateKeyDer::from_pem_slice(pem.reveal().as_bytes());
    if key.is_err() {
        reader.fault("", "`clientKey`: expected a PEM block with a private key");
    }
    key.ok()
}

/// What an offline check reads in place of a secret.
const UNRESOLVED: &str = "unresolved";

const PEM: &str = "-----BEGIN ";

fn certificates(
    reader: &mut Reader<'_>,
    name: &'static str,
) -> Option<Vec<CertificateDer<'static>>> {
    let pem = reader.pem(name)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Some(certificates),
        _ => {
            if pem.contains(PEM) {
                reader.fault(name, "a PEM block with a certificate");
            }
            None
        }
    }
}

fn retry(reader: &mut Reader<'_>, block: Block) -> Retry {
    let millis = Duration::from_millis;
    let times = match block {
        Block::State => reader.integer(("redisMaxRetries", &["maxRetries"]), 3_i64),
        Block::PubSub => reader.integer("redisMaxRetries", 3_i64),
    };
    let shortest = match block {
        Block::State => {
            // Dapr: the old name holds nanoseconds, and counts where the new one is absent or empty.
            let nanos = reader.integer("maxRetryBackoff", 2_000_000_000_i64);
            let old = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
            reader.duration_or("redisMinRetryInterval", old)
        }
        Block::PubSub => reader.duration_or("redisMinRetryInterval", millis(8)),
    };
    Retry {
        // 0 is the client library's word for its default.
        times: match times {
            0 => 3,
            times => u32::try_from(times).unwrap_or(0),
        },
        shortest,
        longest: reader.duration_or("redisMaxRetryInterval", millis(512)),
    }
}

fn pool_size(reader: &mut Reader<'_>) -> usize {
    match reader.integer("poolSize", 0_u32) {
        0 => 10 * std::thread::available_parallelism().map_or(1, usize::from),
        size => size as usize,
    }
}

/// Logins by token are known by name only.
fn refuse_tokens(reader: &mut Reader<'_>) {
    reader.knows(&[
        "oidcAudience",
        "oidcCACert",
        "oidcClientAssertionCert",
        "oidcClientAssertionKey",
        "oidcClientID",
        "oidcKid",
        "oidcResource",
        "oidcScopes",
        "oidcTokenEndpoint",
    ]);
    if reader.boolean(("useEntraID", &["useAzureAD"]), false) {
        reader.fault(
            "useEntraID",
            "`false`: login with Entra ID is not supported yet",
        );
    }
    if reader.boolean("useOIDC", false) {
        reader.fault("useOIDC", "`false`: login with OIDC is not supported yet");
    }
}

/// Whether `queryIndexes` declares any.
fn indexes(reader: &mut Reader<'_>) -> bool {
    let Some(text) = reader.text("queryIndexes").filter(|text| !text.is_empty()) else {
        return false;
    };
    match json::parse_all(text.as_bytes())
        .ok()
        .as_ref()
        .and_then(json::Value::as_array)
    {
        Some(indexes) => !indexes.is_empty(),
        None => {
            reader.fault("queryIndexes", "a JSON array of indexes");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::{Findings, Properties, Property, PropertyValue};

    fn state<const N: usize>(properties: [(&str, &str); N]) -> (State, Vec<String>) {
        let properties = Properties::from(properties);
        let mut reader = Reader::redis(&properties);
        let settings = State::read(&mut reader);
        (settings, faults(reader))
    }

    fn pubsub<const N: usize>(properties: [(&str, &str); N]) -> (PubSub, Vec<String>) {
        let properties = Properties::from(properties);
        let mut reader = Reader::redis(&properties);
        let settings = PubSub::read(&mut reader, "app");
        (settings, faults(reader))
    }

    fn faults(reader: Reader<'_>) -> Vec<String> {
        let mut findings = Findings::default();
        reader.finish(&mut findings);
        assert_eq!(findings.unknown, Vec::<String>::new());
        findings.faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_are_those_of_dapr() {
        let (settings, faults) = state([]);
        assert_eq!(faults, Vec::<String>::new());
        let connection = &settings.connection;
        assert!(
            matches!(&connection.topology, Topology::Node(server) if server.to_string() == "localhost:6379")
        );
        assert_eq!(connection.dial_timeout, Some(Duration::from_secs(5)));
        assert_eq!(connection.read_timeout, Some(Duration::from_secs(3)));
        assert_eq!(connection.retry.times, 3);
        assert_eq!(connection.retry.shortest, Duration::from_secs(2));
        assert_eq!(settings.ttl, None);
        let (settings, _) = pubsub([]);
        assert_eq!(settings.group, "app");
        assert_eq!(
            settings.redelivery,
            Some(Redelivery {
                interval: Duration::from_secs(15),
                idle: Duration::from_secs(60)
            })
        );
        assert_eq!((settings.queue_depth, settings.concurrency), (100, 10));
        assert_eq!(settings.trim, Trim::Nothing);
        assert_eq!(settings.block, Duration::from_secs(1));
        assert_eq!(settings.connection.retry.shortest, Duration::from_millis(8));
    }

    #[test]
    fn every_setting_of_the_block_is_known() {
        let (_, faults) = state([
            ("redisHost", "h"),
            ("redisPort", "1"),
            ("redisUsername", "u"),
            ("redisPassword", "p"),
            ("redisDB", "2"),
            ("redisType", "node"),
            ("failover", "false"),
            ("sentinelMasterName", "m"),
            ("sentinelUsername", "u"),
            ("sentinelPassword", "p"),
            ("enableTLS", "true"),
            ("insecureSkipTLSVerify", "true"),
            ("clientCert", ""),
            ("clientKey", ""),
            ("redisMaxRetries", "1"),
            ("redisMinRetryInterval", "1"),
            ("redisMaxRetryInterval", "1"),
            ("maxRetries", "1"),
            ("maxRetryBackoff", "1"),
            ("dialTimeout", "1s"),
            ("readTimeout", "-1"),
            ("writeTimeout", "1s"),
            ("poolSize", "1"),
            ("minIdleConns", "1"),
            ("maxConnAge", "1"),
            ("poolTimeout", "1"),
            ("idleTimeout", "1"),
            ("idleCheckFrequency", "1"),
            ("useEntraID", "false"),
            ("useOIDC", "false"),
            ("oidcScopes", "openid"),
            ("ttlInSeconds", "1"),
            ("queryIndexes", "[]"),
            ("keyPrefix", "none"),
            ("actorStateStore", "true"),
        ]);
        assert_eq!(faults, Vec::<String>::new());
    }

    #[test]
    fn minus_one_switches_a_limit_off_and_zero_means_the_default() {
        let (settings, _) = state([("readTimeout", "-1"), ("dialTimeout", "0")]);
        assert_eq!(settings.connection.read_timeout, None);
        assert_eq!(settings.connection.write_timeout, None);
        assert_eq!(
            settings.connection.dial_timeout,
            Some(Duration::from_secs(5))
        );
        let (settings, _) = state([("readTimeout", "1500"), ("writeTimeout", "2s")]);
        assert_eq!(
            settings.connection.read_timeout,
            Some(Duration::from_millis(1500))
        );
        assert_eq!(
            settings.connection.write_timeout,
            Some(Duration::from_secs(2))
        );
    }

    #[test]
    fn old_names_of_the_state_store_count() {
        let (settings, _) = state([("maxRetries", "7"), ("maxRetryBackoff", "5000000")]);
        assert_eq!(settings.connection.retry.times, 7);
        assert_eq!(settings.connection.retry.shortest, Duration::from_millis(5));
        let (settings, _) = state([("redisMaxRetries", "-1"), ("maxRetries", "7")]);
        assert_eq!(settings.connection.retry.times, 0);
    }

    #[test]
    fn pauses_grow_between_their_bounds() {
        let retry = Retry {
            times: 3,
            shortest: Duration::from_millis(8),
            longest: Duration::from_millis(512),
        };
        assert_eq!(retry.pause(0, 0.0), Duration::from_millis(8));
        assert_eq!(retry.pause(1, 0.5), Duration::from_millis(24));
        assert_eq!(retry.pause(31, 0.9), Duration::from_millis(512));
    }

    #[test]
    fn sentinels_and_clusters_take_lists() {
        let (settings, faults) = state([
            ("redisHost", "a, b:26379"),
            ("failover", "true"),
            ("sentinelMasterName", "m"),
        ]);
        assert_eq!(faults, Vec::<String>::new());
        let Topology::Sentinel { servers, name, .. } = &settings.connection.topology else {
            panic!("sentinels")
        };
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["a:6379", "b:26379"]);
        assert_eq!(name, "m");
        let (settings, _) = state([("redisHost", "a,b"), ("redisType", "Cluster")]);
        assert!(
            matches!(&settings.connection.topology, Topology::Cluster(servers) if servers.len() == 2)
        );
    }

    #[test]
    fn every_fault_is_told() {
        let (_, faults) = state([
            ("redisHost", "a,b"),
            ("redisDB", "-1"),
            ("failover", "maybe"),
            ("enableTLS", "true"),
            ("caCert", "-----BEGIN NOTHING"),
            ("clientKey", "secret"),
            ("ttlInSeconds", "soon"),
            ("queryIndexes", "{"),
            ("useAzureAD", "true"),
        ]);
        assert_eq!(
            faults,
            [
                "`useEntraID`: expected `false`: login with Entra ID is not supported yet",
                "`redisDB` is \"-1\", expected a database number, 0 or more",
                "`failover` is \"maybe\", expected `true` or `false`",
                "`redisHost` is \"a,b\", expected one host; a list goes with `redisType: cluster` or `failover: true`",
                "`caCert` is \"-----BEGIN NOTHING\", expected a PEM block with a certificate",
                "`clientKey`: expected a PEM block with a private key",
                "`ttlInSeconds` is \"soon\", expected a whole number within range",
                "`queryIndexes` is \"{\", expected a JSON array of indexes",
            ]
        );
    }

    #[test]
    fn a_secret_that_is_not_known_yet_is_no_fault() {
        let names = [
            "redisPassword",
            "clientCert",
            "clientKey",
            "caCert",
            "queryIndexes",
        ];
        let properties = Properties(
            names
                .map(|name| Property {
                    name: name.to_owned(),
                    value: PropertyValue::Unresolved,
                })
                .to_vec(),
        );
        let mut reader = Reader::redis(&properties);
        State::read(&mut reader);
        assert_eq!(faults(reader), Vec::<String>::new());
    }

    #[test]
    fn failover_needs_a_name() {
        let (_, faults) = state([("failover", "true")]);
        assert_eq!(
            faults,
            ["`sentinelMasterName`: expected the name of the primary, because `failover` is on"]
        );
    }

    #[test]
    fn either_time_of_zero_switches_redelivery_off() {
        assert_eq!(pubsub([("processingTimeout", "0")]).0.redelivery, None);
        assert_eq!(pubsub([("redeliverInterval", "0s")]).0.redelivery, None);
        let (settings, _) = pubsub([
            ("redeliverInterval", "300ms"),
            ("processingTimeout", "2000"),
        ]);
        assert_eq!(
            settings.redelivery,
            Some(Redelivery {
                interval: Duration::from_millis(300),
                idle: Duration::from_secs(2)
            })
        );
    }

    #[test]
    fn the_length_of_a_stream_wins_over_its_age() {
        assert_eq!(
            pubsub([("maxLenApprox", "5"), ("streamTTL", "1m")]).0.trim,
            Trim::Length(5)
        );
        assert_eq!(
            pubsub([("streamTTL", "1500")]).0.trim,
            Trim::Age(Duration::from_millis(1500))
        );
    }

    #[test]
    fn a_read_waits_between_one_and_five_seconds() {
        let block = |text| pubsub([("readTimeout", text)]).0.block;
        assert_eq!(block("0"), Duration::from_secs(1));
        assert_eq!(block("3s"), Duration::from_secs(3));
        assert_eq!(block("1m"), Duration::from_secs(5));
        assert_eq!(block("-1"), Duration::from_secs(5));
    }

    #[test]
    fn a_blank_consumer_id_is_the_app_id() {
        assert_eq!(pubsub([("consumerID", "  ")]).0.group, "app");
        assert_eq!(pubsub([("consumerID", " g ")]).0.group, "g");
    }
}
