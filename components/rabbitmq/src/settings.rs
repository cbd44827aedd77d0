//! From the resource's properties to [`Settings`].
//!
//! Owns: names, defaults and units of every property, and what is refused before a connection is tried.
//! Never: does I/O; certificates of the system are read when the first connection is opened.
//! Start at [`Settings::read`]. Tests: below.

use std::time::Duration;

use lapin::ExchangeKind;
use outrigger_component_api::{
    ComponentName, Fault, Findings, Metadata, PropertyValue, Reader, Secret, Spec, Timespan,
    duration, metadata,
};

use crate::tls::{Certificates, Flaw as TlsFlaw};
use crate::uri::{self, Broker, Mechanism};

/// AMQP heartbeat; default 10 s, whole seconds.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Messages that may be fetched and not yet acknowledged when `prefetchCount` is 0. daprd has no limit there, and with
/// it no limit to its memory.
const PREFETCH: u16 = 256;

/// How many messages of one subscription are handled at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Concurrency {
    /// As many as were fetched.
    Parallel,
    /// One after the other.
    Single,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) component: ComponentName,
    pub(crate) broker: Broker,
    pub(crate) certificates: Certificates,
    /// Prefix of queue names: `consumerID`, by default the app id.
    pub(crate) consumer_id: String,
    /// Exchange and queue survive a restart of the broker; default true.
    pub(crate) durable: bool,
    /// `deletedWhenUnused`: exchange and queue vanish with their last user; default true.
    pub(crate) auto_delete: bool,
    /// A dead letter exchange and queue beside each queue; default false.
    pub(crate) dead_letter: bool,
    /// The broker forgets a message as soon as it has sent it; default false.
    pub(crate) auto_ack: bool,
    /// Failed messages go back to the queue instead of being dropped or dead-lettered; default false.
    pub(crate) requeue_in_failure: bool,
    /// `None` leaves the property out, as 0 does. Not written: 2, persistent.
    pub(crate) delivery_mode: Option<u8>,
    /// Unacknowledged messages per subscription; default 0, for [`PREFETCH`].
    pub(crate) prefetch: u16,
    /// `x-max-length`; default 0, unlimited.
    pub(crate) max_len: Option<i64>,
    /// `x-max-length-bytes`; default 0, unlimited.
    pub(crate) max_len_bytes: Option<i64>,
    /// Default fanout.
    pub(crate) exchange_kind: ExchangeKind,
    /// Publishing waits for the broker's word; only `publisherConfirm: "false"` switches it off.
    pub(crate) confirms: bool,
    pub(crate) concurrency: Concurrency,
    /// Expiration of messages without one of their own, milliseconds.
    pub(crate) ttl: Option<i64>,
    /// Name of the connections in the broker's lists.
    pub(crate) client_name: String,
    /// Seconds; 0 leaves the choice to the broker.
    pub(crate) heartbeat: u16,
    /// `publishMessagePropertiesToMetadata`: properties and headers reach the app's metadata; default false.
    pub(crate) properties_to_metadata: bool,
    /// The deprecated `host` stands in for `connectionString`.
    pub(crate) uses_host: bool,
}

