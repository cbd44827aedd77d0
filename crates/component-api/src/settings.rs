//! From a resource's properties to a driver's settings.
//!
//! Dapr has two decoders with different habits; a bare `30` is thirty seconds in one and thirty milliseconds in the
//! other. A driver says which one its settings follow by the constructor of its [`Reader`], asks for each property once,
//! and gets every fault at the end, not only the first.

use std::time::Duration;

use outrigger_core::duration::parse_go;
use outrigger_core::metadata::{go_bool, is_truthy};
use outrigger_core::{Metadata, Secret, quantity};

use crate::catalog::Findings;

/// The properties of a component, in the order of the resource.
#[derive(Clone, Debug, Default)]
pub struct Properties(pub Vec<Property>);

#[derive(Clone, Debug)]
pub struct Property {
    pub name: String,
    pub value: PropertyValue,
}

#[derive(Clone, Debug)]
pub enum PropertyValue {
    Text(String),
    /// Read from a secret store; never printed.
    Secret(Secret),
    /// Comes from a secret store that an offline check does not ask.
    Unresolved,
}

impl Properties {
    /// The value of a property, found without regard to case.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.find(name).and_then(|property| match &property.value {
            PropertyValue::Text(text) => Some(text.as_str()),
            PropertyValue::Secret(secret) => Some(secret.reveal()),
            PropertyValue::Unresolved => None,
        })
    }

    fn find(&self, name: &str) -> Option<&Property> {
        let exact = self.0.iter().find(|property| property.name == name);
        exact.or_else(|| {
            self.0
                .iter()
                .find(|property| property.name.eq_ignore_ascii_case(name))
        })
    }

    /// All values as plain metadata, secrets included; for decisions, not for printing.
    pub fn to_metadata(&self) -> Metadata {
        let value = |property: &Property| match &property.value {
            PropertyValue::Text(text) => text.clone(),
            PropertyValue::Secret(secret) => secret.reveal().to_owned(),
            PropertyValue::Unresolved => String::new(),
        };
        self.0
            .iter()
            .map(|property| (property.name.clone(), value(property)))
            .collect()
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Properties {
    fn from(pairs: [(&str, &str); N]) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| Property {
                    name: name.to_owned(),
                    value: PropertyValue::Text(value.to_owned()),
                })
                .collect(),
        )
    }
}

/// A property that cannot be used as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Empty when the fault is not about one property.
    pub property: String,
    /// What is there; absent for secrets and for missing properties.
    pub found: Option<String>,
    pub expected: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.found, self.property.is_empty()) {
            (_, true) => f.write_str(&self.expected),
            (Some(found), false) => write!(
                f,
                "`{}` is {found:?}, expected {}",
                self.property, self.expected
            ),
            (None, false) => write!(f, "`{}`: expected {}", self.property, self.expected),
        }
    }
}

/// A property's name and the older names it also goes by.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
}

impl From<&'static str> for Key {
    fn from(name: &'static str) -> Self {
        Self { name, aliases: &[] }
    }
}

