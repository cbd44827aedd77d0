//! From what a caller sent to what a store keeps.

use bytes::Bytes;
use outrigger_component_api::{JsonForm, Value};
use outrigger_core::json::{self, Style, go_default_text};

/// A value as it came in.
#[derive(Clone, Debug)]
pub enum NewValue {
    /// Decoded from a JSON body.
    Json(json::Value),
    /// Taken as it is.
    Bytes(Bytes),
    /// Bytes that were said to be JSON, and are.
    Typed(json::Value, Bytes),
}

/// What becomes of numbers that a 64-bit float cannot hold exactly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Numbers {
    /// Rounded, as Dapr does.
    #[default]
    Float64,
    /// Kept digit by digit.
    Exact,
}

impl NewValue {
    /// The form in which a store of this kind keeps it.
    pub(super) fn to_stored(&self, form: JsonForm, numbers: Numbers) -> Value {
        match self {
            Self::Bytes(bytes) => Value::Bytes(bytes.clone()),
            Self::Json(value) | Self::Typed(value, _) => {
                let style = match form {
                    JsonForm::Standard => Style::Standard,
                    JsonForm::Fast => Style::Fast,
                };
                let numbers = match numbers {
                    Numbers::Float64 => json::Numbers::Float64,
                    Numbers::Exact => json::Numbers::Exact,
                };
                Value::Json(json::encode(value, style, numbers).into())
            }
        }
    }

    /// The text that is encrypted. Scalars have Go's plain form, which readers of existing data expect; objects, arrays
    /// and null, of which Dapr encrypts a debug print, are encrypted as JSON.
    pub(super) fn to_plain(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) | Self::Typed(_, bytes) => bytes.clone(),
            Self::Json(value) => match go_default_text(value) {
                Some(text) => text.into(),
                None => json::encode(value, Style::Standard, json::Numbers::Exact).into(),
            },
        }
    }
}
