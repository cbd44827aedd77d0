//! Messages on the wire, in both directions.
//!
//! Owns: which properties a published message carries, and what of a received one reaches the app. Other sidecars read
//! both, so they are daprd's to the byte: what is zero or empty is left out, nothing is added.
//! Tests: below.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use outrigger_component_api::{Bytes, ComponentError, Message, Metadata, Publish};
use tracing::warn;

use crate::settings::{Settings, ttl};
use crate::spell::{spell, whole};

/// What a short string of the protocol can hold.
const SHORT: usize = 255;

/// A message ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) data: Bytes,
}

impl Outgoing {
    /// # Errors
    /// When a value does not fit into its property. An expiration or priority that cannot be read is logged and left
    /// out, as in daprd.
    pub(crate) fn new(request: Publish, settings: &Settings) -> Result<Self, ComponentError> {
        let empty = Metadata::new();
        let given = request.metadata.as_ref().unwrap_or(&empty);
        let mut properties = BasicProperties::default().with_content_type(short(
            "contentType",
            property(given, "contentType", "text/plain"),
        )?);
        if let Some(mode) = settings.delivery_mode {
            properties = properties.with_delivery_mode(mode);
        }
        if let Some(millis) = expiration(given, settings, &request.topic) {
            // The broker would close the channel, with everybody else's messages on it.
            let millis = u32::try_from(millis).map_err(|_| {
                ComponentError::invalid(format!(
                    "an expiration of {millis} ms is more than the {} ms that the broker accepts",
                    u32::MAX
                ))
            })?;
            properties = properties.with_expiration(millis.to_string().into());
        }
        if let Some(priority) = priority(given, settings, &request.topic) {
            properties = properties.with_priority(priority);
        }
        for (key, set) in [
            ("messageID", BasicProperties::with_message_id as Set),
            ("correlationID", BasicProperties::with_correlation_id),
            ("type", BasicProperties::with_type),
        ] {
            let value = property(given, key, "");
            if !value.is_empty() {
                properties = set(properties, short(key, value)?);
            }
        }
        let routing_key = given.get("routingKey").map_or("", String::as_str);
        Ok(Self {
            exchange: short("topic", &request.topic)?,
            routing_key: short("routingKey", routing_key)?,
            properties,
            data: request.data,
        })
    }
}

type Set = fn(BasicProperties, ShortString) -> BasicProperties;

/// A short string of the protocol; longer ones would break the frame.
///
/// # Errors
/// Which value is too long.
pub(crate) fn short(name: &str, text: &str) -> Result<ShortString, ComponentError> {
    ShortString::try_new(text).map_err(|_| {
        ComponentError::invalid(format!(
            "`{name}` has {} bytes, more than the {SHORT} that the protocol allows",
            text.len()
        ))
    })
}

/// A value that is there and not empty, found without regard to case.
fn property<'a>(given: &'a Metadata, key: &str, default: &'a str) -> &'a str {
    // Dapr: common/component/rabbitmq, TryGetProperty: an empty value does not hide one under another spelling.
    given
        .get(key)
        .filter(|value| !value.is_empty())
        .or_else(|| {
            given
                .iter()
                .find(|(name, value)| !value.is_empty() && name.eq_ignore_ascii_case(key))
                .map(|(_, value)| value)
        })
        .map_or(default, String::as_str)
}

/// The message's own expiration, or that of the component; milliseconds.
fn expiration(given: &Metadata, settings: &Settings, topic: &str) -> Option<i64> {
    match ttl(given) {
        Ok(Some(millis)) => Some(millis),
        Ok(None) => settings.ttl,
        Err(error) => {
            warn!(component = %settings.component, topic, error, "expiration of a message ignored");
            settings.ttl
        }
    }
}

/// 1..=255; 0 is the default and not sent. Dapr: metadata/utils.go, TryGetPriority: this key only, in this case.
fn priority(given: &Metadata, settings: &Settings, topic: &str) -> Option<u8> {
    let text = given.get("priority").filter(|text| !text.is_empty())?;
    let Ok(number) = text.parse::<i64>() else {
        warn!(component = %settings.component, topic, value = text, "priority of a message ignored");
        return None;
    };
    let priority = u8::try_from(number.clamp(0, 255)).unwrap_or(u8::MAX);
    (priority > 0).then_some(priority)
}

