//! What an error of the driver means.
//!
//! Owns: the class of a failed connection, and which answers concern one channel only.
//! Tests: below; with a real broker in tests/broker/.

use std::io;

use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::{Error, ErrorKind};
use outrigger_component_api::{Class, ComponentError, ErrorKind as Kind};

/// The broker's own answer, if it is that.
pub(crate) fn answer(error: &Error) -> Option<&AMQPError> {
    match error.kind() {
        ErrorKind::ProtocolError(answer) => Some(answer),
        _ => None,
    }
}

/// The broker knows no such exchange or queue.
pub(crate) fn is_not_found(error: &Error) -> bool {
    answer(error)
        .is_some_and(|answer| *answer.kind() == AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}

/// The class of an error that ended a connection, or kept it from being made.
pub(crate) fn class(error: &Error) -> Class {
    match error.kind() {
        ErrorKind::IOError(error) => io_class(error),
        ErrorKind::MissingHeartbeatError => Class::Timeout,
        ErrorKind::ProtocolError(answer) => match answer.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
            // A virtual host that is not there, or not for us: somebody will fix that on the broker.
            | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Class::Auth,
            _ => Class::Transient,
        },
        ErrorKind::AuthProviderError(_) => Class::Auth,
        _ => Class::Transient,
    }
}

/// The class of an error of the socket or of TLS.
pub(crate) fn io_class(error: &io::Error) -> Class {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(error) if is_distrust(error) => Class::Auth,
        Some(_) => Class::Transient,
        None if error.kind() == io::ErrorKind::TimedOut => Class::Timeout,
        None => Class::Transient,
    }
}

/// One side does not accept who the other is.
fn is_distrust(error: &rustls::Error) -> bool {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::CertificateRequired
        ),
        _ => false,
    }
}

/// An error that ended a connection, or kept it from being made.
pub(crate) fn connection(error: &Error, doing: &str) -> ComponentError {
    ComponentError::new(
        Kind::Connection(class(error)),
        format!("{doing}: {}", text(error)),
    )
}

/// An error of a call. What the broker said about one channel leaves the connection out of doubt.
pub(crate) fn call(error: &Error, doing: &str) -> ComponentError {
    if answer(error).is_some_and(|answer| matches!(answer.kind(), AMQPErrorKind::Soft(_))) {
        return ComponentError::failed(format!("{doing}: {}", text(error)));
    }
    connection(error, doing)
}

fn text(error: &Error) -> String {
    match error.kind() {
        // The broker's words begin with the name of the code.
        ErrorKind::ProtocolError(answer) => answer.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidChannel(_) => {
            "the channel is closed".to_owned()
        }
        ErrorKind::InvalidConnectionState(_) => "the connection is closed".to_owned(),
        ErrorKind::MissingHeartbeatError => "the broker sends no heartbeat".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soft(error: AMQPSoftError) -> Error {
        ErrorKind::ProtocolError(AMQPError::new(error.into(), "WHY - because".into())).into()
    }

    fn hard(error: AMQPHardError) -> Error {
        ErrorKind::ProtocolError(AMQPError::new(error.into(), "WHY - because".into())).into()
    }

    fn io(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        io::Error::new(io::ErrorKind::InvalidData, error).into()
    }

    #[test]
    fn an_error_of_a_connection_has_a_class() {
        for (error, expected) in [
            (soft(AMQPSoftError::ACCESSREFUSED), Class::Auth),
            (hard(AMQPHardError::NOTALLOWED), Class::Auth),
            (hard(AMQPHardError::CONNECTIONFORCED), Class::Transient),
            (hard(AMQPHardError::INTERNALERROR), Class::Transient),
            (ErrorKind::MissingHeartbeatError.into(), Class::Timeout),
            (
                io::Error::from(io::ErrorKind::ConnectionRefused).into(),
                Class::Transient,
            ),
            (
                io::Error::from(io::ErrorKind::TimedOut).into(),
                Class::Timeout,
            ),
            (
                io(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::UnknownIssuer,
                )),
                Class::Auth,
            ),
            (
                io(rustls::Error::AlertReceived(
                    rustls::AlertDescription::UnknownCA,
                )),
                Class::Auth,
            ),
            (
                io(rustls::Error::AlertReceived(
                    rustls::AlertDescription::InternalError,
                )),
                Class::Transient,
            ),
        ] {
            assert_eq!(class(&error), expected, "{error}");
        }
    }

    #[test]
    fn what_the_broker_says_about_a_channel_does_not_doubt_the_connection() {
        let told = call(&soft(AMQPSoftError::ACCESSREFUSED), "publishing to `t`");
        assert_eq!(told.kind, Kind::Failed);
        assert_eq!(told.message, "publishing to `t`: WHY - because");
        assert!(call(&hard(AMQPHardError::CHANNELERROR), "x").doubts_connection());
        assert!(
            call(&io::Error::from(io::ErrorKind::ConnectionReset).into(), "x").doubts_connection()
        );
    }
}
