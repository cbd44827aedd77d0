//! What a caller is told when something fails, for both APIs from one value.
//!
//! A building block returns an [`ApiError`]; the HTTP edge prints its JSON, the gRPC edge its status.
//! Texts, codes and details are those that Dapr's clients compare, so they are written once, in the
//! `errors` module of each building block, and never at the edge.

use std::borrow::Cow;
use std::fmt;

use crate::Metadata;
pub use crate::error_code::GrpcCode;
use crate::json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub http: u16,
    pub grpc: GrpcCode,
    /// `errorCode` over HTTP.
    pub tag: Cow<'static, str>,
    pub message: String,
    /// The rich details, in the order in which they are shown. Empty: the error has its legacy form.
    pub details: Vec<Detail>,
    /// A legacy error that carries one `ErrorInfo` over gRPC, and nothing over HTTP.
    pub basic: bool,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u32>,
    /// The label `category` of the error counter.
    pub category: &'static str,
}

/// One detail of a rich error, `google.rpc` message and JSON object at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Detail {
    ErrorInfo {
        reason: Cow<'static, str>,
        domain: &'static str,
        metadata: Option<Metadata>,
    },
    ResourceInfo {
        resource_type: &'static str,
        resource_name: String,
        owner: String,
        description: String,
    },
    BadRequest {
        violations: Vec<(String, String)>,
    },
    Help {
        links: Vec<(String, String)>,
    },
    RetryInfo {
        seconds: u32,
    },
}

impl ApiError {
    /// An error in the legacy form.
    pub fn legacy(
        http: u16,
        grpc: GrpcCode,
        tag: &'static str,
        category: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            http,
            grpc,
            tag: Cow::Borrowed(tag),
            message: message.into(),
            details: Vec::new(),
            basic: false,
            retry_after: None,
            category,
        }
    }

    /// An error in the legacy form whose gRPC status names the tag as reason.
    pub fn basic(
        http: u16,
        grpc: GrpcCode,
        tag: &'static str,
        category: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            basic: true,
            ..Self::legacy(http, grpc, tag, category, message)
        }
    }

    /// An error with details; the `ErrorInfo` is added behind those given.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call per row of the catalogue, in the order of its columns"
    )]
    pub fn rich(
        http: u16,
        grpc: GrpcCode,
        tag: &'static str,
        category: &'static str,
        reason: &'static str,
        message: impl Into<String>,
        mut details: Vec<Detail>,
        metadata: Option<Metadata>,
    ) -> Self {
        details.push(Detail::ErrorInfo {
            reason: Cow::Borrowed(reason),
            domain: DOMAIN,
            metadata,
        });
        Self {
            details,
            ..Self::legacy(http, grpc, tag, category, message)
        }
    }

    /// The error as the HTTP API shows it.
    pub fn to_json(&self) -> Value {
        let mut members = vec![
            ("errorCode".to_owned(), Value::string(self.tag.as_ref())),
            ("message".to_owned(), Value::string(self.message.as_str())),
        ];
        if !self.details.is_empty() {
            members.push((
                "details".to_owned(),
                Value::Array(self.details.iter().map(Detail::to_json).collect()),
            ));
        }
        Value::Object(members)
    }

    /// The details of the gRPC status.
    pub fn grpc_details(&self) -> Cow<'_, [Detail]> {
        if self.basic && self.details.is_empty() {
            Cow::Owned(vec![Detail::ErrorInfo {
                reason: self.tag.clone(),
                domain: DOMAIN,
                metadata: None,
            }])
        } else {
            Cow::Borrowed(&self.details)
        }
    }
}

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "dapr.io";

impl Detail {
    pub fn to_json(&self) -> Value {
        let kind = |name: &str| {
            (
                "@type",
                Value::String(format!("type.googleapis.com/google.rpc.{name}")),
            )
        };
        match self {
            Self::ErrorInfo {
                reason,
                domain,
                metadata,
            } => Value::object([
                kind("ErrorInfo"),
                ("domain", Value::string(*domain)),
                (
                    "metadata",
                    metadata.as_ref().map_or(Value::Null, Value::strings),
                ),
                ("reason", Value::string(reason.as_ref())),
            ]),
            Self::ResourceInfo {
                resource_type,
                resource_name,
                owner,
                description,
            } => Value::object([
                kind("ResourceInfo"),
                ("description", Value::string(description.as_str())),
                ("owner", Value::string(owner.as_str())),
                ("resource_name", Value::string(resource_name.as_str())),
                ("resource_type", Value::string(*resource_type)),
            ]),
            Self::BadRequest { violations } => Value::object([
                kind("BadRequest"),
                (
                    "field_violations",
                    pairs(violations, "field", "description"),
                ),
            ]),
            Self::Help { links } => {
                Value::object([kind("Help"), ("links", pairs(links, "description", "url"))])
            }
            Self::RetryInfo { seconds } => Value::object([
                kind("RetryInfo"),
                (
                    "retry_delay",
                    Value::object([("seconds", Value::integer(*seconds))]),
                ),
            ]),
        }
    }
}

fn pairs(items: &[(String, String)], first: &str, second: &str) -> Value {
    let item = |(a, b): &(String, String)| {
        Value::object([
            (first, Value::string(a.as_str())),
            (second, Value::string(b.as_str())),
        ])
    };
    Value::Array(items.iter().map(item).collect())
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// How Go prints a gRPC error inside another text.
pub fn rpc_text(code: GrpcCode, message: &str) -> String {
    format!("rpc error: code = {} desc = {message}", code.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Numbers, Style, encode};

    #[test]
    fn a_rich_error_lists_its_error_info_last() {
        let error = ApiError::rich(
            400,
            GrpcCode::InvalidArgument,
            "ERR_X",
            "state",
            "DAPR_X",
            "no",
            vec![Detail::RetryInfo { seconds: 4 }],
            None,
        );
        let text =
            String::from_utf8(encode(&error.to_json(), Style::Ours, Numbers::Exact)).unwrap();
        assert_eq!(
            text,
            r#"{"errorCode":"ERR_X","message":"no","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retry_delay":{"seconds":4}},{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":null,"reason":"DAPR_X"}]}"#
        );
    }

    #[test]
    fn a_basic_error_has_details_over_grpc_only() {
        let error = ApiError::basic(500, GrpcCode::Internal, "ERR_Y", "state", "no");
        assert_eq!(error.to_json().as_object().unwrap().len(), 2);
        assert_eq!(error.grpc_details().len(), 1);
    }
}