/// A delivery as the app gets it.
pub(crate) fn incoming(delivery: Delivery, topic: &str, settings: &Settings) -> Message {
    let metadata = if settings.properties_to_metadata {
        facts(&delivery.properties)
    } else {
        Metadata::new()
    };
    Message {
        topic: topic.to_owned(),
        delivery: attempts(&delivery),
        data: Bytes::from(delivery.data),
        metadata: Some(metadata),
    }
}

/// How often the broker has sent the message, as far as it tells: quorum queues count, others know "again".
pub(crate) fn attempts(delivery: &Delivery) -> u32 {
    let headers = delivery.properties.headers().as_ref();
    let count = |name: &str| {
        let value = headers?.inner().get(name)?;
        whole(value).and_then(|count| u32::try_from(count).ok())
    };
    // Since RabbitMQ 4.3 the first counts every delivery, the second only failures; before, there is but the second.
    let before = count("x-acquired-count").max(count("x-delivery-count"));
    match before {
        Some(before) => before.saturating_add(1),
        None if delivery.redelivered => 2,
        None => 1,
    }
}

/// Properties and headers under daprd's names.
fn facts(properties: &BasicProperties) -> Metadata {
    let mut facts = Metadata::new();
    for (key, value) in [
        ("messageid", properties.message_id()),
        ("correlationid", properties.correlation_id()),
        ("type", properties.kind()),
        ("contenttype", properties.content_type()),
    ] {
        if let Some(value) = value.as_ref().filter(|value| !value.as_str().is_empty()) {
            facts.insert(format!("metadata.{key}"), value.to_string());
        }
    }
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    for (key, value) in headers {
        if !matches!(value, AMQPValue::Void) {
            let mut text = String::new();
            spell(value, &mut text);
            facts.insert(format!("metadata.{key}"), text);
        }
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::{AppId, ComponentName, Findings, Identity, Properties, Spec};

    fn settings<const N: usize>(properties: [(&str, &str); N]) -> Settings {
        let spec = Spec {
            name: ComponentName::new("ps"),
            type_name: "pubsub.rabbitmq".into(),
            version: "v1".into(),
            identity: Identity {
                app_id: AppId::new("app"),
                namespace: None,
            },
            properties: Properties::from(properties),
        };
        Settings::read(&spec, &mut Findings::default()).unwrap()
    }

    fn outgoing<const N: usize, const M: usize>(
        properties: [(&str, &str); N],
        given: [(&str, &str); M],
    ) -> Result<Outgoing, ComponentError> {
        let request = Publish {
            topic: "t".into(),
            data: Bytes::from_static(b"{}"),
            metadata: Some(
                given
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            ),
            content_type: Some("application/cloudevents+json".into()),
        };
        Outgoing::new(request, &settings(properties))
    }

    fn sent<const N: usize, const M: usize>(
        properties: [(&str, &str); N],
        given: [(&str, &str); M],
    ) -> BasicProperties {
        outgoing(properties, given).unwrap().properties
    }

    fn text() -> BasicProperties {
        BasicProperties::default().with_content_type("text/plain".into())
    }

    #[test]
    fn a_plain_message_carries_a_content_type_and_a_delivery_mode() {
        assert_eq!(sent([], []), text().with_delivery_mode(2));
        assert_eq!(sent([("deliveryMode", "0")], []), text());
        assert_eq!(
            sent([("deliveryMode", "1")], []),
            text().with_delivery_mode(1)
        );
        let message = outgoing([], []).unwrap();
        assert_eq!(message.exchange.as_str(), "t");
        assert_eq!(message.routing_key.as_str(), "");
    }

    #[test]
    fn metadata_becomes_properties() {
        let properties = sent(
            [("deliveryMode", "0")],
            [
                ("CONTENTTYPE", "x/y"),
                ("messageId", "m"),
                ("correlationID", "c"),
                ("Type", "k"),
                ("priority", "300"),
                ("ttlInSeconds", "100"),
                ("other", "o"),
            ],
        );
        let expected = BasicProperties::default()
            .with_content_type("x/y".into())
            .with_message_id("m".into())
            .with_correlation_id("c".into())
            .with_type("k".into())
            .with_priority(255)
            .with_expiration("100000".into());
        assert_eq!(properties, expected);
    }

    #[test]
    fn routing_key_and_priority_are_found_in_their_own_case_only() {
        let message = outgoing(
            [("deliveryMode", "0")],
            [("routingKey", "a.b"), ("Priority", "1")],
        )
        .unwrap();
        assert_eq!(message.routing_key.as_str(), "a.b");
        assert_eq!(message.properties, text());
        let message = outgoing([], [("RoutingKey", "a.b")]).unwrap();
        assert_eq!(message.routing_key.as_str(), "");
    }

    #[test]
    fn what_is_zero_or_empty_or_unreadable_is_left_out() {
        for given in [
            ("priority", "0"),
            ("priority", "-7"),
            ("priority", "high"),
            ("messageID", ""),
            ("contentType", ""),
            ("ttl", ""),
            ("ttl", "soon"),
            ("ttlInSeconds", "-1"),
        ] {
            assert_eq!(sent([("deliveryMode", "0")], [given]), text(), "{given:?}");
        }
    }

    #[test]
    fn a_messages_own_expiration_wins_over_the_components() {
        let expiration = |given: [(&str, &str); 1]| {
            sent([("ttlInSeconds", "50")], given)
                .expiration()
                .as_ref()
                .map(ToString::to_string)
        };
        assert_eq!(expiration([("x", "")]), Some("50000".into()));
        assert_eq!(expiration([("ttl", "250ms")]), Some("250".into()));
        assert_eq!(expiration([("TTLINSECONDS", "1")]), Some("1000".into()));
        assert_eq!(expiration([("ttl", "soon")]), Some("50000".into()));
        assert_eq!(expiration([("ttl", "-1s")]), Some("0".into()));
    }

    #[test]
    fn what_would_break_the_channel_never_gets_there() {
        let long = "x".repeat(256);
        for key in [
            "routingKey",
            "contentType",
            "messageID",
            "correlationID",
            "type",
        ] {
            let error = outgoing([], [(key, long.as_str())]).unwrap_err();
            assert!(error.message.contains(key), "{error}");
        }
        assert!(outgoing([], [("ttlInSeconds", "9223372036854775807")]).is_err());
        assert!(outgoing([], [("ttlInSeconds", "4294967")]).is_ok());
    }

    fn delivery(properties: BasicProperties, redelivered: bool) -> Delivery {
        let mut delivery = Delivery::mock(1, "t".into(), "".into(), redelivered, b"data".to_vec());
        delivery.properties = properties;
        delivery
    }

    #[test]
    fn the_broker_tells_how_often_it_tried() {
        let count = |name: &str, count: i64| {
            let mut headers = FieldTable::default();
            headers.insert(name.into(), AMQPValue::LongLongInt(count));
            BasicProperties::default().with_headers(headers)
        };
        let none = BasicProperties::default();
        assert_eq!(attempts(&delivery(none.clone(), false)), 1);
        assert_eq!(attempts(&delivery(none, true)), 2);
        assert_eq!(attempts(&delivery(count("x-delivery-count", 4), true)), 5);
        assert_eq!(attempts(&delivery(count("x-acquired-count", 6), true)), 7);
        assert_eq!(attempts(&delivery(count("x-delivery-count", -1), true)), 2);
    }

    #[test]
    fn properties_reach_the_app_only_when_asked_for() {
        let mut headers = FieldTable::default();
        headers.insert("h".into(), AMQPValue::LongString("v".into()));
        headers.insert("void".into(), AMQPValue::Void);
        let properties = BasicProperties::default()
            .with_content_type("x/y".into())
            .with_message_id("m".into())
            .with_correlation_id("c".into())
            .with_type("".into())
            .with_headers(headers);
        let silent = incoming(delivery(properties.clone(), false), "t", &settings([]));
        assert_eq!(silent.metadata, Some(Metadata::new()));
        assert_eq!(silent.data, "data");
        let told = incoming(
            delivery(properties, false),
            "t",
            &settings([("publishMessagePropertiesToMetadata", "true")]),
        );
        let expected = [
            ("metadata.contenttype", "x/y"),
            ("metadata.correlationid", "c"),
            ("metadata.h", "v"),
            ("metadata.messageid", "m"),
        ];
        let expected: Metadata = expected
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        assert_eq!(told.metadata, Some(expected));
    }
}
