//! String pairs that travel beside a request: component options in, facts about the answer out.

use std::collections::BTreeMap;

/// Sorted, because most of it ends up in JSON or in headers where a fixed order helps to compare.
pub type Metadata = BTreeMap<String, String>;

/// Looks a key up without regard to case, an exact match first.
pub fn get_ignore_case<'a>(metadata: &'a Metadata, key: &str) -> Option<&'a str> {
    if let Some(value) = metadata.get(key) {
        return Some(value);
    }
    metadata
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(key))
        .map(|(_, value)| value.as_str())
}

/// Go's `strconv.ParseBool`: the only spellings that metadata booleans of requests accept.
pub fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The lenient boolean of component settings: a fixed set of words is true, all else false.
pub fn is_truthy(text: &str) -> bool {
    matches!(
        text.trim().to_ascii_lowercase().as_str(),
        "y" | "yes" | "true" | "t" | "on" | "1"
    )
}

/// `rawPayload` of a publish or subscription; an empty value counts as absent.
///
/// # Errors
/// The offending text, when it is no boolean.
pub fn raw_payload(metadata: &Metadata) -> Result<bool, &str> {
    match metadata.get("rawPayload").map(String::as_str) {
        None | Some("") => Ok(false),
        Some(text) => go_bool(text).ok_or(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_truthy_as_dapr_reads_them() {
        for word in ["y", "YES", " true ", "t", "On", "1"] {
            assert!(is_truthy(word), "{word}");
        }
        for word in ["", "no", "0", "2", "truthy"] {
            assert!(!is_truthy(word), "{word}");
        }
    }

    #[test]
    fn a_raw_payload_word_that_is_no_boolean_is_told() {
        let with = |value: &str| Metadata::from([("rawPayload".to_owned(), value.to_owned())]);
        assert_eq!(raw_payload(&with("True")), Ok(true));
        assert_eq!(raw_payload(&with("")), Ok(false));
        assert_eq!(raw_payload(&with("yes")), Err("yes"));
        assert_eq!(raw_payload(&Metadata::new()), Ok(false));
    }

    #[test]
    fn an_exact_key_wins_over_another_case() {
        let metadata = Metadata::from([("TTL".into(), "1".into()), ("ttl".into(), "2".into())]);
        assert_eq!(get_ignore_case(&metadata, "ttl"), Some("2"));
        assert_eq!(get_ignore_case(&metadata, "Ttl"), Some("1"));
    }
}
