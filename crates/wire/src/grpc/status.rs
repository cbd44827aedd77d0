//! The end of a call: code, message, details.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_core::error::{ApiError, Detail, GrpcCode};
use outrigger_proto::google::protobuf::{Any, Duration};
use outrigger_proto::{Message as _, google};

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: GrpcCode,
    pub message: String,
    /// Encoded `google.rpc.Status`, where there are details.
    pub details: Option<Bytes>,
    /// Further trailers.
    pub metadata: HeaderMap,
}

impl Status {
    pub fn new(code: GrpcCode, message: String) -> Self {
        Self {
            code,
            message,
            details: None,
            metadata: HeaderMap::new(),
        }
    }

    pub fn ok() -> Self {
        Self::new(GrpcCode::Ok, String::new())
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(GrpcCode::Internal, message.into())
    }

    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(GrpcCode::Unknown, message.into())
    }

    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(GrpcCode::Unimplemented, message.into())
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(GrpcCode::Unavailable, message.into())
    }

    pub fn with_details(mut self, details: &[Detail]) -> Self {
        if !details.is_empty() {
            let status = google::rpc::Status {
                code: i32::from(self.code.number()),
                message: self.message.clone(),
                details: details.iter().map(packed).collect(),
            };
            self.details = Some(status.encode_to_vec().into());
        }
        self
    }

    /// The decoded details.
    pub fn rich(&self) -> google::rpc::Status {
        let decoded = self
            .details
            .clone()
            .and_then(|bytes| google::rpc::Status::decode(bytes).ok());
        decoded.unwrap_or_else(|| google::rpc::Status {
            code: i32::from(self.code.number()),
            message: self.message.clone(),
            details: Vec::new(),
        })
    }

    /// The trailers that carry this status.
    pub fn to_trailers(&self) -> HeaderMap {
        let mut trailers = self.metadata.clone();
        let mut number = itoa::Buffer::new();
        let code = HeaderValue::from_str(number.format(self.code.number()))
            .unwrap_or(HeaderValue::from_static("2"));
        trailers.insert(STATUS, code);
        if !self.message.is_empty() {
            trailers.insert(
                MESSAGE,
                HeaderValue::from_maybe_shared(Bytes::from(percent_encode(&self.message)))
                    .unwrap_or(HeaderValue::from_static("")),
            );
        }
        if let Some(details) = &self.details {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(details);
            if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
                trailers.insert(DETAILS, value);
            }
        }
        trailers
    }

    /// Reads a status out of trailers, or out of headers that are all there is. `None` when they carry none.
    pub fn from_trailers(mut trailers: HeaderMap) -> Option<Self> {
        let code = trailers.remove(STATUS)?;
        let code = code
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .map_or(GrpcCode::Unknown, GrpcCode::from_number);
        let message = trailers
            .remove(MESSAGE)
            .map(|value| percent_decode(value.as_bytes()))
            .unwrap_or_default();
        let details = trailers
            .remove(DETAILS)
            .and_then(|value| decode_binary(value.as_bytes()));
        trailers.remove(http::header::CONTENT_TYPE);
        Some(Self {
            code,
            message,
            details,
            metadata: trailers,
        })
    }

    /// What a reply without gRPC status means, by its HTTP status.
    pub(crate) fn from_http(status: u16, content_type: Option<&str>) -> Self {
        let code = match status {
            400 | 431 => GrpcCode::Internal,
            401 => GrpcCode::Unauthenticated,
            403 => GrpcCode::PermissionDenied,
            404 => GrpcCode::Unimplemented,
            429 | 502..=504 => GrpcCode::Unavailable,
            _ => GrpcCode::Unknown,
        };
        let kind = content_type.map_or_else(
            || "; malformed header: missing HTTP content-type".to_owned(),
            |kind| format!("; transport: received unexpected content-type {kind:?}"),
        );
        let phrase = outrigger_core::error_code::reason_phrase(status);
        Self::new(
            code,
            format!("unexpected HTTP status code received from server: {status} ({phrase}){kind}"),
        )
    }
}

impl From<&ApiError> for Status {
    fn from(error: &ApiError) -> Self {
        Self::new(error.grpc, error.message.clone()).with_details(&error.grpc_details())
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        Self::from(&error)
    }
}