impl Settings {
    /// Reads a resource, or tells every fault.
    pub(crate) fn read(spec: &Spec, findings: &mut Findings) -> Option<Self> {
        let mut reader = Reader::standard(&spec.properties);
        // Faults of values that hold secrets; the reader would quote what it found.
        let mut hidden = Vec::new();
        let (broker, uses_host) = broker(spec, &mut reader, &mut hidden);
        let certificates = certificates(spec, &mut reader, &mut hidden);
        let unknown = ["caCert", "clientCert", "clientKey"]
            .into_iter()
            .any(|name| is_unresolved(spec, name));
        if reader.boolean("saslExternal", false) && !certificates.are_complete() && !unknown {
            reader.fault(
                "saslExternal",
                "`caCert`, `clientCert` and `clientKey` beside it",
            );
        }
        let delivery_mode = delivery_mode(&mut reader);
        let exchange_kind = exchange_kind(&mut reader);
        let concurrency = concurrency(&mut reader);
        let ttl = component_ttl(&mut reader);
        let heartbeat = broker
            .heartbeat
            .unwrap_or_else(|| heartbeat(reader.duration("heartBeat")));
        // daprd waits this long between its own attempts; here the supervisor decides. Still no place for nonsense.
        reader.duration("reconnectWaitSeconds");
        let consumer_id = reader.text("consumerID").unwrap_or_default();
        let settings = Self {
            component: spec.name.clone(),
            certificates,
            consumer_id: match consumer_id.trim() {
                "" => spec.identity.app_id.as_str().to_owned(),
                id => id.to_owned(),
            },
            durable: reader.boolean("durable", true),
            auto_delete: reader.boolean("deletedWhenUnused", true),
            dead_letter: reader.boolean("enableDeadLetter", false),
            auto_ack: reader.boolean("autoAck", false),
            requeue_in_failure: reader.boolean("requeueInFailure", false),
            delivery_mode,
            prefetch: match reader.integer("prefetchCount", 0_u8) {
                0 => PREFETCH,
                count => u16::from(count),
            },
            max_len: Some(reader.integer("maxLen", 0_i64)).filter(|len| *len > 0),
            max_len_bytes: Some(reader.integer("maxLenBytes", 0_i64)).filter(|len| *len > 0),
            exchange_kind,
            confirms: match reader.text("publisherConfirm") {
                Some(text) if !text.is_empty() => metadata::is_truthy(&text),
                _ => true,
            },
            concurrency,
            ttl,
            client_name: reader.text("clientName").unwrap_or_default(),
            heartbeat,
            properties_to_metadata: reader.boolean("publishMessagePropertiesToMetadata", false),
            uses_host,
            broker,
        };
        let usable = reader.finish(findings) && hidden.is_empty();
        findings.faults.extend(hidden);
        usable.then_some(settings)
    }

    /// Why messages may vanish without anybody's fault, if these settings allow it.
    pub(crate) fn loss_risk(&self) -> Option<&'static str> {
        match (self.durable, self.auto_delete) {
            (true, true) => Some(
                "deletedWhenUnused is true: a queue and its messages vanish with the last consumer, also when a \
                 connection is lost",
            ),
            (false, _) => {
                Some("durable is false: queues and their messages vanish when the broker restarts")
            }
            (true, false) => None,
        }
    }
}

fn is_unresolved(spec: &Spec, name: &str) -> bool {
    spec.properties.0.iter().any(|property| {
        property.name.eq_ignore_ascii_case(name)
            && matches!(property.value, PropertyValue::Unresolved)
    })
}

/// Adds a fault without what was found there.
fn hide(hidden: &mut Vec<Fault>, spec: &Spec, name: &str, expected: &str) {
    if !is_unresolved(spec, name) {
        hidden.push(Fault {
            property: name.to_owned(),
            found: None,
            expected: expected.to_owned(),
        });
    }
}

