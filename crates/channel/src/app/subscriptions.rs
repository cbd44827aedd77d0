//! The list with which an HTTP app says what it wants to receive.

use std::time::Duration;

use outrigger_blocks::app::{AppSubscription, BulkOptions};
use outrigger_core::Metadata;
use outrigger_core::json::{Value, parse_first};
use tracing::warn;

const SCOPE: &str = "dapr.runtime.pubsub";

/// Reads the answer to `GET /dapr/subscribe`. Names are compared without case, as Go's decoder does.
///
/// # Errors
/// When it is no list of subscriptions.
pub(super) fn parse(body: &[u8]) -> Result<Vec<AppSubscription>, String> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    // What stands behind the first value is not looked at.
    let (list, _) = parse_first(body).map_err(|error| error.to_string())?;
    match &list {
        Value::Null => Ok(Vec::new()),
        Value::Array(entries) => entries
            .iter()
            .map(subscription)
            .filter_map(Result::transpose)
            .collect(),
        other => Err(format!(
            "a list of subscriptions is expected, found {}",
            other.kind()
        )),
    }
}

fn subscription(entry: &Value) -> Result<Option<AppSubscription>, String> {
    if entry.as_object().is_none() {
        return Err(format!(
            "a subscription is expected, found {}",
            entry.kind()
        ));
    }
    let (pubsub, topic) = (text(entry, "pubsubname")?, text(entry, "topic")?);
    let rules = rules(entry)?;
    if rules.is_empty() {
        warn!(target: SCOPE, pubsub, topic, "subscription has no routes and is left out");
        return Ok(None);
    }
    let mut metadata = Metadata::new();
    if let Some(members) = entry.field("metadata").and_then(Value::as_object) {
        for (name, value) in members {
            let value = value.as_str().ok_or_else(|| {
                format!(
                    "metadata {name:?} of topic {topic:?}: a text is expected, found {}",
                    value.kind()
                )
            })?;
            metadata.insert(name.clone(), value.to_owned());
        }
    }
    Ok(Some(AppSubscription {
        pubsub,
        topic,
        rules,
        dead_letter_topic: text(entry, "deadLetterTopic")?,
        metadata,
        bulk: bulk(entry),
    }))
}

/// Rules in order, the default last; `route` is the default where `routes` gives none.
fn rules(entry: &Value) -> Result<Vec<(Option<String>, String)>, String> {
    let mut out = Vec::new();
    let mut default = String::new();
    if let Some(routes) = entry.field("routes").filter(|routes| !routes.is_null()) {
        if let Some(list) = routes.field("rules").and_then(Value::as_array) {
            for rule in list {
                let (expression, path) = (text(rule, "match")?, text(rule, "path")?);
                let path = if path.is_empty() {
                    "/".to_owned()
                } else {
                    path
                };
                out.push(((!expression.is_empty()).then_some(expression), path));
            }
        }
        default = text(routes, "default")?;
    }
    if default.is_empty() {
        default = text(entry, "route")?;
    }
    if !default.is_empty() {
        out.push((None, default));
    }
    Ok(out)
}

fn bulk(entry: &Value) -> Option<BulkOptions> {
    let bulk = entry.field("bulkSubscribe")?;
    if !matches!(bulk.field("enabled"), Some(Value::Bool(true))) {
        return None;
    }
    let number = |name| {
        bulk.field(name)
            .and_then(Value::as_i64)
            .filter(|number| *number > 0)
    };
    let defaults = BulkOptions::default();
    Some(BulkOptions {
        max_messages: number("maxMessagesCount")
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or(defaults.max_messages),
        max_await: number("maxAwaitDurationMs")
            .and_then(|number| u64::try_from(number).ok())
            .map_or(defaults.max_await, Duration::from_millis),
    })
}

fn text(object: &Value, name: &str) -> Result<String, String> {
    match object.field(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!(
            "{name}: a text is expected, found {}",
            other.kind()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_routes_are_read() {
        let list = parse(
            br#"[{"pubsubname":"p","topic":"a","route":"/a"},
                 {"pubsubName":"p","topic":"b","routes":{"rules":[{"match":"event.type == 'x'","path":"/x"},{"path":""}],"default":"/d"},
                  "deadLetterTopic":"dead","metadata":{"rawPayload":"true"},"bulkSubscribe":{"enabled":true,"maxMessagesCount":5}},
                 {"pubsubname":"p","topic":"c"}]"#,
        )
        .unwrap();
        assert_eq!(list.len(), 2, "one without a route is left out");
        assert_eq!(list[0].rules, [(None, "/a".to_owned())]);
        assert_eq!(
            list[1].rules,
            [
                (Some("event.type == 'x'".to_owned()), "/x".to_owned()),
                (None, "/".to_owned()),
                (None, "/d".to_owned())
            ]
        );
        assert_eq!(list[1].dead_letter_topic, "dead");
        assert_eq!(
            list[1].bulk,
            Some(BulkOptions {
                max_messages: 5,
                max_await: Duration::from_secs(1)
            })
        );
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert!(parse(b"{}").is_err());
        assert!(parse(b"[1]").is_err());
        assert!(parse(b"[").is_err());
        assert_eq!(parse(b"null").unwrap(), []);
        assert!(parse(br#"[{"pubsubname":1,"topic":"a","route":"/a"}]"#).is_err());
    }
}
