//! What a scalar means to Dapr.
//!
//! Resources go through a library that follows YAML 1.1, where `yes` is a boolean; the Configuration goes through one
//! that follows 1.2. Both read `0x10`, `010` and `1_000` as Go does.

use outrigger_core::json::{Numbers, Style as JsonStyle, Value, encode, go_float};

/// Who reads the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Schema {
    /// Resources: `yes`, `on`, `y` and their opposites are booleans; field names are found without regard to case.
    Legacy,
    /// Configuration: only `true` and `false` are; field names must match exactly.
    Modern,
}

/// What a scalar stands for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Meaning {
    Null,
    Bool(bool),
    /// Within the range of i64 or u64.
    Int(i128),
    Float(f64),
    Text,
}

impl Meaning {
    /// The meaning of an unquoted scalar without a tag.
    pub fn of(text: &str, schema: Schema) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Self::Null,
            "true" | "True" | "TRUE" => return Self::Bool(true),
            "false" | "False" | "FALSE" => return Self::Bool(false),
            ".nan" | ".NaN" | ".NAN" => return Self::Float(f64::NAN),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
                return Self::Float(f64::INFINITY);
            }
            "-.inf" | "-.Inf" | "-.INF" => return Self::Float(f64::NEG_INFINITY),
            _ => {}
        }
        if let (Schema::Legacy, Some(value)) = (schema, old_bool(text)) {
            return Self::Bool(value);
        }
        match text.bytes().next() {
            Some(b'0'..=b'9' | b'+' | b'-') => number(&text.replace('_', "")),
            Some(b'.') => float(text).map_or(Self::Text, Self::Float),
            _ => Self::Text,
        }
    }

    /// For messages: `a number`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Text => "a text",
        }
    }

    /// As a key of a map.
    pub(super) fn key(self, text: &str) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Float(number) if number.is_nan() => Some(".nan".to_owned()),
            Self::Float(number) if number.is_infinite() => {
                Some(if number > 0.0 { ".inf" } else { "-.inf" }.to_owned())
            }
            other => other.text(text),
        }
    }

    /// As Dapr fills a text field; absent for null.
    pub fn text(self, text: &str) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Bool(value) => Some(value.to_string()),
            Self::Int(number) => Some(number.to_string()),
            // Dapr: sigs.k8s.io/yaml writes floats with the precision of 32 bits.
            Self::Float(number) => Some(go_float(
                (number as f32).to_string().parse().unwrap_or(number),
            )),
            Self::Text => Some(text.to_owned()),
        }
    }

    pub(super) fn to_json(self, text: &str) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(number) => Value::Number(number.to_string()),
            Self::Float(number) if number.is_finite() => {
                let written = encode(
                    &Value::Number(format!("{number:e}")),
                    JsonStyle::Standard,
                    Numbers::Float64,
                );
                Value::Number(String::from_utf8(written).unwrap_or_default())
            }
            Self::Float(_) | Self::Text => Value::string(text),
        }
    }
}

/// The booleans that YAML 1.2 dropped.
pub(crate) fn old_bool(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn number(text: &str) -> Meaning {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = integer(digits);
    let limit = match (negative, text.starts_with('+')) {
        (true, _) => 1_i128 << 63,
        (false, true) => i128::from(i64::MAX),
        (false, false) => i128::from(u64::MAX),
    };
    match magnitude.filter(|magnitude| *magnitude <= limit) {
        Some(magnitude) => Meaning::Int(if negative { -magnitude } else { magnitude }),
        None => float(text).map_or(Meaning::Text, Meaning::Float),
    }
}

/// An unsigned integer with Go's prefixes; a leading zero means octal.
fn integer(digits: &str) -> Option<i128> {
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, lower.as_str())
    } else {
        (10, lower.as_str())
    };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    i128::from_str_radix(digits, radix).ok()
}

/// `-1.5e3`, `.5`, `1.`; nothing that overflows.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (
            mantissa,
            Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent)),
        ),
        None => (unsigned, None),
    };
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = are_digits(whole)
        && are_digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && are_digits(exponent));
    if !is_number {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_those_of_go() {
        for (text, number) in [
            ("0", 0),
            ("10", 10),
            ("-10", -10),
            ("+10", 10),
            ("0x1F", 31),
            ("0b11", 3),
            ("0o17", 15),
            ("017", 15),
            ("1_000", 1000),
            ("18446744073709551615", i128::from(u64::MAX)),
            ("-9223372036854775808", i128::from(i64::MIN)),
        ] {
            assert_eq!(
                Meaning::of(text, Schema::Legacy),
                Meaning::Int(number),
                "{text}"
            );
        }
        for (text, number) in [
            ("1.5", 1.5),
            (".5", 0.5),
            ("1.", 1.0),
            ("1e3", 1000.0),
            ("-1.5E-1", -0.15),
            ("08", 8.0),
            ("18446744073709551616", 18446744073709551616.0),
        ] {
            assert_eq!(
                Meaning::of(text, Schema::Legacy),
                Meaning::Float(number),
                "{text}"
            );
        }
        for text in ["", "~"] {
            assert_eq!(Meaning::of(text, Schema::Modern), Meaning::Null);
        }
        for text in [
            "-",
            "+",
            ".",
            "1.2.3",
            "0x",
            "0xg",
            "1e",
            "1e400",
            "--1",
            "2024-01-01",
            "1:30",
            "5s",
            "_1",
            "0b2",
            "infinity",
        ] {
            assert_eq!(Meaning::of(text, Schema::Legacy), Meaning::Text, "{text}");
        }
    }

    #[test]
    fn old_booleans_are_booleans_in_resources_only() {
        assert_eq!(Meaning::of("yes", Schema::Legacy), Meaning::Bool(true));
        assert_eq!(Meaning::of("OFF", Schema::Legacy), Meaning::Bool(false));
        assert_eq!(Meaning::of("yes", Schema::Modern), Meaning::Text);
        assert_eq!(Meaning::of("yEs", Schema::Legacy), Meaning::Text);
    }

    #[test]
    fn text_fields_take_scalars_of_every_kind() {
        let text = |text: &str| Meaning::of(text, Schema::Legacy).text(text);
        assert_eq!(text("yes"), Some("true".into()));
        assert_eq!(text("0x10"), Some("16".into()));
        assert_eq!(text("1.10"), Some("1.1".into()));
        assert_eq!(text("1000000.0"), Some("1e+06".into()));
        assert_eq!(text("0.1"), Some("0.1".into()));
        assert_eq!(text(".inf"), Some("+Inf".into()));
        assert_eq!(text("null"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            for schema in [Schema::Legacy, Schema::Modern] {
                let meaning = Meaning::of(&text, schema);
                meaning.text(&text);
                meaning.to_json(&text);
            }
        }
    }
}