/// As Go prints it inside other texts.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rpc error: code = {} desc = {}",
            self.code.name(),
            self.message
        )
    }
}

impl std::error::Error for Status {}

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Whether a name belongs to the protocol itself and not to the caller's metadata.
pub fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "content-type"
            | "te"
            | "user-agent"
            | "grpc-timeout"
            | "grpc-encoding"
            | "grpc-message"
            | "grpc-status"
            | "grpc-message-type"
            | "grpc-status-details-bin"
    ) || name.starts_with(':')
}

fn packed(detail: &Detail) -> Any {
    let (name, value) = match detail {
        Detail::ErrorInfo {
            reason,
            domain,
            metadata,
        } => {
            let info = google::rpc::ErrorInfo {
                reason: reason.to_string(),
                domain: (*domain).to_owned(),
                metadata: metadata.clone().unwrap_or_default(),
            };
            ("ErrorInfo", info.encode_to_vec())
        }
        Detail::ResourceInfo {
            resource_type,
            resource_name,
            owner,
            description,
        } => {
            let info = google::rpc::ResourceInfo {
                resource_type: (*resource_type).to_owned(),
                resource_name: resource_name.clone(),
                owner: owner.clone(),
                description: description.clone(),
            };
            ("ResourceInfo", info.encode_to_vec())
        }
        Detail::BadRequest { violations } => {
            let violation = |(field, description): &(String, String)| {
                google::rpc::bad_request::FieldViolation {
                    field: field.clone(),
                    description: description.clone(),
                }
            };
            (
                "BadRequest",
                google::rpc::BadRequest {
                    field_violations: violations.iter().map(violation).collect(),
                }
                .encode_to_vec(),
            )
        }
        Detail::Help { links } => {
            let link = |(description, url): &(String, String)| google::rpc::help::Link {
                description: description.clone(),
                url: url.clone(),
            };
            (
                "Help",
                google::rpc::Help {
                    links: links.iter().map(link).collect(),
                }
                .encode_to_vec(),
            )
        }
        Detail::RetryInfo { seconds } => {
            let delay = Duration {
                seconds: i64::from(*seconds),
                nanos: 0,
            };
            (
                "RetryInfo",
                google::rpc::RetryInfo {
                    retry_delay: Some(delay),
                }
                .encode_to_vec(),
            )
        }
    };
    Any {
        type_url: format!("type.googleapis.com/google.rpc.{name}"),
        value: value.into(),
    }
}

fn percent_encode(text: &str) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    let mut out = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0x20..=0x7e if byte != b'%' => out.push(byte),
            _ => out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]),
        }
    }
    out
}

/// Undoes percent encoding; what is no valid escape stays as it is, what is no UTF-8 is replaced.
pub fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%')
            .then(|| after.split_first_chunk::<2>())
            .flatten();
        let byte = escaped.and_then(|(pair, tail)| {
            Some((
                u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?,
                tail,
            ))
        });
        match byte {
            Some((byte, tail)) => {
                out.push(byte);
                rest = tail;
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(out)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A binary header's value, with or without padding.
pub(crate) fn decode_binary(text: &[u8]) -> Option<Bytes> {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    STANDARD_NO_PAD
        .decode(text)
        .or_else(|_| STANDARD.decode(text))
        .ok()
        .map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_status_survives_its_trailers() {
        let details = [
            Detail::ErrorInfo {
                reason: "R".into(),
                domain: "dapr.io",
                metadata: None,
            },
            Detail::RetryInfo { seconds: 4 },
        ];
        let status =
            Status::new(GrpcCode::Unavailable, "größer 100%\n".to_owned()).with_details(&details);
        let back = Status::from_trailers(status.to_trailers()).unwrap();
        assert_eq!(back, status);
        assert_eq!(back.rich().details.len(), 2);
    }

    proptest! {
        #[test]
        fn every_message_survives(text in "\\PC*") {
            prop_assert_eq!(percent_decode(&percent_encode(&text)), text);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            percent_decode(&bytes);
            decode_binary(&bytes);
        }
    }
}
