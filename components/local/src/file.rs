//! `secretstores.local.file`: secrets are the members of a JSON object.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use outrigger_component_api::json::{self, Value};
use outrigger_component_api::{
    Component, ComponentError, Findings, Metadata, Opener, Reader, Secret, SecretStore,
    SecretValue, Spec, async_trait,
};
use tokio::sync::Mutex;

const DEFAULT_SEPARATOR: &str = ":";

#[derive(Clone, Debug)]
struct Settings {
    /// A JSON object. Required.
    secrets_file: PathBuf,
    /// Joins the names of nested members. Default `:`.
    nested_separator: String,
    /// Objects at the top are secrets with several entries. Default `false`.
    multi_valued: bool,
}

pub(crate) fn check(spec: &Spec, findings: &mut Findings) -> Option<Opener<dyn SecretStore>> {
    let mut reader = Reader::standard(&spec.properties);
    let settings = Settings {
        secrets_file: reader.required("secretsFile").into(),
        nested_separator: reader
            .text("nestedSeparator")
            .filter(|separator| !separator.is_empty())
            .unwrap_or_else(|| DEFAULT_SEPARATOR.to_owned()),
        multi_valued: reader.boolean("multiValued", false),
    };
    if !reader.finish(findings) {
        return None;
    }
    Some(Arc::new(move |_| {
        let settings = settings.clone();
        Box::pin(async move {
            let file = File {
                settings,
                known: Mutex::default(),
                revision: AtomicU64::new(0),
            };
            file.current().await?;
            let store: Arc<dyn SecretStore> = Arc::new(file);
            Ok(store)
        })
    }))
}

/// Secrets, and what the file looked like when they were read.
type Known = (Stamp, Arc<BTreeMap<String, SecretValue>>);
type Stamp = (Option<SystemTime>, u64);

struct File {
    settings: Settings,
    known: Mutex<Option<Known>>,
    /// How often it was read.
    revision: AtomicU64,
}

impl File {
    /// The secrets as the file has them now; it is read again when it has changed.
    async fn current(&self) -> Result<Arc<BTreeMap<String, SecretValue>>, ComponentError> {
        let path = &self.settings.secrets_file;
        let about = tokio::fs::metadata(path).await.map_err(|error| {
            ComponentError::transient(format!("cannot read `{}`: {error}", path.display()))
        })?;
        let stamp = (about.modified().ok(), about.len());
        let mut known = self.known.lock().await;
        if let Some((_, secrets)) = known.as_ref().filter(|(seen, _)| *seen == stamp) {
            return Ok(secrets.clone());
        }
        let found = Arc::new(secrets(&read(path).await?, &self.settings));
        *known = Some((stamp, found.clone()));
        self.revision.fetch_add(1, Ordering::Relaxed);
        Ok(found)
    }

    /// As [`Self::current`]; while the file cannot be read, what it held before.
    async fn latest(&self) -> Result<Arc<BTreeMap<String, SecretValue>>, ComponentError> {
        match self.current().await {
            Ok(secrets) => Ok(secrets),
            Err(error) => match &*self.known.lock().await {
                Some((_, secrets)) => Ok(secrets.clone()),
                None => Err(error),
            },
        }
    }
}

#[async_trait]
impl Component for File {
    /// The file as it is now would do for a start.
    async fn ping(&self) -> Result<(), ComponentError> {
        read(&self.settings.secrets_file).await?;
        self.current().await.map(|_| ())
    }

    fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    async fn close(&self) {}
}

#[async_trait]
impl SecretStore for File {
    async fn get(
        &self,
        name: &str,
        _metadata: &Metadata,
    ) -> Result<Option<SecretValue>, ComponentError> {
        match self.latest().await?.get(name) {
            Some(value) => Ok(Some(value.clone())),
            // Dapr: components-contrib/secretstores/local/file/filestore.go; clients match on this text.
            None => Err(ComponentError::failed(format!("secret {name} not found"))),
        }
    }

    async fn bulk_get(
        &self,
        _metadata: &Metadata,
    ) -> Result<BTreeMap<String, SecretValue>, ComponentError> {
        Ok(BTreeMap::clone(&*self.latest().await?))
    }

    fn has_multiple_values(&self) -> bool {
        self.settings.multi_valued
    }
}

/// A file that cannot be read may be mounted yet; one that can be read and is no object has to be changed.
async fn read(path: &Path) -> Result<Vec<(String, Value)>, ComponentError> {
    let shown = path.display();
    let text = tokio::fs::read(path)
        .await
        .map_err(|error| ComponentError::transient(format!("cannot read `{shown}`: {error}")))?;
    match json::parse_all(&text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(other) => Err(ComponentError::config(format!(
            "`{shown}` holds no JSON object but {}",
            other.kind()
        ))),
        Err(error) => Err(ComponentError::config(format!(
            "`{shown}` holds no JSON object: {error}"
        ))),
    }
}