fn broker(spec: &Spec, reader: &mut Reader<'_>, hidden: &mut Vec<Fault>) -> (Broker, bool) {
    let (protocol, hostname, username, password) = (
        reader.text("protocol").unwrap_or_default(),
        reader.text("hostname").unwrap_or_default(),
        reader.text("username").unwrap_or_default(),
        reader.secret("password"),
    );
    let external = reader.boolean("saslExternal", false);
    let written = |reader: &mut Reader<'_>, name: &'static str| {
        reader.text(name).filter(|text| !text.is_empty())
    };
    let host = written(reader, "host");
    let (name, uri) = match written(reader, "connectionString") {
        Some(uri) => ("connectionString", Some(uri)),
        None => ("host", host),
    };
    if !matches!(protocol.as_str(), "" | "amqp" | "amqps") {
        reader.fault("protocol", "`amqp` or `amqps`");
    }
    let uses_host = uri.is_some() && name == "host";
    let mut broker = if let Some(uri) = uri {
        Broker::parse(&uri).unwrap_or_else(|flaw| {
            hide(hidden, spec, name, flaw.0);
            Broker::default()
        })
    } else {
        from_parts(reader, &protocol, &hostname, username, password)
    };
    let agrees = match protocol.as_str() {
        "amqp" => !broker.tls,
        "amqps" => broker.tls,
        _ => true,
    };
    if !agrees && !is_unresolved(spec, name) && hidden.is_empty() {
        reader.fault("protocol", "the protocol of the connection string");
    }
    // Without TLS there is no certificate to prove anything with; daprd sends the password then.
    if external && broker.tls {
        broker.mechanism = Mechanism::External;
    }
    (broker, uses_host)
}

fn from_parts(
    reader: &mut Reader<'_>,
    protocol: &str,
    hostname: &str,
    username: String,
    password: Secret,
) -> Broker {
    let tls = protocol == "amqps";
    let hosts = uri::parse_hosts(hostname, tls).unwrap_or_else(|flaw| {
        reader.fault("hostname", flaw.0);
        Broker::default().hosts
    });
    let mut broker = Broker {
        tls,
        hosts,
        ..Broker::default()
    };
    if !username.is_empty() {
        broker.username = username;
        if !password.is_empty() {
            broker.password = password;
        }
    }
    broker
}

fn certificates(spec: &Spec, reader: &mut Reader<'_>, hidden: &mut Vec<Fault>) -> Certificates {
    let mut pem = |name: &'static str| {
        reader
            .text(name)
            .filter(|text| !text.is_empty() && !is_unresolved(spec, name))
    };
    let (authority, certificate, key) = (pem("caCert"), pem("clientCert"), pem("clientKey"));
    Certificates::read(authority.as_deref(), certificate.as_deref(), key).unwrap_or_else(|flaws| {
        for flaw in flaws {
            let (name, expected) = match flaw {
                TlsFlaw::Authority => ("caCert", "one or more PEM certificates"),
                TlsFlaw::Certificate => ("clientCert", "one or more PEM certificates"),
                TlsFlaw::Key => ("clientKey", "a PEM private key"),
                TlsFlaw::Pair => ("clientKey", "the key of `clientCert`"),
            };
            hide(hidden, spec, name, expected);
        }
        Certificates::default()
    })
}

fn delivery_mode(reader: &mut Reader<'_>) -> Option<u8> {
    let is_written = reader
        .text("deliveryMode")
        .is_some_and(|text| !text.is_empty());
    let mode = reader.integer("deliveryMode", 0_u8);
    if mode > 2 {
        reader.fault("deliveryMode", "0 or 1 for transient, 2 for persistent");
    }
    match (is_written, mode) {
        (false, _) => Some(2),
        (true, 0) => None,
        (true, mode) => Some(mode),
    }
}

fn exchange_kind(reader: &mut Reader<'_>) -> ExchangeKind {
    match reader.text("exchangeKind").as_deref() {
        None | Some("fanout") => ExchangeKind::Fanout,
        Some("topic") => ExchangeKind::Topic,
        Some("direct") => ExchangeKind::Direct,
        Some("headers") => ExchangeKind::Headers,
        Some(_) => {
            reader.fault("exchangeKind", "`fanout`, `topic`, `direct` or `headers`");
            ExchangeKind::Fanout
        }
    }
}

