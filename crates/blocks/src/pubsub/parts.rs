//! A cloud event taken apart, for receivers that are not sent its JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use outrigger_core::cloud_event;
use outrigger_core::json::{Numbers, Style, Value, encode};

/// Attributes and data of an event.
#[derive(Clone, PartialEq, Debug)]
pub struct Parts<'a> {
    pub id: &'a str,
    pub source: &'a str,
    pub kind: &'a str,
    pub spec_version: &'a str,
    pub data_content_type: &'a str,
    pub data: Bytes,
    /// Every attribute that has no place of its own above.
    pub extensions: Vec<(&'a str, &'a Value)>,
}

/// Takes an event apart. A text attribute that is no text reads as empty.
///
/// # Errors
/// When the data cannot be what its type says.
pub fn parts(event: &Value) -> Result<Parts<'_>, String> {
    let text = |name| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let data_content_type = text("datacontenttype");
    let members = event.as_object().unwrap_or_default();
    let own = |name: &str| {
        matches!(
            name,
            "id" | "source" | "type" | "specversion" | "datacontenttype" | "data" | "data_base64"
        )
    };
    Ok(Parts {
        id: text("id"),
        source: text("source"),
        kind: text("type"),
        spec_version: text("specversion"),
        data_content_type,
        data: data(event, data_content_type)?,
        extensions: members
            .iter()
            .filter(|(name, _)| !own(name))
            .map(|(name, value)| (name.as_str(), value))
            .collect(),
    })
}

fn data(event: &Value, content_type: &str) -> Result<Bytes, String> {
    const UNEXPECTED: &str = "unexpected data type encountered in envelope";
    if let Some(encoded) = event.get("data_base64").filter(|value| !value.is_null()) {
        let text = encoded.as_str().ok_or(UNEXPECTED)?;
        return STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|error| error.to_string());
    }
    let Some(data) = event.get("data").filter(|value| !value.is_null()) else {
        return Ok(Bytes::new());
    };
    if cloud_event::is_text(content_type) {
        return data
            .as_str()
            .map(|text| Bytes::copy_from_slice(text.as_bytes()))
            .ok_or_else(|| UNEXPECTED.to_owned());
    }
    if cloud_event::is_json(content_type)
        || cloud_event::is_content_type(content_type, cloud_event::CONTENT_TYPE)
    {
        return Ok(encode(data, Style::Standard, Numbers::Float64).into());
    }
    Ok(Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::json::parse_all;

    fn data_of(event: &str) -> Result<Vec<u8>, String> {
        let event = parse_all(event.as_bytes()).unwrap();
        parts(&event).map(|parts| parts.data.to_vec())
    }

    #[test]
    fn data_follows_its_type() {
        assert_eq!(
            data_of(r#"{"datacontenttype":"application/json","data":{"b":1,"a":"<"}}"#).unwrap(),
            br#"{"a":"\u003c","b":1}"#
        );
        assert_eq!(
            data_of(r#"{"datacontenttype":"text/plain","data":"hi"}"#).unwrap(),
            b"hi"
        );
        assert_eq!(
            data_of(r#"{"datacontenttype":"application/octet-stream","data_base64":"AP8="}"#)
                .unwrap(),
            [0, 255]
        );
        assert_eq!(data_of(r#"{"data":"x"}"#).unwrap(), b"", "no type, no data");
        assert_eq!(
            data_of(r#"{"datacontenttype":"application/json","data":null}"#).unwrap(),
            b""
        );
        assert!(data_of(r#"{"datacontenttype":"text/plain","data":{}}"#).is_err());
        assert!(data_of(r#"{"data_base64":"?"}"#).is_err());
        assert!(data_of(r#"{"data_base64":1}"#).is_err());
    }

    #[test]
    fn what_has_no_place_of_its_own_is_an_extension() {
        let event = parse_all(br#"{"id":1,"type":"t","topic":"x","own":{"a":1}}"#).unwrap();
        let parts = parts(&event).unwrap();
        assert_eq!((parts.id, parts.kind), ("", "t"));
        assert_eq!(
            parts
                .extensions
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>(),
            ["topic", "own"]
        );
    }
}
