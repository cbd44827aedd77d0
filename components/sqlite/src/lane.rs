//! Threads that own connections, and the queue in front of them.
//!
//! A database has a lane of one thread that writes and, unless it is in memory, a lane of a few that read. A thread
//! starts when there is work for it and opens its connection itself. A caller that goes away takes its work back: what
//! still waits is skipped, what runs is interrupted.
//!
//! Owns: threads, their end, waiting for locks, cancellation. Never: knows a table.
//! Start at [`Lane::call`]. Tests: below, and `tests/` for locks held by other processes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outrigger_component_api::{Class, ComponentError, ErrorKind, Loss};
use rusqlite::{Connection, InterruptHandle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use crate::error::{Failure, closed};

/// Opens a connection; called on the thread that is going to own it.
pub(crate) type Connect = Box<dyn Fn() -> rusqlite::Result<Connection> + Send + Sync>;

/// How many calls may wait; more wait outside, without a place in the queue.
const QUEUE: usize = 1024;
/// The pause between two tries of a call that met a lock.
const PAUSE: Duration = Duration::from_millis(5);

/// What a lane is made of.
pub(crate) struct LaneSettings {
    pub(crate) thread_name: &'static str,
    pub(crate) threads: usize,
    /// A thread without work ends after this.
    pub(crate) idle: Option<Duration>,
    /// How long one statement waits for a lock; the call is then tried again from its beginning.
    pub(crate) busy_timeout: Duration,
    pub(crate) connect: Connect,
    /// Told when a thread breaks; only for a lane whose threads cannot be replaced.
    pub(crate) loss: Option<Loss>,
}

/// A queue and its threads.
pub(crate) struct Lane {
    settings: LaneSettings,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Read while waiting for locks.
    closing: AtomicBool,
    room: Arc<Semaphore>,
    running: watch::Sender<usize>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
    threads: usize,
    idle: usize,
}

/// Runs once; says `false` when it met a lock and is to be run again.
type Work = Box<dyn FnMut(Turn<'_>) -> bool + Send>;

struct Job {
    work: Work,
    ticket: Arc<Ticket>,
    _room: OwnedSemaphorePermit,
}

enum Turn<'a> {
    Connected {
        connection: &'a mut Connection,
        is_last: bool,
    },
    Failed(ComponentError),
}

/// One caller's claim to a thread.
#[derive(Default)]
struct Ticket {
    given_up: AtomicBool,
    /// Set while a thread works for this caller; the lock keeps an interrupt from hitting the next one.
    interrupt: Mutex<Option<Arc<InterruptHandle>>>,
}

impl Ticket {
    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::SeqCst)
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
        if let Some(handle) = &*lock(&self.interrupt) {
            handle.interrupt();
        }
    }

    fn may_be_interrupted_by(&self, handle: Option<Arc<InterruptHandle>>) {
        *lock(&self.interrupt) = handle;
    }
}

/// Gives up for a caller whose future is dropped before it has its answer.
struct Caller {
    ticket: Arc<Ticket>,
    is_served: bool,
}

impl Drop for Caller {
    fn drop(&mut self) {
        if !self.is_served {
            self.ticket.give_up();
        }
    }
}

