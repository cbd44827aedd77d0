//! Which key a value has in the store.

use std::borrow::Cow;

const SEPARATOR: &str = "||";

/// What stands in front of a key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct KeyPrefix {
    /// Without separator; `None`: keys are stored as they are.
    prefix: Prefix,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
enum Prefix {
    #[default]
    None,
    Store,
    Text(String),
}

impl KeyPrefix {
    /// Reads the property `keyPrefix`; absent it means the app id.
    ///
    /// # Errors
    /// For a literal prefix that holds the separator.
    pub fn read(
        strategy: Option<&str>,
        app_id: &str,
        namespace: Option<&str>,
    ) -> Result<Self, String> {
        // Dapr: pkg/components/state/state_config.go lower-cases literal prefixes too, and data depends on it.
        let strategy = strategy.map_or(Cow::Borrowed("appid"), |text| {
            Cow::Owned(text.to_lowercase())
        });
        if strategy.contains(SEPARATOR) {
            return Err(format!(
                "input key/keyPrefix '{strategy}' can't contain '{SEPARATOR}'"
            ));
        }
        let prefix = match (&*strategy, namespace) {
            ("none", _) => Prefix::None,
            ("name", _) => Prefix::Store,
            ("namespace", Some(namespace)) if !namespace.is_empty() => {
                Prefix::Text(format!("{namespace}.{app_id}"))
            }
            ("appid" | "namespace", _) => Prefix::Text(app_id.to_owned()),
            (literal, _) => Prefix::Text(literal.to_owned()),
        };
        Ok(Self { prefix })
    }

    /// The key in the store.
    pub fn qualify(&self, store: &str, key: &str) -> String {
        let prefix = match &self.prefix {
            Prefix::None => return key.to_owned(),
            Prefix::Store => store,
            Prefix::Text(text) => text,
        };
        let mut out = String::with_capacity(prefix.len() + SEPARATOR.len() + key.len());
        for part in [prefix, SEPARATOR, key] {
            out.push_str(part);
        }
        out
    }
}

/// Whether a caller may use this key.
pub(super) fn is_legal(key: &str) -> bool {
    !key.contains(SEPARATOR)
}

/// The caller's key: what lies behind the first separator and before a second one.
pub(super) fn original(stored: &str) -> &str {
    let mut parts = stored.splitn(3, SEPARATOR);
    let first = parts.next().unwrap_or(stored);
    parts.next().unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(strategy: Option<&str>, namespace: Option<&str>) -> String {
        KeyPrefix::read(strategy, "App", namespace)
            .unwrap()
            .qualify("store", "k")
    }

    #[test]
    fn every_strategy_has_its_prefix() {
        assert_eq!(key(None, None), "App||k");
        assert_eq!(key(Some("AppId"), None), "App||k");
        assert_eq!(key(Some("name"), None), "store||k");
        assert_eq!(key(Some("NONE"), None), "k");
        assert_eq!(key(Some("namespace"), Some("ns")), "ns.App||k");
        assert_eq!(key(Some("namespace"), None), "App||k");
        assert_eq!(key(Some("MyPrefix"), None), "myprefix||k");
        assert_eq!(key(Some(""), None), "||k");
        assert!(KeyPrefix::read(Some("a||b"), "App", None).is_err());
    }

    proptest! {
        #[test]
        fn a_callers_key_comes_back(key in "[a-z|]{0,10}") {
            prop_assume!(is_legal(&key) && !key.starts_with('|') && !key.ends_with('|'));
            let stored = KeyPrefix::read(None, "app", None).unwrap().qualify("s", &key);
            prop_assert_eq!(original(&stored), key);
        }
    }
}
