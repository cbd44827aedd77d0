//! What an error of SQLite means to the runtime.
//!
//! Owns: the decision whether the connection is in doubt, and whether to try once more.

use outrigger_component_api::{Class, ComponentError, ErrorKind};
use rusqlite::ErrorCode;

/// Why a piece of work on a connection came to nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    Driver(rusqlite::Error),
    Told(ComponentError),
}

impl Failure {
    /// Another connection holds a lock: worth another try.
    pub(crate) fn is_busy(&self) -> bool {
        let Self::Driver(error) = self else {
            return false;
        };
        matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }

    /// As a caller of an operation hears it.
    pub(crate) fn into_error(self) -> ComponentError {
        let error = match self {
            Self::Told(error) => return error,
            Self::Driver(error) => error,
        };
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => ErrorKind::Connection(Class::Timeout),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::CannotOpen
                | ErrorCode::NotADatabase
                | ErrorCode::FileLockingProtocolFailed,
            ) => ErrorKind::Connection(Class::Transient),
            _ => ErrorKind::Failed,
        };
        ComponentError::new(kind, error.to_string())
    }

    /// As the supervisor hears it when an instance cannot be opened. Whatever is wrong with a file can be mended
    /// without a change of the resource, so that it is always tried again.
    pub(crate) fn into_open_error(self, doing: &str) -> ComponentError {
        match self {
            Self::Told(error) if error.doubts_connection() => error,
            Self::Told(error) => ComponentError::transient(format!("{doing}: {error}")),
            Self::Driver(error) => ComponentError::transient(format!("{doing}: {error}")),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Driver(error)
    }
}

impl From<ComponentError> for Failure {
    fn from(error: ComponentError) -> Self {
        Self::Told(error)
    }
}

/// The instance has been let go.
pub(crate) fn closed() -> ComponentError {
    ComponentError::transient("the database is closed")
}
