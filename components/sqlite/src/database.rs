//! One database: its lanes of threads and how their connections are made.
//!
//! Owns: pragmas, the time a request may take, the order of the end.
//! Start at [`Database::open`].

use std::sync::Arc;
use std::time::Duration;

use outrigger_component_api::{ComponentError, Open};
use rusqlite::{Connection, OpenFlags};

use crate::connection_string::ConnectionString;
use crate::error::Failure;
use crate::lane::{Lane, LaneSettings};

/// All that is needed to connect.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) connection: ConnectionString,
    /// `None` where the mode cannot be changed.
    pub(crate) journal: Option<Journal>,
    /// Bounds each request.
    pub(crate) timeout: Duration,
    pub(crate) busy_timeout: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Journal {
    Wal,
    Delete,
    Memory,
}

/// Threads that read; with the one that writes there are four at most.
const READERS: usize = 3;
/// A reader without work goes, and its page cache with it.
const READER_IDLE: Duration = Duration::from_secs(30);
/// What a reader may cache, in KiB. Hot pages are in the system's cache anyway.
const READER_CACHE_KIB: u32 = 512;

/// An open database. The threads end when it is closed, dropped, or its scope stops.
pub(crate) struct Database {
    plan: Plan,
    writes: Arc<Lane>,
    /// The same lane where only one connection may exist.
    reads: Arc<Lane>,
}

impl Database {
    /// Connects and prepares the tables with `prepare`.
    ///
    /// # Errors
    /// When the file cannot be opened or prepared; always worth another try.
    pub(crate) async fn open(
        plan: Plan,
        open: &Open,
        prepare: impl FnMut(&mut Connection) -> Result<(), Failure> + Send + 'static,
    ) -> Result<Arc<Self>, ComponentError> {
        let writes = Lane::new(LaneSettings {
            thread_name: "sqlite-write",
            threads: 1,
            idle: None,
            busy_timeout: plan.busy_timeout,
            connect: {
                let plan = plan.clone();
                Box::new(move || connect(&plan, Role::Writer))
            },
            loss: Some(open.loss.clone()),
        });
        let reads = if plan.connection.in_memory {
            writes.clone()
        } else {
            Lane::new(LaneSettings {
                thread_name: "sqlite-read",
                threads: READERS,
                idle: Some(READER_IDLE),
                busy_timeout: plan.busy_timeout,
                connect: {
                    let plan = plan.clone();
                    Box::new(move || connect(&plan, Role::Reader))
                },
                loss: None,
            })
        };
        let database = Arc::new(Self {
            plan,
            writes,
            reads,
        });
        // Bounded by the supervisor; giving up closes the lanes.
        database
            .writes
            .call(prepare)
            .await
            .map_err(|failure| failure.into_open_error("cannot prepare the database"))?;
        Ok(database)
    }

    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, ComponentError>
    where
        T: Send + 'static,
        F: FnMut(&mut Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.bounded(self.writes.call(work)).await
    }

    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, ComponentError>
    where
        T: Send + 'static,
        F: FnMut(&mut Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.bounded(self.reads.call(work)).await
    }

    /// As [`Database::write`], for work in the background that may take its time.
    pub(crate) async fn write_unbounded<T, F>(&self, work: F) -> Result<T, ComponentError>
    where
        T: Send + 'static,
        F: FnMut(&mut Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.writes.call(work).await.map_err(Failure::into_error)
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, ComponentError> {
        match tokio::time::timeout(self.plan.timeout, call).await {
            Ok(result) => result.map_err(Failure::into_error),
            // Dapr: the request's context ends; clients match on this text.
            Err(_) => Err(ComponentError::timeout("context deadline exceeded")),
        }
    }

    /// Whether reads work. A lock held by somebody else is a sign of life.
    pub(crate) async fn ping(&self) -> Result<(), ComponentError> {
        let in_memory = self.plan.connection.in_memory;
        self.read(move |connection| {
            let read = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()));
            if let Err(failure) = read.map_err(Failure::Driver)
                && !failure.is_busy()
            {
                return Err(failure);
            }
            let path = connection.path().unwrap_or_default();
            if !in_memory && !path.is_empty() && !std::path::Path::new(path).exists() {
                let gone = ComponentError::transient(format!("the file {path} is gone"));
                return Err(Failure::Told(gone));
            }
            Ok(())
        })
        .await
    }

    /// Ends the threads and waits for them.
    pub(crate) async fn close(&self) {
        // One after the other: only the last connection to a file tidies its journal up, and two at once are no last.
        for lane in [&self.reads, &self.writes] {
            lane.close();
            lane.ended().await;
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.reads.close();
        self.writes.close();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Writer,
    Reader,
}

fn connect(plan: &Plan, role: Role) -> rusqlite::Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // A reader that comes later must not put an empty file in the place of one that vanished.
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, role == Role::Writer);
    let connection = Connection::open_with_flags(&plan.connection.uri, flags)?;
    connection.busy_timeout(Duration::ZERO)?;
    // Dapr: SQLite's own LIKE takes `a` and `A` for the same; ours does not, as all other stores.
    connection.execute_batch("PRAGMA case_sensitive_like = ON")?;
    if role == Role::Reader {
        connection.execute_batch(&format!("PRAGMA cache_size = -{READER_CACHE_KIB}"))?;
    }
    for pragma in &plan.connection.pragmas {
        connection.execute_batch(&format!("PRAGMA {pragma}"))?;
    }
    if role == Role::Writer
        && let Some(journal) = plan.journal
    {
        let word = match journal {
            Journal::Wal => "WAL",
            Journal::Delete => "DELETE",
            Journal::Memory => "MEMORY",
        };
        connection.execute_batch(&format!("PRAGMA journal_mode = {word}"))?;
    }
    Ok(connection)
}