fn concurrency(reader: &mut Reader<'_>) -> Concurrency {
    // Dapr: pubsub/concurrency.go; `concurrency` is documented, but daprd reads it nowhere, so any word passes there.
    let other = reader.text("concurrency");
    match reader.text("concurrencyMode").as_deref() {
        Some("single") => Concurrency::Single,
        Some("parallel") => Concurrency::Parallel,
        None | Some("") => match other.as_deref() {
            Some("single") => Concurrency::Single,
            _ => Concurrency::Parallel,
        },
        Some(_) => {
            reader.fault("concurrencyMode", "`parallel` or `single`");
            Concurrency::Parallel
        }
    }
}

fn component_ttl(reader: &mut Reader<'_>) -> Option<i64> {
    let mut found = Metadata::new();
    for name in ["ttl", "ttlInSeconds"] {
        if let Some(text) = reader.text(name) {
            found.insert(name.to_owned(), text);
        }
    }
    match ttl(&found) {
        Ok(ttl) => ttl,
        Err(_) => {
            let name = if found.contains_key("ttl") {
                "ttl"
            } else {
                "ttlInSeconds"
            };
            reader.fault(
                name,
                "a duration such as `90s`, or a number of seconds greater than zero",
            );
            None
        }
    }
}

/// `ttl`, else `ttlInSeconds`, in milliseconds: a Go duration, or whole seconds.
///
/// # Errors
/// For any other text, in Dapr's words.
pub(crate) fn ttl(metadata: &Metadata) -> Result<Option<i64>, String> {
    // Dapr: metadata/utils.go, TryGetTTL.
    let text = ["ttl", "ttlInSeconds"]
        .into_iter()
        .find_map(|key| metadata::get_ignore_case(metadata, key))
        .unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(duration) = duration::parse_go(text) {
        return Ok(Some((duration.nanoseconds / 1_000_000).max(0)));
    }
    let seconds: i64 = text
        .parse()
        .map_err(|_| format!("ttl value must be a valid integer: actual is '{text}'"))?;
    if seconds <= 0 {
        return Err(format!(
            "ttl value must be higher than zero: actual is '{seconds}'"
        ));
    }
    Ok(Some(seconds.saturating_mul(1_000)))
}