fn secrets(members: &[(String, Value)], settings: &Settings) -> BTreeMap<String, SecretValue> {
    let separator = &settings.nested_separator;
    if settings.multi_valued {
        return members
            .iter()
            .filter_map(|(name, value)| match value {
                Value::String(text) => Some((name.clone(), single(name, text))),
                Value::Object(inner) => Some((name.clone(), flattened(inner, separator))),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
            })
            .collect();
    }
    flattened(members, separator)
        .into_iter()
        .map(|(name, secret)| (name.clone(), SecretValue::from([(name, secret)])))
        .collect()
}

fn single(name: &str, text: &str) -> SecretValue {
    SecretValue::from([(name.to_owned(), Secret::new(text))])
}

/// One entry for each scalar, under the path to it. Of two with the same path the last one stays.
fn flattened(members: &[(String, Value)], separator: &str) -> SecretValue {
    let mut found = SecretValue::new();
    for (name, value) in members {
        flatten(name.clone(), value, separator, &mut found);
    }
    found
}

/// Recurses as deep as the parser allows a file to nest.
fn flatten(path: String, value: &Value, separator: &str, found: &mut SecretValue) {
    let text = match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = format!("{path}{separator}{name}");
                flatten(path, value, separator, found);
            }
            return;
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                let path = format!("{path}{separator}{i}");
                flatten(path, value, separator, found);
            }
            return;
        }
        Value::String(text) | Value::Number(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Null => String::new(),
    };
    found.insert(path, Secret::new(text));
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::ErrorKind;
    use outrigger_testkit::PrivateDir;

    const TEXT: &str = r#"{"plain": "v", "num": 12, "float": 1.50, "bool": true, "nil": null,
        "list": ["a", {"b": "c"}, 3], "obj": {"user": "u", "pass": {"deep": "d"}}, "empty": "",
        "big": 12345678901234567890, "no-members": {}, "no-items": []}"#;

    fn parsed(text: &str, separator: &str, multi_valued: bool) -> Vec<(String, String)> {
        let Ok(Value::Object(members)) = json::parse_all(text.as_bytes()) else {
            panic!("{text}");
        };
        let settings = Settings {
            secrets_file: PathBuf::new(),
            nested_separator: separator.to_owned(),
            multi_valued,
        };
        let shown = |value: SecretValue| {
            let entries: Vec<String> = value
                .into_iter()
                .map(|(name, secret)| format!("{name}={}", secret.reveal()))
                .collect();
            entries.join(" ")
        };
        secrets(&members, &settings)
            .into_iter()
            .map(|(name, value)| (name, shown(value)))
            .collect()
    }

    #[test]
    fn nested_members_become_secrets_under_their_path() {
        let found = parsed(TEXT, ":", false);
        let values: Vec<&str> = found.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(
            values,
            [
                "big=12345678901234567890",
                "bool=true",
                "empty=",
                "float=1.50",
                "list:0=a",
                "list:1:b=c",
                "list:2=3",
                "nil=",
                "num=12",
                "obj:pass:deep=d",
                "obj:user=u",
                "plain=v",
            ]
        );
        assert!(
            found
                .iter()
                .all(|(name, value)| value.starts_with(&format!("{name}=")))
        );
        let dotted = parsed(TEXT, ".", false);
        assert!(dotted.contains(&("obj.pass.deep".into(), "obj.pass.deep=d".into())));
    }

    #[test]
    fn with_several_values_only_texts_and_objects_at_the_top_are_secrets() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            parsed(TEXT, ":", true),
            [
                pair("empty", "empty="),
                pair("no-members", ""),
                pair("obj", "pass:deep=d user=u"),
                pair("plain", "plain=v"),
            ]
        );
    }

    #[test]
    fn of_two_secrets_with_one_name_the_last_stays() {
        let found = parsed(r#"{"a": {"b": "1"}, "a:b": "2"}"#, ":", false);
        assert_eq!(found, [("a:b".to_owned(), "a:b=2".to_owned())]);
    }

    #[tokio::test]
    async fn a_missing_file_is_tried_again_and_a_wrong_one_is_not() {
        let dir = PrivateDir::new("local-file");
        let error = read(&dir.path().join("none")).await.unwrap_err();
        assert_eq!(error.kind, ComponentError::transient("").kind);
        assert!(error.message.contains("none"), "{error}");
        for text in ["", "[1]", "null", "\"text\"", "{", "{} x", "{'a': 1}"] {
            let error = read(&dir.write("wrong", text)).await.unwrap_err();
            assert_eq!(error.kind, ComponentError::config("").kind, "{text}");
        }
        assert!(read(&dir.write("right", "{}")).await.unwrap().is_empty());
        let error = read(dir.path()).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Connection(_)), "a folder");
    }

    #[tokio::test]
    async fn a_ping_sees_that_the_file_has_changed() {
        let dir = PrivateDir::new("local-file");
        let file = File {
            settings: Settings {
                secrets_file: dir.write("secrets.json", "{}"),
                nested_separator: DEFAULT_SEPARATOR.to_owned(),
                multi_valued: false,
            },
            known: Mutex::default(),
            revision: AtomicU64::new(0),
        };
        file.ping().await.unwrap();
        let before = file.revision();
        file.ping().await.unwrap();
        assert_eq!(file.revision(), before);
        dir.write("secrets.json", r#"{"new": "v"}"#);
        file.ping().await.unwrap();
        assert_ne!(file.revision(), before);
    }
}
