//! A broker behind the pub/sub component `bus`, so that one story can be told of several.

use outrigger_testkit::servers::{Rabbit, RabbitServer, Redis, RedisServer, Server as _};

use crate::Component;

/// A broker of one test.
#[derive(Debug)]
pub enum Bus {
    Rabbit(RabbitServer),
    Redis(RedisServer),
}

impl Bus {
    pub async fn rabbit() -> Self {
        Self::Rabbit(RabbitServer::launch(Rabbit::default()).await)
    }

    pub async fn redis() -> Self {
        Self::Redis(RedisServer::launch(Redis::default()).await)
    }

    /// The component that speaks to it.
    pub fn component(&self) -> Component {
        match self {
            Self::Rabbit(rabbit) => Component::rabbit("bus", &rabbit.url()),
            Self::Redis(redis) => Component::redis_pubsub("bus", &redis.address()),
        }
    }

    /// The same, with so many messages handed out at a time and a line of a hundred.
    pub fn handing_out(&self, limit: usize) -> Component {
        match self {
            // A slot for each message that is fetched, or one for all.
            Self::Rabbit(_) if limit == 1 => self
                .component()
                .set("prefetchCount", "100")
                .set("concurrencyMode", "single"),
            Self::Rabbit(_) => self.component().set("prefetchCount", &limit.to_string()),
            Self::Redis(_) => self
                .component()
                .set("concurrency", &limit.to_string())
                .set("queueDepth", "100"),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Rabbit(_) => "rabbitmq",
            Self::Redis(_) => "redis",
        }
    }

    /// How many messages of a topic the app `orders` has not acknowledged, whether they were delivered or not.
    pub async fn left(&self, topic: &str) -> u64 {
        match self {
            Self::Rabbit(rabbit) => queued(rabbit, &format!("orders-{topic}")).await,
            Self::Redis(redis) => {
                let groups = redis.command(&["XINFO", "GROUPS", topic]).await;
                let groups = groups.unwrap_or_default();
                number_after(&groups, "pending") + number_after(&groups, "lag")
            }
        }
    }

    /// How many messages there are in a topic that the app `orders` subscribes to and has not got to read.
    pub async fn letters(&self, topic: &str) -> u64 {
        match self {
            Self::Rabbit(rabbit) => queued(rabbit, &format!("orders-{topic}")).await,
            Self::Redis(redis) => {
                let length = redis.command(&["XLEN", topic]).await.unwrap_or_default();
                length.trim_start_matches(':').parse().unwrap_or_default()
            }
        }
    }
}

/// Messages of a queue, delivered ones that are not acknowledged included.
async fn queued(rabbit: &RabbitServer, queue: &str) -> u64 {
    let words = "list_queues --quiet --no-table-headers name messages";
    let words: Vec<&str> = words.split(' ').collect();
    let table = rabbit.control(&words).await;
    let of = table.lines().filter_map(|line| {
        let (name, messages) = line.split_once(char::is_whitespace)?;
        (name == queue).then(|| messages.trim().parse::<u64>().ok())?
    });
    of.sum()
}

/// The number behind a name in an answer of Redis.
fn number_after(answer: &str, name: &str) -> u64 {
    let mut lines = answer.lines().skip_while(|line| *line != name);
    let number = lines.nth(1).unwrap_or_default();
    number.trim_start_matches(':').parse().unwrap_or_default()
}
