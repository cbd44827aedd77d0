//! What a subscription and a publisher declare at the broker.
//!
//! Owns: names and arguments of exchanges, queues, bindings and consumers. The broker refuses a declaration that differs
//! from what is there in one argument, so these are daprd's exactly; only integer widths are free.
//! Never: decides when to declare.
//! Tests: below for the plan, tests/broker/topology.rs for what a broker makes of it.

use lapin::options::{
    BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer, ExchangeKind};
use outrigger_component_api::{ComponentError, Metadata, Subscribe, metadata};
use uuid::Uuid;

use crate::message::short;
use crate::settings::Settings;

/// What a consumer tag can hold.
const TAG: usize = 255;
/// Consumers that only keep a queue in being come after all others.
const LAST: i32 = -100;

/// Everything that one subscription needs at the broker.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    exchange: Exchange,
    pub(crate) queue: Queue,
    dead_letter: Option<DeadLetter>,
    routing_keys: Vec<ShortString>,
    auto_ack: bool,
    prefetch: u16,
}

/// An exchange that publishers or subscribers share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exchange {
    name: ShortString,
    kind: ExchangeKind,
    durable: bool,
    auto_delete: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Queue {
    pub(crate) name: ShortString,
    durable: bool,
    /// Vanishes with its last consumer.
    pub(crate) auto_delete: bool,
    arguments: FieldTable,
}

/// Where the broker puts what was given up.
#[derive(Clone, Debug, PartialEq)]
struct DeadLetter {
    exchange: Exchange,
    queue: Queue,
}

impl Exchange {
    /// The exchange of a topic.
    ///
    /// # Errors
    /// When the topic is too long for a name.
    pub(crate) fn of_topic(topic: &str, settings: &Settings) -> Result<Self, ComponentError> {
        Ok(Self {
            name: short("topic", topic)?,
            kind: settings.exchange_kind.clone(),
            durable: settings.durable,
            auto_delete: settings.auto_delete,
        })
    }

    /// # Errors
    /// When the broker refuses; that closes the channel.
    pub(crate) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions {
            durable: self.durable,
            auto_delete: self.auto_delete,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(
                self.name.clone(),
                self.kind.clone(),
                options,
                FieldTable::default(),
            )
            .await
    }
}

impl Queue {
    async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        let options = QueueDeclareOptions {
            durable: self.durable,
            auto_delete: self.auto_delete,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(self.name.clone(), options, self.arguments.clone())
            .await
            .map(|_| ())
    }

