//! Why a component did not do what it was asked.

use std::fmt;

use outrigger_core::error::GrpcCode;
use outrigger_core::secret::redact_urls;
use outrigger_lifecycle::connection::{Class, Failure};

/// The driver decides here, where the server's answer is still known, what an error means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ComponentError {
    pub kind: ErrorKind,
    /// For people; credentials are cut out on construction.
    pub message: String,
    /// The gRPC status of the server's answer, where it gave one; retries of publishing are matched on it.
    pub status: Option<GrpcCode>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The connection or the login failed. During a call it makes the supervisor look at the connection.
    Connection(Class),
    /// The server answered, with an error of its own.
    Failed,
    /// The request cannot be served as it is, now or later.
    Invalid,
    /// This component has no such operation.
    Unsupported,
    /// The entity tag is not that of the stored value.
    EtagMismatch,
    /// The entity tag does not have the form of this store.
    EtagInvalid,
}

impl ComponentError {
    pub fn new(kind: ErrorKind, message: impl AsRef<str>) -> Self {
        Self {
            kind,
            message: redact_urls(message.as_ref()),
            status: None,
        }
    }

    pub fn transient(message: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Connection(Class::Transient), message)
    }

    pub fn timeout(message: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Connection(Class::Timeout), message)
    }

    pub fn auth(message: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Connection(Class::Auth), message)
    }

    /// The resource is wrong; it is not tried again before it changes.
    pub fn config(message: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Connection(Class::Config), message)
    }

    pub fn failed(message: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    pub fn invalid(message: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub fn unsupported(message: impl AsRef<str>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    // Dapr: components-contrib/state/errors.go; clients match on this text.
    pub fn etag_mismatch() -> Self {
        Self::new(
            ErrorKind::EtagMismatch,
            "possible etag mismatch. error from state store",
        )
    }

    pub fn etag_invalid(message: impl AsRef<str>) -> Self {
        Self::new(
            ErrorKind::EtagInvalid,
            format!("invalid etag value: {}", message.as_ref()),
        )
    }

    /// Whether the connection is to be looked at.
    pub fn doubts_connection(&self) -> bool {
        matches!(self.kind, ErrorKind::Connection(_))
    }

    pub fn is_etag(&self) -> bool {
        matches!(self.kind, ErrorKind::EtagMismatch | ErrorKind::EtagInvalid)
    }

    /// The error as the connection machine takes it.
    pub fn into_failure(self) -> Failure {
        let class = match self.kind {
            ErrorKind::Connection(class) => class,
            ErrorKind::Failed
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::EtagMismatch
            | ErrorKind::EtagInvalid => Class::Transient,
        };
        Failure::new(class, self.message)
    }
}

impl fmt::Display for ComponentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ComponentError {}