fn heartbeat(written: Option<Timespan>) -> u16 {
    let duration = match written {
        // Dapr: its driver takes zero for "not set", so that only the URI can switch heartbeats off.
        None | Some(Timespan::Disabled | Timespan::Of(Duration::ZERO)) => HEARTBEAT,
        Some(Timespan::Of(duration)) => duration,
    };
    u16::try_from(duration.as_secs()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::{Identity, Properties, Property};

    fn spec(properties: &[(&str, &str)]) -> Spec {
        Spec {
            name: ComponentName::new("ps"),
            type_name: "pubsub.rabbitmq".into(),
            version: "v1".into(),
            identity: Identity {
                app_id: outrigger_component_api::AppId::new("app"),
                namespace: None,
            },
            properties: Properties(
                properties
                    .iter()
                    .map(|(name, value)| Property {
                        name: (*name).to_owned(),
                        value: PropertyValue::Text((*value).to_owned()),
                    })
                    .collect(),
            ),
        }
    }

    fn read(properties: &[(&str, &str)]) -> Settings {
        let mut findings = Findings::default();
        let settings = Settings::read(&spec(properties), &mut findings);
        assert_eq!(findings.faults, []);
        assert_eq!(findings.unknown, Vec::<String>::new());
        settings.unwrap()
    }

    /// What is told about faulty properties, one line each.
    fn faults(properties: &[(&str, &str)]) -> Vec<String> {
        let mut findings = Findings::default();
        assert!(Settings::read(&spec(properties), &mut findings).is_none());
        findings.faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_are_those_of_daprd_except_where_messages_would_be_lost() {
        let settings = read(&[]);
        assert_eq!(settings.broker.hosts, Broker::default().hosts);
        assert_eq!(settings.consumer_id, "app");
        assert!(settings.durable && settings.auto_delete);
        assert!(!settings.dead_letter && !settings.auto_ack && !settings.requeue_in_failure);
        assert!(!settings.properties_to_metadata);
        assert_eq!(settings.delivery_mode, Some(2));
        assert_eq!(settings.prefetch, 256);
        assert_eq!((settings.max_len, settings.max_len_bytes), (None, None));
        assert_eq!(settings.exchange_kind, ExchangeKind::Fanout);
        assert!(settings.confirms);
        assert_eq!(settings.concurrency, Concurrency::Parallel);
        assert_eq!(settings.ttl, None);
        assert_eq!(settings.heartbeat, 10);
    }

    #[test]
    fn every_property_is_read_whatever_its_case() {
        let settings = read(&[
            ("CONNECTIONSTRING", "amqp://u:p@h:1/v"),
            ("protocol", "amqp"),
            ("consumerid", " team "),
            ("durable", "no"),
            ("deletedWhenUnused", "false"),
            ("enableDeadLetter", "yes"),
            ("autoAck", "1"),
            ("requeueInFailure", "true"),
            ("deliveryMode", "1"),
            ("prefetchCount", "20"),
            ("reconnectWaitSeconds", "5"),
            ("maxLen", "7"),
            ("maxLenBytes", "8"),
            ("exchangeKind", "topic"),
            ("publisherConfirm", "false"),
            ("concurrencyMode", "single"),
            ("ttlInSeconds", "2"),
            ("clientName", "me"),
            ("heartBeat", "30"),
            ("publishMessagePropertiesToMetadata", "true"),
        ]);
        assert_eq!(settings.broker.vhost, "v");
        assert_eq!(settings.consumer_id, "team");
        assert!(!settings.durable && !settings.auto_delete);
        assert!(settings.dead_letter && settings.auto_ack && settings.requeue_in_failure);
        assert!(settings.properties_to_metadata && !settings.confirms);
        assert_eq!(settings.delivery_mode, Some(1));
        assert_eq!(settings.prefetch, 20);
        assert_eq!(
            (settings.max_len, settings.max_len_bytes),
            (Some(7), Some(8))
        );
        assert_eq!(settings.exchange_kind, ExchangeKind::Topic);
        assert_eq!(settings.concurrency, Concurrency::Single);
        assert_eq!(settings.ttl, Some(2_000));
        assert_eq!(settings.client_name, "me");
        assert_eq!(settings.heartbeat, 30);
    }

    #[test]
    fn the_address_may_come_in_parts() {
        let settings = read(&[
            ("protocol", "amqps"),
            ("hostname", "a,b:7"),
            ("username", "u/x"),
            ("password", "p@x"),
        ]);
        assert!(settings.broker.tls);
        let ports: Vec<_> = settings.broker.hosts.iter().map(|host| host.port).collect();
        assert_eq!(ports, [5671, 7]);
        assert_eq!(settings.broker.username, "u/x");
        assert_eq!(settings.broker.password.reveal(), "p@x");
        let alone = read(&[("password", "ignored without a name")]);
        assert_eq!(alone.broker.password.reveal(), "guest");
    }

    #[test]
    fn the_old_name_of_the_connection_string_still_serves() {
        let settings = read(&[("host", "amqp://old"), ("connectionString", "")]);
        assert_eq!(settings.broker.hosts[0].name, "old");
        assert!(settings.uses_host);
        let both = read(&[("host", "amqp://old"), ("connectionString", "amqp://new")]);
        assert_eq!(both.broker.hosts[0].name, "new");
        assert!(!both.uses_host);
    }

    #[test]
    fn written_values_win_over_ours() {
        assert_eq!(read(&[("deliveryMode", "0")]).delivery_mode, None);
        assert_eq!(read(&[("deliveryMode", "2")]).delivery_mode, Some(2));
        assert_eq!(read(&[("deliveryMode", "")]).delivery_mode, Some(2));
        assert!(read(&[("publisherConfirm", "true")]).confirms);
        assert!(read(&[("publisherConfirm", "")]).confirms);
        assert!(!read(&[("publisherConfirm", "off")]).confirms);
        assert_eq!(
            read(&[("concurrency", "single")]).concurrency,
            Concurrency::Single
        );
        assert_eq!(
            read(&[("concurrency", "10")]).concurrency,
            Concurrency::Parallel
        );
        assert_eq!(
            read(&[("concurrency", "single"), ("concurrencyMode", "parallel")]).concurrency,
            Concurrency::Parallel
        );
        assert_eq!(
            read(&[("connectionString", "amqp://h?heartbeat=0")]).heartbeat,
            0
        );
        assert_eq!(read(&[("heartBeat", "0")]).heartbeat, 10);
        assert_eq!(read(&[("heartBeat", "100000s")]).heartbeat, u16::MAX);
    }

    #[test]
    fn the_expiration_is_read_in_both_notations() {
        for (ttl, millis) in [
            ("3", Some(3_000)),
            ("1m30s", Some(90_000)),
            ("-5s", Some(0)),
            ("1us", Some(0)),
            ("", None),
        ] {
            assert_eq!(read(&[("ttlInSeconds", ttl)]).ttl, millis, "{ttl}");
        }
        assert_eq!(
            read(&[("ttlInSeconds", "3"), ("ttl", "4s")]).ttl,
            Some(4_000)
        );
        for ttl in ["x", "0x", "-1"] {
            assert_eq!(faults(&[("ttlInSeconds", ttl)]).len(), 1, "{ttl}");
        }
    }

    #[test]
    fn what_cannot_work_is_told_at_once() {
        assert_eq!(
            faults(&[
                ("protocol", "http"),
                ("deliveryMode", "3"),
                ("exchangeKind", "other"),
                ("concurrencyMode", "both"),
                ("prefetchCount", "256"),
                ("saslExternal", "true"),
                ("reconnectWaitSeconds", "soon"),
                ("hostname", "h:x"),
                ("maxLen", "many"),
            ])
            .len(),
            9
        );
        assert_eq!(
            faults(&[("connectionString", "amqp://h"), ("protocol", "amqps")]),
            ["`protocol` is \"amqps\", expected the protocol of the connection string"]
        );
        assert_eq!(
            faults(&[("exchangeKind", "")]),
            ["`exchangeKind` is \"\", expected `fanout`, `topic`, `direct` or `headers`"]
        );
    }

    #[test]
    fn no_fault_shows_a_secret() {
        for properties in [
            [("connectionString", "amqp://u:hunter2@h:x")],
            [("host", "u:hunter2")],
            [("clientKey", "hunter2")],
            [("caCert", "hunter2")],
        ] {
            let told = faults(&properties);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains(properties[0].0), "{told:?}");
            assert!(!told[0].contains("hunter2"), "{told:?}");
        }
    }

    #[test]
    fn values_that_are_not_known_yet_are_no_faults() {
        let names = ["connectionString", "caCert", "clientCert", "clientKey"];
        let mut offline = spec(&[("protocol", "amqps"), ("saslExternal", "true")]);
        offline.properties.0.extend(names.map(|name| Property {
            name: name.into(),
            value: PropertyValue::Unresolved,
        }));
        let mut findings = Findings::default();
        assert!(Settings::read(&offline, &mut findings).is_some());
        assert_eq!(findings.faults, []);
    }

    #[test]
    fn risky_queues_are_named() {
        assert!(read(&[]).loss_risk().unwrap().contains("last consumer"));
        assert!(
            read(&[("durable", "false")])
                .loss_risk()
                .unwrap()
                .contains("restarts")
        );
        assert_eq!(read(&[("deletedWhenUnused", "false")]).loss_risk(), None);
    }

    #[test]
    fn printing_settings_shows_no_secret() {
        let settings = read(&[("username", "u"), ("password", "hunter2")]);
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
