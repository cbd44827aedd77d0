//! Writes that wait at the same time share one commit.
//!
//! A commit waits for the disk, a write in memory does not. Who comes while the writer is busy with a commit is written
//! together with all others who came: each gets the verdict of its own statement, after the common commit.
//!
//! Owns: who waits, and what becomes of each when one of them fails. Tests: below, and `tests/state.rs`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use outrigger_component_api::ComponentError;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use crate::error::Failure;
use crate::write::{Statements, Write};

type Verdict = Result<(), ComponentError>;

#[derive(Default)]
pub(crate) struct Group {
    waiting: Mutex<Vec<Waiting>>,
}

struct Waiting {
    write: Write,
    verdict: oneshot::Sender<Verdict>,
}

impl Group {
    /// Puts a write in line. Whoever does so must see to it that [`Group::run`] runs afterwards.
    pub(crate) fn add(&self, write: Write) -> oneshot::Receiver<Verdict> {
        let (verdict, receiver) = oneshot::channel();
        lock(&self.waiting).push(Waiting { write, verdict });
        receiver
    }

    /// Writes all that waits, without those whose callers have left. What met a lock stays in line.
    pub(crate) fn run(&self, connection: &mut Connection, sql: &Statements) -> Result<(), Failure> {
        let mut batch = std::mem::take(&mut *lock(&self.waiting));
        batch.retain(|waiting| !waiting.verdict.is_closed());
        if batch.len() > 1 {
            match together(&batch, connection, sql) {
                Ok(verdicts) => {
                    for (waiting, verdict) in batch.into_iter().zip(verdicts) {
                        waiting.verdict.send(verdict).ok();
                    }
                    return Ok(());
                }
                Err(failure) if failure.is_busy() => {
                    self.put_back(batch);
                    return Err(failure);
                }
                // One of them, or the caller on whose behalf we run and who has left, spoiled it for all.
                Err(_) => {}
            }
        }
        self.one_by_one(batch, connection, sql)
    }

    fn one_by_one(
        &self,
        batch: Vec<Waiting>,
        connection: &Connection,
        sql: &Statements,
    ) -> Result<(), Failure> {
        let mut rest = batch.into_iter();
        while let Some(waiting) = rest.next() {
            match waiting.write.run(connection, sql) {
                Err(failure) if failure.is_busy() => {
                    self.put_back(std::iter::once(waiting).chain(rest).collect());
                    return Err(failure);
                }
                result => {
                    let verdict = result.map_err(Failure::into_error);
                    waiting.verdict.send(verdict).ok();
                }
            }
        }
        Ok(())
    }

    fn put_back(&self, mut batch: Vec<Waiting>) {
        let mut waiting = lock(&self.waiting);
        batch.append(&mut waiting);
        *waiting = batch;
    }
}

/// A write is one statement, which happens or does not; what it refuses leaves the others untouched.
fn together(
    batch: &[Waiting],
    connection: &mut Connection,
    sql: &Statements,
) -> Result<Vec<Verdict>, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut verdicts = Vec::with_capacity(batch.len());
    for waiting in batch {
        // The lock may have taken its time.
        if waiting.verdict.is_closed() {
            verdicts.push(Ok(()));
            continue;
        }
        verdicts.push(match waiting.write.run(&transaction, sql) {
            Ok(()) => Ok(()),
            Err(Failure::Told(error)) => Err(error),
            Err(failure) => return Err(failure),
        });
    }
    transaction.commit()?;
    Ok(verdicts)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::Expected;
    use outrigger_component_api::ErrorKind;

    fn database() -> (Connection, Statements) {
        let connection = Connection::open_in_memory().unwrap();
        let sql = Statements::over("state");
        connection.execute_batch(&sql.create).unwrap();
        (connection, sql)
    }

    fn set(key: &str, expected: Expected) -> Write {
        Write::Set {
            key: key.to_owned(),
            text: "1".to_owned(),
            is_binary: false,
            expiry: None,
            expected,
        }
    }

    fn keys(connection: &Connection) -> Vec<String> {
        let mut statement = connection
            .prepare("SELECT key FROM state ORDER BY key")
            .unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn each_write_of_a_group_gets_its_own_verdict() {
        let ((mut connection, sql), group) = (database(), Group::default());
        let mut verdicts = [
            set("a", Expected::Anything),
            set("b", Expected::Etag("none".into())),
            set("a", Expected::Nothing),
            set("c", Expected::Nothing),
        ]
        .map(|write| group.add(write));
        group.run(&mut connection, &sql).unwrap();
        let kinds = verdicts.each_mut().map(|verdict| {
            let verdict = verdict.try_recv().unwrap();
            verdict.err().map(|error| error.kind)
        });
        let mismatch = Some(ErrorKind::EtagMismatch);
        assert_eq!(kinds, [None, mismatch, mismatch, None]);
        assert_eq!(keys(&connection), ["a", "c"]);
    }

    #[test]
    fn one_that_cannot_be_written_does_not_harm_the_others() {
        let ((mut connection, sql), group) = (database(), Group::default());
        connection
            .execute_batch(
                "CREATE TRIGGER t BEFORE INSERT ON state WHEN new.key = 'bad'
                 BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
            )
            .unwrap();
        let mut verdicts = ["a", "bad", "c"].map(|key| group.add(set(key, Expected::Anything)));
        group.run(&mut connection, &sql).unwrap();
        let told = verdicts
            .each_mut()
            .map(|verdict| verdict.try_recv().unwrap().is_ok());
        assert_eq!(told, [true, false, true]);
        assert_eq!(keys(&connection), ["a", "c"]);
        assert!(connection.is_autocommit());
    }

    #[test]
    fn a_caller_who_left_is_passed_over() {
        let ((mut connection, sql), group) = (database(), Group::default());
        drop(group.add(set("left", Expected::Anything)));
        let _stays = group.add(set("stays", Expected::Anything));
        group.run(&mut connection, &sql).unwrap();
        group.run(&mut connection, &sql).unwrap();
        assert_eq!(keys(&connection), ["stays"]);
    }
}