    async fn bind(
        &self,
        channel: &Channel,
        exchange: &Exchange,
        routing_key: &ShortString,
    ) -> lapin::Result<()> {
        channel
            .queue_bind(
                self.name.clone(),
                exchange.name.clone(),
                routing_key.clone(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
    }
}

impl Plan {
    /// # Errors
    /// When the subscription's metadata cannot be served.
    pub(crate) fn new(request: &Subscribe, settings: &Settings) -> Result<Self, ComponentError> {
        let given = &request.metadata;
        let named = given.get("queueName").filter(|name| !name.is_empty());
        let name = named.map_or_else(
            || format!("{}-{}", settings.consumer_id, request.topic),
            String::clone,
        );
        let dead_letter = settings
            .dead_letter
            .then(|| DeadLetter::of_queue(&name, settings))
            .transpose()?;
        let mut arguments = lengths(settings);
        if let Some(dead_letter) = &dead_letter {
            insert_text(
                &mut arguments,
                "x-dead-letter-exchange",
                dead_letter.exchange.name.as_str(),
            );
        }
        if let Some(priority) = number(given, "maxPriority")? {
            let priority = u8::try_from(priority).unwrap_or(u8::MAX);
            arguments.insert("x-max-priority".into(), AMQPValue::ShortShortUInt(priority));
        }
        insert_text(
            &mut arguments,
            "x-queue-type",
            queue_type(given, settings, &name)?,
        );
        if given
            .get("singleActiveConsumer")
            .is_some_and(|text| metadata::is_truthy(text))
        {
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        for (key, argument) in [
            ("maxLenBytes", "x-max-length-bytes"),
            ("maxLen", "x-max-length"),
        ] {
            if let Some(length) = number(given, key)? {
                insert_length(&mut arguments, argument, length);
            }
        }
        let routing_keys = given.get("routingKey").map_or("", String::as_str);
        Ok(Self {
            exchange: Exchange::of_topic(&request.topic, settings)?,
            queue: Queue {
                name: short("queueName", &name)?,
                durable: settings.durable,
                auto_delete: settings.auto_delete,
                arguments,
            },
            dead_letter,
            routing_keys: routing_keys
                .split(',')
                .map(|key| short("routingKey", key))
                .collect::<Result<_, _>>()?,
            auto_ack: settings.auto_ack,
            prefetch: settings.prefetch,
        })
    }

    /// Declares and binds everything; what is there already and equal stays as it is.
    ///
    /// # Errors
    /// The broker's, naming the object and the argument that differs. The channel is closed then.
    pub(crate) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        self.exchange.declare(channel).await?;
        if let Some(DeadLetter { exchange, queue }) = &self.dead_letter {
            exchange.declare(channel).await?;
            queue.declare(channel).await?;
            queue.bind(channel, exchange, &"".into()).await?;
        }
        self.queue.declare(channel).await?;
        for routing_key in &self.routing_keys {
            self.queue
                .bind(channel, &self.exchange, routing_key)
                .await?;
        }
        Ok(())
    }

    /// Registers the consumer that fetches messages.
    ///
    /// # Errors
    /// When the broker refuses; that closes the channel.
    pub(crate) async fn consume(&self, channel: &Channel) -> lapin::Result<Consumer> {
        self.register(channel, self.prefetch, self.auto_ack, FieldTable::default())
            .await
    }

    /// Registers a consumer that keeps an auto-delete queue in being while nothing is fetched. It takes one message, and
    /// that only if nobody else wants it.
    ///
    /// # Errors
    /// When the broker refuses; that closes the channel.
    pub(crate) async fn keep(&self, channel: &Channel) -> lapin::Result<Consumer> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-priority".into(), AMQPValue::LongInt(LAST));
        // Always with acknowledgements: without, the broker would send it everything.
        self.register(channel, 1, false, arguments).await
    }

    async fn register(
        &self,
        channel: &Channel,
        prefetch: u16,
        auto_ack: bool,
        arguments: FieldTable,
    ) -> lapin::Result<Consumer> {
        // Holds for consumers registered from now on.
        channel
            .basic_qos(prefetch, BasicQosOptions::default())
            .await?;
        let options = BasicConsumeOptions {
            no_ack: auto_ack,
            ..BasicConsumeOptions::default()
        };
        channel
            .basic_consume(
                self.queue.name.clone(),
                consumer_tag(self.queue.name.as_str()),
                options,
                arguments,
            )
            .await
    }
}

impl DeadLetter {
    /// Always durable, whatever the queue is.
    fn of_queue(queue: &str, settings: &Settings) -> Result<Self, ComponentError> {
        let mut arguments = lengths(settings);
        insert_text(&mut arguments, "x-queue-mode", "lazy");
        Ok(Self {
            exchange: Exchange {
                name: short("queueName", &format!("dlx-{queue}"))?,
                kind: ExchangeKind::Fanout,
                durable: true,
                auto_delete: settings.auto_delete,
            },
            queue: Queue {
                name: short("queueName", &format!("dlq-{queue}"))?,
                durable: true,
                auto_delete: settings.auto_delete,
                arguments,
            },
        })
    }
}

fn lengths(settings: &Settings) -> FieldTable {
    let mut arguments = FieldTable::default();
    for (length, argument) in [
        (settings.max_len, "x-max-length"),
        (settings.max_len_bytes, "x-max-length-bytes"),
    ] {
        if let Some(length) = length {
            insert_length(&mut arguments, argument, length);
        }
    }
    arguments
}

fn insert_length(arguments: &mut FieldTable, name: &str, length: i64) {
    arguments.insert(name.into(), AMQPValue::LongLongInt(length));
}

fn insert_text(arguments: &mut FieldTable, name: &str, text: &str) {
    arguments.insert(name.into(), AMQPValue::LongString(text.into()));
}

/// A whole number of the subscription's metadata.
fn number(given: &Metadata, key: &str) -> Result<Option<i64>, ComponentError> {
    let Some(text) = given.get(key).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u64>().ok().filter(|_| digits);
    match number {
        // daprd caps priorities itself; a length beyond 64 signed bits means no limit all the same.
        Some(number) => Ok(Some(i64::try_from(number).unwrap_or(i64::MAX))),
        None => Err(ComponentError::invalid(format!(
            "subscription metadata `{key}` is {text:?}, expected a whole number"
        ))),
    }
}

fn queue_type<'a>(
    given: &'a Metadata,
    settings: &Settings,
    queue: &str,
) -> Result<&'a str, ComponentError> {
    match given.get("queueType").map_or("", String::as_str) {
        "" | "classic" => Ok("classic"),
        "quorum" if !settings.durable || settings.auto_delete => {
            Err(ComponentError::invalid(format!(
                "queue `{queue}` cannot be a quorum queue: that needs `durable` to be true and `deletedWhenUnused` to \
                 be false in component `{}`",
                settings.component
            )))
        }
        "quorum" => Ok("quorum"),
        // Dapr: pubsub/rabbitmq; clients match on this text.
        other => Err(ComponentError::invalid(format!(
            "invalid queue type {other}. Valid types are classic and quorum"
        ))),
    }
}

