//! `pubsub.redis`: one stream per topic, one consumer group per application.
//!
//! An entry has the fields `data` and, where the publisher gave any, `metadata`. The group and its only consumer have the
//! name of `consumerID`. A message is acknowledged when it is done or given up; a failed one stays pending and is claimed
//! again once it has been idle for `processingTimeout`.
//! Start at `subscription.rs` for what happens to a message. Tests: below each module; on a real server in `tests/`.

mod desk;
mod entry;
mod group;
mod pending;
mod source;
mod subscription;

use std::sync::Arc;

use chrono::Utc;
use outrigger_component_api::{
    Component, ComponentError, Findings, Handler, Metadata, Open, Opener, PubSub, PubSubFeatures,
    Publish, Reader, Scope, Source, Spec, Subscribe, async_trait, json,
};
use redis::Cmd;

use crate::client::{Client, closed};
use crate::settings::{PubSub as Settings, Trim};
use group::Memory;
use subscription::Parts;

/// Turns properties into a broker that can be opened.
pub(crate) fn check(spec: &Spec, findings: &mut Findings) -> Option<Opener<dyn PubSub>> {
    let mut reader = Reader::redis(&spec.properties);
    let app_id = spec.identity.app_id.as_str();
    let settings = Arc::new(Settings::read(&mut reader, app_id));
    let memory = Memory::default();
    reader.finish(findings).then(|| -> Opener<dyn PubSub> {
        Arc::new(move |open| {
            let (settings, memory) = (settings.clone(), memory.clone());
            Box::pin(async move {
                let streams = Streams::open(settings, memory, open).await?;
                Ok(Arc::new(streams) as Arc<dyn PubSub>)
            })
        })
    })
}

struct Streams {
    client: Client,
    settings: Arc<Settings>,
    scope: Scope,
    /// Outlives the connection.
    memory: Memory,
}

impl Streams {
    async fn open(
        settings: Arc<Settings>,
        memory: Memory,
        open: Open,
    ) -> Result<Self, ComponentError> {
        let client = Client::open(settings.connection.clone(), &open).await?;
        Ok(Self {
            client,
            settings,
            scope: open.scope,
            memory,
        })
    }

    fn refuse_when_closed(&self) -> Result<(), ComponentError> {
        if self.client.is_closed() {
            return Err(closed().into_error());
        }
        Ok(())
    }
}

/// The command that publishes, with the trimming that the settings ask for.
fn add(request: &Publish, trim: Trim, now_millis: i64) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(&request.topic);
    match trim {
        Trim::Nothing => {}
        Trim::Length(length) => {
            command.arg("MAXLEN").arg("~").arg(length);
        }
        Trim::Age(age) => {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            let oldest = now_millis.saturating_sub(age).max(0);
            command.arg("MINID").arg("~").arg(format!("{oldest}-1"));
        }
    }
    command.arg("*").arg("data").arg(request.data.as_ref());
    if let Some(metadata) = &request.metadata {
        command.arg("metadata").arg(metadata_text(metadata));
    }
    command
}

/// As Go's encoder writes a map of strings.
fn metadata_text(metadata: &Metadata) -> Vec<u8> {
    let object = json::Value::strings(metadata);
    json::encode(&object, json::Style::Standard, json::Numbers::Exact)
}

#[async_trait]
impl Component for Streams {
    async fn ping(&self) -> Result<(), ComponentError> {
        self.client.ping().await
    }

    async fn close(&self) {
        self.client.close();
    }
}

#[async_trait]
impl PubSub for Streams {
    fn features(&self) -> PubSubFeatures {
        PubSubFeatures {
            consumer_groups: true,
            ..PubSubFeatures::default()
        }
    }

    async fn publish(&self, request: Publish) -> Result<(), ComponentError> {
        self.refuse_when_closed()?;
        let command = add(&request, self.settings.trim, Utc::now().timestamp_millis());
        self.client
            .call(
                request.topic.as_bytes(),
                &command,
                self.client.write_limit(),
            )
            .await
            .map(drop)
            // Dapr: pubsub/redis/redis.go; clients match on this text.
            .map_err(|failure| failure.during("redis streams: error from publish"))
    }

    async fn subscribe(
        &self,
        request: Subscribe,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Source>, ComponentError> {
        self.refuse_when_closed()?;
        subscription::start(Parts {
            client: self.client.clone(),
            settings: self.settings.clone(),
            progress: self.memory.of(&request.topic),
            topic: request.topic,
            handler,
            scope: self.scope.clone(),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::Bytes;
    use redis::Arg;
    use std::time::Duration;

    fn words(metadata: Option<&[(&str, &str)]>, trim: Trim) -> String {
        let request = Publish {
            topic: "t".into(),
            data: Bytes::from_static(b"payload"),
            metadata: metadata.map(|pairs| {
                pairs
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect()
            }),
            content_type: None,
        };
        let command = add(&request, trim, 100_000);
        let words: Vec<String> = command
            .args_iter()
            .map(|arg| match arg {
                Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => unreachable!(),
            })
            .collect();
        words.join(" ")
    }

    #[test]
    fn metadata_is_written_when_the_caller_gave_any() {
        assert_eq!(words(None, Trim::Nothing), "XADD t * data payload");
        assert_eq!(
            words(Some(&[]), Trim::Nothing),
            "XADD t * data payload metadata {}"
        );
        assert_eq!(
            words(Some(&[("b", "<1>"), ("a", "é")]), Trim::Nothing),
            "XADD t * data payload metadata {\"a\":\"é\",\"b\":\"\\u003c1\\u003e\"}"
        );
    }

    #[test]
    fn streams_are_trimmed_by_length_or_by_age() {
        assert_eq!(
            words(None, Trim::Length(5)),
            "XADD t MAXLEN ~ 5 * data payload"
        );
        assert_eq!(
            words(None, Trim::Age(Duration::from_secs(60))),
            "XADD t MINID ~ 40000-1 * data payload"
        );
        assert_eq!(
            words(None, Trim::Age(Duration::from_secs(1000))),
            "XADD t MINID ~ 0-1 * data payload"
        );
    }
}