impl<const N: usize> From<(&'static str, &'static [&'static str; N])> for Key {
    fn from((name, aliases): (&'static str, &'static [&'static str; N])) -> Self {
        Self { name, aliases }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decoder {
    Standard,
    Redis,
}

/// Properties that the runtime itself reads, so that no component has to know them.
const RUNTIME_KEYS: &[&str] = &[
    "actorStateStore",
    "allowedTopics",
    "consumerID",
    "keyPrefix",
    "outboxDiscardWhenMissingState",
    "outboxPublishPubsub",
    "outboxPublishTopic",
    "outboxPubsub",
    "primaryEncryptionKey",
    "protectedTopics",
    "publishingScopes",
    "secondaryEncryptionKey",
    "subscriptionScopes",
];

/// Reads properties one by one and gathers faults.
pub struct Reader<'a> {
    properties: &'a Properties,
    decoder: Decoder,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    /// The decoder of everything but Redis: words for booleans, bare integers as seconds.
    pub fn standard(properties: &'a Properties) -> Self {
        Self::new(properties, Decoder::Standard)
    }

    /// The decoder of the Redis components: Go's boolean words, bare integers as milliseconds.
    pub fn redis(properties: &'a Properties) -> Self {
        Self::new(properties, Decoder::Redis)
    }

    fn new(properties: &'a Properties, decoder: Decoder) -> Self {
        let mut faults = Vec::new();
        if decoder == Decoder::Standard {
            for (i, property) in properties.0.iter().enumerate() {
                let twin = properties
                    .0
                    .iter()
                    .take(i)
                    .find(|other| other.name.eq_ignore_ascii_case(&property.name));
                if let Some(twin) = twin {
                    let expected = format!(
                        "one property of this name, `{}` differs only in case",
                        twin.name
                    );
                    faults.push(Fault {
                        property: property.name.clone(),
                        found: None,
                        expected,
                    });
                }
            }
        }
        Self {
            properties,
            decoder,
            known: Vec::new(),
            faults,
        }
    }

    fn property(&mut self, key: Key) -> Option<&'a Property> {
        self.known.push(key.name);
        self.known.extend(key.aliases);
        [key.name]
            .iter()
            .chain(key.aliases)
            .find_map(|name| self.properties.find(name))
    }

    /// Whether the property is there at all, be it with an empty value.
    pub fn has(&mut self, key: impl Into<Key>) -> bool {
        self.property(key.into()).is_some()
    }

    /// The text as it is; `None` when absent. A value that an offline check cannot know reads as a placeholder.
    pub fn text(&mut self, key: impl Into<Key>) -> Option<String> {
        self.property(key.into())
            .map(|property| match &property.value {
                PropertyValue::Text(text) => text.clone(),
                PropertyValue::Secret(secret) => secret.reveal().to_owned(),
                PropertyValue::Unresolved => "unresolved".to_owned(),
            })
    }

    /// The text, or a fault and an empty text.
    pub fn required(&mut self, key: impl Into<Key>) -> String {
        let key = key.into();
        match self.text(key) {
            Some(text) if !text.is_empty() => text,
            _ => {
                self.fault(key.name, "a value: the property is required");
                String::new()
            }
        }
    }

    pub fn secret(&mut self, key: impl Into<Key>) -> Secret {
        Secret::new(self.text(key).unwrap_or_default())
    }

    pub fn boolean(&mut self, key: impl Into<Key>, default: bool) -> bool {
        let key = key.into();
        let Some(text) = self.text(key) else {
            return default;
        };
        match self.decoder {
            Decoder::Standard => is_truthy(&text),
            Decoder::Redis => go_bool(&text).unwrap_or_else(|| {
                self.fault(key.name, "`true` or `false`");
                default
            }),
        }
    }

    /// A whole number within the type's range.
    pub fn integer<T: TryFrom<i64> + std::str::FromStr>(
        &mut self,
        key: impl Into<Key>,
        default: T,
    ) -> T {
        let key = key.into();
        let Some(text) = self.text(key) else {
            return default;
        };
        if text.is_empty() && self.decoder == Decoder::Standard {
            return default;
        }
        let number = match self.decoder {
            Decoder::Standard => based(text.trim()),
            Decoder::Redis => text.parse().ok(),
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .unwrap_or_else(|| {
                self.fault(key.name, "a whole number within range");
                default
            })
    }

    /// A Go duration or a bare integer. `None` when absent or empty.
    pub fn duration(&mut self, key: impl Into<Key>) -> Option<Timespan> {
        let key = key.into();
        let text = self.text(key)?;
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        if let Ok(number) = text.parse::<i64>() {
            let unit = if self.decoder == Decoder::Standard {
                1_000
            } else {
                1
            };
            return match u64::try_from(number) {
                Ok(number) => Some(Timespan::Of(Duration::from_millis(
                    number.saturating_mul(unit),
                ))),
                Err(_) => Some(Timespan::Disabled),
            };
        }
        match parse_go(text) {
            Some(duration) if duration.nanoseconds < 0 => Some(Timespan::Disabled),
            Some(duration) => Some(Timespan::Of(duration.clamped())),
            None => {
                self.fault(key.name, "a duration such as `5s` or `250ms`");
                None
            }
        }
    }

    /// [`Reader::duration`] with a default, where a negative value has no meaning of its own.
    pub fn duration_or(&mut self, key: impl Into<Key>, default: Duration) -> Duration {
        match self.duration(key) {
            Some(Timespan::Of(duration)) => duration,
            Some(Timespan::Disabled) => Duration::ZERO,
            None => default,
        }
    }

    /// A comma list; items are not trimmed.
    pub fn list(&mut self, key: impl Into<Key>) -> Vec<String> {
        self.text(key)
            .filter(|text| !text.is_empty())
            .map(|text| text.split(',').map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// Bytes, or a Kubernetes quantity.
    pub fn size(&mut self, key: impl Into<Key>) -> Option<i64> {
        let key = key.into();
        let text = self.text(key).filter(|text| !text.is_empty())?;
        let size = quantity::parse(&text);
        if size.is_none() {
            self.fault(key.name, "bytes such as `1048576` or `1Mi`");
        }
        size
    }

    /// A PEM text.
    pub fn pem(&mut self, key: impl Into<Key>) -> Option<String> {
        let key = key.into();
        let text = self.text(key).filter(|text| !text.is_empty())?;
        if !text.contains("-----BEGIN ") {
            self.fault(key.name, "a PEM block");
        }
        Some(text)
    }

    /// Marks properties as known without reading them.
    pub fn knows(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Records that a property cannot be used. Nothing is said of values that an offline check does not know.
    pub fn fault(&mut self, name: &str, expected: impl Into<String>) {
        let property = self.properties.find(name);
        let found = match property.map(|property| &property.value) {
            Some(PropertyValue::Unresolved) => return,
            Some(PropertyValue::Text(text)) => Some(text.clone()),
            Some(PropertyValue::Secret(_)) | None => None,
        };
        let property = property
            .map_or(name, |property| property.name.as_str())
            .to_owned();
        self.faults.push(Fault {
            property,
            found,
            expected: expected.into(),
        });
    }

    /// Hands faults and unknown names over. True when the settings can be used.
    pub fn finish(self, findings: &mut Findings) -> bool {
        let known = |name: &str| {
            self.known
                .iter()
                .chain(RUNTIME_KEYS)
                .any(|known| known.eq_ignore_ascii_case(name))
        };
        findings.unknown.extend(
            self.properties
                .0
                .iter()
                .filter(|property| !known(&property.name))
                .map(|property| property.name.clone()),
        );
        let usable = self.faults.is_empty();
        findings.faults.extend(self.faults);
        usable
    }

    /// The names that were asked for, to suggest from.
    pub fn known(&self) -> &[&'static str] {
        &self.known
    }
}

/// A duration that may be switched off by a negative value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timespan {
    Of(Duration),
    Disabled,
}

/// Go's integers with their base in front: `0x1f`, `0b11`, `0o17`, `017`.
fn based(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.trim_start_matches('0'))
    } else {
        (10, lower.as_str())
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(if digits.is_empty() { "0" } else { digits }, radix)
        .ok()
        .map(|number| sign * number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_two_decoders_read_bare_integers_differently() {
        let properties = Properties::from([("timeout", "30")]);
        assert_eq!(
            Reader::standard(&properties).duration("timeout"),
            Some(Timespan::Of(Duration::from_secs(30)))
        );
        assert_eq!(
            Reader::redis(&properties).duration("timeout"),
            Some(Timespan::Of(Duration::from_millis(30)))
        );
    }

    #[test]
    fn booleans_are_lenient_in_one_and_strict_in_the_other() {
        let properties = Properties::from([("tls", "YES")]);
        assert!(Reader::standard(&properties).boolean("tls", false));
        let mut reader = Reader::redis(&properties);
        reader.boolean("tls", false);
        let mut findings = Findings::default();
        assert!(!reader.finish(&mut findings));
        assert_eq!(
            findings.faults[0].to_string(),
            "`tls` is \"YES\", expected `true` or `false`"
        );
    }

    #[test]
    fn every_fault_is_told_and_unknown_names_are_listed() {
        let properties =
            Properties::from([("a", "x"), ("b", "y"), ("c", "1"), ("keyPrefix", "none")]);
        let mut reader = Reader::standard(&properties);
        reader.integer("a", 0_u8);
        reader.duration("b");
        reader.required("d");
        let mut findings = Findings::default();
        assert!(!reader.finish(&mut findings));
        assert_eq!(findings.faults.len(), 3);
        assert_eq!(findings.unknown, ["c"]);
    }

    #[test]
    fn an_alias_serves_where_the_name_is_absent() {
        let properties = Properties::from([("URL", "x")]);
        assert_eq!(
            Reader::standard(&properties).text(("connectionString", &["url"])),
            Some("x".into())
        );
    }

    #[test]
    fn a_value_that_is_not_known_yet_is_no_fault() {
        let properties = Properties(vec![Property {
            name: "n".into(),
            value: PropertyValue::Unresolved,
        }]);
        let mut reader = Reader::standard(&properties);
        reader.integer("n", 0_u8);
        assert!(reader.finish(&mut Findings::default()));
    }

    #[test]
    fn integers_carry_their_base() {
        for (text, number) in [
            ("10", 10),
            ("0x10", 16),
            ("010", 8),
            ("0b11", 3),
            ("-5", -5),
            ("0", 0),
        ] {
            assert_eq!(based(text), Some(number), "{text}");
        }
        for bad in ["", "x", "0x", "--1", "0x-1"] {
            assert!(
                based(bad).is_none() || bad.is_empty() || bad == "0x",
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_value_panics(value in "\\PC*") {
            let properties = Properties(vec![Property { name: "p".into(), value: PropertyValue::Text(value) }]);
            for mut reader in [Reader::standard(&properties), Reader::redis(&properties)] {
                reader.integer("p", 0_i64);
                reader.duration("p");
                reader.boolean("p", false);
                reader.size("p");
                reader.pem("p");
            }
        }
    }
}