/// `<queue>-<uuid>`, cut from the left where it is too long, so that it stays unique.
fn consumer_tag(queue: &str) -> ShortString {
    let tag = format!("{queue}-{}", Uuid::new_v4());
    let mut start = tag.len().saturating_sub(TAG);
    while !tag.is_char_boundary(start) {
        start += 1;
    }
    tag.get(start..).unwrap_or_default().into()
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
                app_id: AppId::new("a"),
                namespace: None,
            },
            properties: Properties::from(properties),
        };
        Settings::read(&spec, &mut Findings::default()).unwrap()
    }

    fn plan<const N: usize, const M: usize>(
        properties: [(&str, &str); N],
        given: [(&str, &str); M],
    ) -> Result<Plan, ComponentError> {
        let request = Subscribe {
            topic: "t".into(),
            metadata: given
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        };
        Plan::new(&request, &settings(properties))
    }

    fn table<const N: usize>(arguments: [(&str, AMQPValue); N]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert(name.into(), value);
        }
        table
    }

    fn text(text: &str) -> AMQPValue {
        AMQPValue::LongString(text.into())
    }

    #[test]
    fn a_plain_subscription_declares_what_daprd_declares() {
        let plan = plan([], []).unwrap();
        assert_eq!(
            plan.exchange,
            Exchange {
                name: "t".into(),
                kind: ExchangeKind::Fanout,
                durable: true,
                auto_delete: true
            }
        );
        assert_eq!(
            plan.queue,
            Queue {
                name: "a-t".into(),
                durable: true,
                auto_delete: true,
                arguments: table([("x-queue-type", text("classic"))]),
            }
        );
        assert_eq!(plan.dead_letter, None);
        assert_eq!(plan.routing_keys, [ShortString::from("")]);
    }

    #[test]
    fn every_argument_appears_when_asked_for() {
        let plan = plan(
            [
                ("enableDeadLetter", "true"),
                ("maxLen", "5"),
                ("maxLenBytes", "6"),
                ("exchangeKind", "topic"),
                ("deletedWhenUnused", "false"),
            ],
            [
                ("queueName", "q"),
                ("maxPriority", "300"),
                ("singleActiveConsumer", "true"),
                ("maxLen", "7"),
                ("routingKey", "a.*, b.#"),
                ("queueType", "quorum"),
            ],
        )
        .unwrap();
        assert_eq!(
            plan.queue.arguments,
            table([
                ("x-queue-type", text("quorum")),
                ("x-dead-letter-exchange", text("dlx-q")),
                ("x-max-priority", AMQPValue::ShortShortUInt(255)),
                ("x-single-active-consumer", AMQPValue::Boolean(true)),
                ("x-max-length", AMQPValue::LongLongInt(7)),
                ("x-max-length-bytes", AMQPValue::LongLongInt(6)),
            ])
        );
        assert_eq!(
            plan.routing_keys,
            [ShortString::from("a.*"), ShortString::from(" b.#")]
        );
        let dead_letter = plan.dead_letter.unwrap();
        assert_eq!(dead_letter.exchange.name.as_str(), "dlx-q");
        assert_eq!(dead_letter.exchange.kind, ExchangeKind::Fanout);
        assert_eq!(dead_letter.queue.name.as_str(), "dlq-q");
        assert_eq!(
            dead_letter.queue.arguments,
            table([
                ("x-queue-mode", text("lazy")),
                ("x-max-length", AMQPValue::LongLongInt(5)),
                ("x-max-length-bytes", AMQPValue::LongLongInt(6)),
            ])
        );
    }

    #[test]
    fn dead_letter_objects_are_durable_even_beside_a_transient_queue() {
        let plan = plan([("enableDeadLetter", "1"), ("durable", "false")], []).unwrap();
        let dead_letter = plan.dead_letter.unwrap();
        assert!(dead_letter.exchange.durable && dead_letter.queue.durable);
        assert!(!plan.queue.durable);
    }

    #[test]
    fn what_the_broker_would_refuse_is_refused_before() {
        for (properties, given) in [
            ([("x", "")], [("queueType", "quorum")]),
            ([("deletedWhenUnused", "false")], [("queueType", "stream")]),
            ([("x", "")], [("maxPriority", "high")]),
            ([("x", "")], [("maxLen", "-1")]),
            ([("x", "")], [("maxLenBytes", "+1")]),
        ] {
            let error = plan(properties, given).unwrap_err();
            assert_eq!(error.kind, outrigger_component_api::ErrorKind::Invalid);
        }
        assert_eq!(
            plan([], [("queueType", "stream")]).unwrap_err().message,
            "invalid queue type stream. Valid types are classic and quorum"
        );
        let long = "x".repeat(254);
        assert!(plan([], [("queueName", long.as_str())]).is_ok());
        assert!(
            plan(
                [("enableDeadLetter", "true")],
                [("queueName", long.as_str())]
            )
            .is_err()
        );
    }

    #[test]
    fn consumer_tags_stay_unique_when_they_are_cut() {
        assert!(consumer_tag("a-t").as_str().starts_with("a-t-"));
        for queue in ["x".repeat(255), "é".repeat(127)] {
            let (one, two) = (consumer_tag(&queue), consumer_tag(&queue));
            assert!(one.as_str().len() <= TAG && one.as_str().len() >= TAG - 1);
            assert_ne!(one, two);
        }
    }
}
