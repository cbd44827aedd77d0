//! What a failed command means.
//!
//! The server's answer is classed here, where it is still known: whether the connection is to be doubted, whether the
//! command was carried out, and what an operator reads. Credentials are cut out before a text leaves the login.

use std::fmt;
use std::time::Duration;

use outrigger_component_api::{Class, ComponentError, ErrorKind, duration};

/// Why a command has no answer to use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// The server refused, in these words.
    Refused(String),
    /// The connection ended, or was never there.
    Lost(String),
    Timeout(String),
    /// One side does not accept the other's certificate.
    Untrusted(String),
    /// The answer has a form that the command does not have.
    Odd(String),
}

/// Where a cluster wants the command to go instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Redirect {
    /// The slot lies elsewhere for good.
    Moved,
    /// This once; `host:port`.
    Ask(String),
}

impl Failure {
    pub(crate) fn refused(error: &redis::ServerError) -> Self {
        Self::Refused(match error.details() {
            Some(details) => format!("{} {details}", error.code()),
            None => error.code().to_owned(),
        })
    }

    pub(crate) fn late(server: impl fmt::Display, limit: Duration) -> Self {
        let limit = duration::format_go(limit);
        Self::Timeout(format!("no answer from redis at {server} within {limit}"))
    }

    pub(crate) fn odd(command: &str) -> Self {
        Self::Odd(format!("redis gave an unexpected answer to {command}"))
    }

    /// The first word of a refusal.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(line) => line.split(' ').next(),
            Self::Lost(_) | Self::Timeout(_) | Self::Untrusted(_) | Self::Odd(_) => None,
        }
    }

    pub(crate) fn is(&self, code: &str) -> bool {
        self.code() == Some(code)
    }

    /// The command was not carried out, and soon may be.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self.code(),
            Some("LOADING" | "CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN")
        )
    }

    /// This connection will not serve again, although it stands.
    pub(crate) fn ends_connection(&self) -> bool {
        matches!(self.code(), Some("READONLY" | "NOAUTH"))
    }

    pub(crate) fn redirect(&self) -> Option<Redirect> {
        let Self::Refused(line) = self else {
            return None;
        };
        let mut words = line.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some("MOVED"), Some(_), Some(_)) => Some(Redirect::Moved),
            (Some("ASK"), Some(_), Some(to)) => Some(Redirect::Ask(to.to_owned())),
            _ => None,
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Lost(_) => ErrorKind::Connection(Class::Transient),
            Self::Timeout(_) => ErrorKind::Connection(Class::Timeout),
            Self::Untrusted(_) => ErrorKind::Connection(Class::Auth),
            Self::Odd(_) => ErrorKind::Failed,
            Self::Refused(line) => match self.code() {
                Some(
                    "LOADING" | "READONLY" | "CLUSTERDOWN" | "MASTERDOWN" | "TRYAGAIN" | "MOVED"
                    | "ASK" | "BUSY",
                ) => ErrorKind::Connection(Class::Transient),
                Some("NOAUTH" | "WRONGPASS" | "DENIED") => ErrorKind::Connection(Class::Auth),
                Some("ERR") if refuses_login(line) => ErrorKind::Connection(Class::Auth),
                Some("ERR") if line.contains("max number of clients") => {
                    ErrorKind::Connection(Class::Transient)
                }
                _ => ErrorKind::Failed,
            },
        }
    }

    /// The failure of a call.
    pub(crate) fn into_error(self) -> ComponentError {
        ComponentError::new(self.kind(), self.to_string())
    }

    /// The failure of a call, behind what was attempted.
    pub(crate) fn during(self, attempt: impl fmt::Display) -> ComponentError {
        ComponentError::new(self.kind(), format!("{attempt}: {self}"))
    }

    /// The failure of a login, a ping or a look-up: whatever the server said, it does not serve.
    pub(crate) fn of_connection(self, server: impl fmt::Display) -> ComponentError {
        let kind = match self.kind() {
            kind @ ErrorKind::Connection(_) => kind,
            _ if self.is("NOPERM") => ErrorKind::Connection(Class::Auth),
            _ => ErrorKind::Connection(Class::Transient),
        };
        ComponentError::new(
            kind,
            format!("error connecting to redis at {server}: {self}"),
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text)
            | Self::Lost(text)
            | Self::Timeout(text)
            | Self::Untrusted(text)
            | Self::Odd(text) => f.write_str(text),
        }
    }
}

/// Servers before version 6 have no code of their own for this.
fn refuses_login(line: &str) -> bool {
    [
        "ERR invalid password",
        "ERR Client sent AUTH",
        "ERR AUTH ",
        "ERR wrong number of arguments for 'auth'",
    ]
    .iter()
    .any(|start| line.starts_with(start))
}

/// The operating system's words without its numbers.
pub(crate) fn io_text(error: &std::io::Error) -> String {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::ConnectionRefused => "connection refused".to_owned(),
        Io::ConnectionReset => "connection reset by peer".to_owned(),
        Io::TimedOut => "connection timed out".to_owned(),
        Io::HostUnreachable => "no route to host".to_owned(),
        Io::NetworkUnreachable => "network is unreachable".to_owned(),
        Io::UnexpectedEof => "connection closed by the server".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str) -> ErrorKind {
        Failure::Refused(line.to_owned()).kind()
    }

    #[test]
    fn answers_are_classed() {
        use Class::{Auth, Transient};
        for (line, class) in [
            ("LOADING Redis is loading the dataset in memory", Transient),
            (
                "READONLY You can't write against a read only replica.",
                Transient,
            ),
            ("CLUSTERDOWN The cluster is down", Transient),
            ("MASTERDOWN Link with MASTER is down", Transient),
            ("BUSY Redis is busy running a script.", Transient),
            ("ERR max number of clients reached", Transient),
            ("NOAUTH Authentication required.", Auth),
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                Auth,
            ),
            ("ERR invalid password", Auth),
            (
                "ERR AUTH <password> called without any password configured for the default user.",
                Auth,
            ),
            ("ERR Client sent AUTH, but no password is set", Auth),
            ("DENIED Redis is running in protected mode", Auth),
        ] {
            assert_eq!(kind(line), ErrorKind::Connection(class), "{line}");
        }
        for line in [
            "WRONGTYPE x",
            "OOM command not allowed",
            "NOPERM x",
            "ERR x",
        ] {
            assert_eq!(kind(line), ErrorKind::Failed, "{line}");
        }
    }

    #[test]
    fn a_refused_login_is_never_a_plain_failure() {
        let class = |line: &str| {
            Failure::Refused(line.to_owned())
                .of_connection("h:1")
                .into_failure()
                .class
        };
        assert_eq!(class("NOPERM this user has no permissions"), Class::Auth);
        assert_eq!(class("ERR unknown command"), Class::Transient);
    }

    #[test]
    fn redirections_are_read() {
        let redirect = |line: &str| Failure::Refused(line.to_owned()).redirect();
        assert_eq!(redirect("MOVED 12 h:1"), Some(Redirect::Moved));
        assert_eq!(redirect("ASK 12 h:1"), Some(Redirect::Ask("h:1".into())));
        assert_eq!(redirect("ERR x"), None);
    }

    #[test]
    fn only_refusals_before_the_deed_are_tried_again() {
        assert!(Failure::Refused("TRYAGAIN x".into()).is_passing());
        assert!(!Failure::Refused("BUSY x".into()).is_passing());
        assert!(!Failure::Lost("x".into()).is_passing());
        assert!(!Failure::Timeout("x".into()).is_passing());
    }
}