impl Lane {
    pub(crate) fn new(settings: LaneSettings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            queue: Mutex::default(),
            wake: Condvar::new(),
            closing: AtomicBool::new(false),
            room: Arc::new(Semaphore::new(QUEUE)),
            running: watch::Sender::new(0),
        })
    }

    /// Runs `work` on one of the threads. It must be fit to run again from its beginning: that happens when it meets a
    /// lock of another connection.
    ///
    /// # Cancel safety
    /// Dropping the future interrupts the work; a transaction under way is rolled back, unless it is being committed.
    pub(crate) async fn call<T, F>(self: &Arc<Self>, mut work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnMut(&mut Connection) -> Result<T, Failure> + Send + 'static,
    {
        let room = self.room.clone().acquire_owned().await;
        let room = room.map_err(|_| closed())?;
        let ticket = Arc::new(Ticket::default());
        let mut caller = Caller {
            ticket: ticket.clone(),
            is_served: false,
        };
        let (sender, receiver) = oneshot::channel();
        let mut sender = Some(sender);
        let work: Work = Box::new(move |turn| {
            let result = match turn {
                Turn::Failed(error) => Err(Failure::Told(error)),
                Turn::Connected {
                    connection,
                    is_last,
                } => {
                    let result = work(connection);
                    if !is_last && result.as_ref().is_err_and(Failure::is_busy) {
                        return false;
                    }
                    result
                }
            };
            if let Some(sender) = sender.take() {
                sender.send(result).ok();
            }
            true
        });
        self.push(Job {
            work,
            ticket,
            _room: room,
        })?;
        let answer = receiver.await;
        caller.is_served = true;
        answer.map_err(|_| closed())?
    }

    fn push(self: &Arc<Self>, job: Job) -> Result<(), ComponentError> {
        let is_short_of_threads = {
            let mut queue = lock(&self.queue);
            if queue.closed {
                return Err(closed());
            }
            queue.jobs.push_back(job);
            let short = queue.idle < queue.jobs.len() && queue.threads < self.settings.threads;
            queue.threads += usize::from(short);
            short
        };
        self.wake.notify_one();
        if !is_short_of_threads {
            return Ok(());
        }
        self.running.send_modify(|count| *count += 1);
        let place = Place { lane: self.clone() };
        let started = std::thread::Builder::new()
            .name(self.settings.thread_name.to_owned())
            .stack_size(1 << 20)
            .spawn(move || place.lane.serve());
        match started {
            Ok(_) => Ok(()),
            // The place is free again; with other threads there the job is done by them.
            Err(_) if lock(&self.queue).threads > 0 => Ok(()),
            Err(error) => {
                let orphans = std::mem::take(&mut lock(&self.queue).jobs);
                drop(orphans);
                Err(ComponentError::transient(format!(
                    "cannot start a thread: {error}"
                )))
            }
        }
    }

    /// Lets no further work in, forgets what waits, and tells the threads to end. Does not wait.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.room.close();
        let orphans = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.jobs)
        };
        drop(orphans);
        self.wake.notify_all();
    }

    /// Waits until no thread is left.
    pub(crate) async fn ended(&self) {
        let mut running = self.running.subscribe();
        running.wait_for(|count| *count == 0).await.ok();
    }

    #[cfg(test)]
    pub(crate) fn threads(&self) -> usize {
        *self.running.borrow()
    }

    fn serve(self: &Arc<Self>) {
        let mut connection: Option<Opened> = None;
        while let Some(job) = self.next() {
            self.perform(job, &mut connection);
        }
        if let Some(opened) = &connection {
            // An interrupt that came too late stays in force until the next statement; it would keep the last
            // connection from writing the journal back into the file.
            opened.connection.execute_batch("SELECT 1").ok();
        }
    }

    /// Waits for work; `None` ends the thread.
    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            let (woken, is_over) = match self.settings.idle {
                None => (
                    self.wake
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner),
                    false,
                ),
                Some(limit) => {
                    let waited = self.wake.wait_timeout(queue, limit);
                    let (woken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
                    (woken, waited.timed_out())
                }
            };
            queue = woken;
            queue.idle -= 1;
            if is_over && queue.jobs.is_empty() {
                return None;
            }
        }
    }

    fn perform(self: &Arc<Self>, mut job: Job, connection: &mut Option<Opened>) {
        loop {
            if job.ticket.is_given_up() {
                return;
            }
            let is_last = self.closing.load(Ordering::SeqCst);
            if self.try_once(&mut job, connection, is_last) {
                return;
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// True when the caller has its answer.
    fn try_once(
        self: &Arc<Self>,
        job: &mut Job,
        connection: &mut Option<Opened>,
        is_last: bool,
    ) -> bool {
        let opened = match connection {
            Some(opened) => opened,
            None => match self.open(&job.ticket) {
                Ok(opened) => connection.insert(opened),
                Err(failure) if failure.is_busy() && !is_last => return false,
                Err(failure) => {
                    let error = failure.into_open_error("cannot open the database");
                    return (job.work)(Turn::Failed(error));
                }
            },
        };
        *lock(&opened.waiting) = Some(job.ticket.clone());
        job.ticket
            .may_be_interrupted_by(Some(opened.interrupt.clone()));
        let is_done = (job.work)(Turn::Connected {
            connection: &mut opened.connection,
            is_last,
        });
        job.ticket.may_be_interrupted_by(None);
        *lock(&opened.waiting) = None;
        is_done
    }

    fn open(self: &Arc<Self>, ticket: &Arc<Ticket>) -> Result<Opened, Failure> {
        let waiting = Arc::new(Mutex::new(Some(ticket.clone())));
        let mut connection = (self.settings.connect)()?;
        connection.busy_handler(Some(self.patience(waiting.clone())))?;
        Ok(Opened {
            interrupt: Arc::new(connection.get_interrupt_handle()),
            waiting,
            connection,
        })
    }

    /// Waits for locks of other connections as long as the settings say, but no longer than somebody waits for us.
    fn patience(
        self: &Arc<Self>,
        waiting: Arc<Mutex<Option<Arc<Ticket>>>>,
    ) -> impl FnMut(i32) -> bool + Send + 'static {
        let lane = Arc::downgrade(self);
        let limit = self.settings.busy_timeout;
        let mut since = Instant::now();
        move |round| {
            if round == 0 {
                since = Instant::now();
            }
            let is_wanted = || {
                let is_open = lane
                    .upgrade()
                    .is_some_and(|lane| !lane.closing.load(Ordering::SeqCst));
                is_open
                    && lock(&waiting)
                        .as_ref()
                        .is_none_or(|ticket| !ticket.is_given_up())
            };
            if !is_wanted() || since.elapsed() >= limit {
                return false;
            }
            let pause = Duration::from_millis(u64::try_from(round).unwrap_or(0).clamp(1, 20));
            std::thread::park_timeout(pause);
            is_wanted()
        }
    }
}

struct Opened {
    interrupt: Arc<InterruptHandle>,
    /// For whom the connection works; read while it waits for a lock.
    waiting: Arc<Mutex<Option<Arc<Ticket>>>>,
    connection: Connection,
}

/// A thread's place in its lane, given back however the thread ends.
struct Place {
    lane: Arc<Lane>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.lane.queue).threads -= 1;
        if std::thread::panicking()
            && let Some(loss) = &self.lane.settings.loss
        {
            self.lane.close();
            loss.report(ComponentError::new(
                ErrorKind::Connection(Class::Panic),
                "the thread of the database broke off",
            ));
        }
        self.lane.running.send_modify(|count| *count -= 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(threads: usize, idle: Option<Duration>) -> Arc<Lane> {
        Lane::new(LaneSettings {
            thread_name: "test",
            threads,
            idle,
            busy_timeout: Duration::from_millis(10),
            connect: Box::new(Connection::open_in_memory),
            loss: None,
        })
    }

    /// Counts for ever, or until interrupted.
    fn count_for_ever(connection: &mut Connection) -> Result<i64, Failure> {
        let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        Ok(connection.query_row(sql, [], |row| row.get(0))?)
    }

    fn one(connection: &mut Connection) -> Result<i64, Failure> {
        Ok(connection.query_row("SELECT 1", [], |row| row.get(0))?)
    }

    #[tokio::test]
    async fn no_thread_runs_before_the_first_call_or_after_the_end() {
        let lane = lane(2, None);
        assert_eq!(lane.threads(), 0);
        assert_eq!(lane.call(one).await.unwrap(), 1);
        assert_eq!(lane.threads(), 1);
        lane.close();
        lane.ended().await;
        assert_eq!(lane.threads(), 0);
        assert!(lane.call(one).await.is_err());
    }

    #[tokio::test]
    async fn a_caller_who_leaves_frees_the_thread() {
        let lane = lane(1, None);
        let long = lane.call(count_for_ever);
        let left = tokio::time::timeout(Duration::from_millis(50), long).await;
        assert!(left.is_err());
        let next = tokio::time::timeout(Duration::from_secs(10), lane.call(one)).await;
        assert_eq!(next.unwrap().unwrap(), 1);
        lane.close();
        lane.ended().await;
    }

    #[tokio::test]
    async fn work_of_a_caller_who_left_is_never_begun() {
        let lane = lane(1, None);
        let blocker = {
            let lane = lane.clone();
            async move {
                let long = lane.call(count_for_ever);
                tokio::time::timeout(Duration::from_millis(100), long)
                    .await
                    .ok();
            }
        };
        let ran = Arc::new(AtomicBool::new(false));
        let second = {
            let (lane, ran) = (lane.clone(), ran.clone());
            async move {
                let work = move |_: &mut Connection| {
                    ran.store(true, Ordering::SeqCst);
                    Ok(())
                };
                let call = lane.call(work);
                tokio::time::timeout(Duration::from_millis(20), call)
                    .await
                    .ok();
            }
        };
        tokio::join!(blocker, second);
        lane.call(one).await.unwrap();
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn threads_come_with_the_load_and_go_without_it() {
        let lane = lane(3, Some(Duration::from_millis(20)));
        let barrier = Arc::new(std::sync::Barrier::new(3));
        let meet = || {
            let barrier = barrier.clone();
            lane.call(move |_: &mut Connection| {
                barrier.wait();
                Ok(())
            })
        };
        let (a, b, c) = tokio::join!(meet(), meet(), meet());
        assert!(a.is_ok() && b.is_ok() && c.is_ok());
        tokio::time::timeout(Duration::from_secs(10), lane.ended())
            .await
            .unwrap();
        assert_eq!(lane.call(one).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn what_met_a_lock_runs_again() {
        let lane = lane(1, None);
        let mut tries = 0;
        let work = move |connection: &mut Connection| {
            tries += 1;
            if tries < 3 {
                let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
                return Err(Failure::Driver(rusqlite::Error::SqliteFailure(code, None)));
            }
            one(connection)
        };
        assert_eq!(lane.call(work).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_broken_thread_is_told_and_leaves_no_caller_waiting() {
        let (sender, mut losses) = tokio::sync::mpsc::channel(1);
        let lane = Lane::new(LaneSettings {
            thread_name: "test",
            threads: 1,
            idle: None,
            busy_timeout: Duration::ZERO,
            connect: Box::new(Connection::open_in_memory),
            loss: Some(Loss::new(sender)),
        });
        let broken = lane.call(|_| -> Result<(), Failure> { panic!("as intended") });
        assert!(broken.await.is_err());
        assert_eq!(
            losses.recv().await.unwrap().kind,
            ErrorKind::Connection(Class::Panic)
        );
        lane.ended().await;
        assert!(lane.call(one).await.is_err());
    }
}
