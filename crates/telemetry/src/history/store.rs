//! The files of a history.
//!
//! Two of at most half a megabyte each, `<app id>.history.jsonl` and the one before it, `<app id>.history.1.jsonl`. Every
//! change is written when it happens; what is written survives the death of the process. A thread of its own writes, so
//! that a slow disk holds up nobody. The newest file is touched every few seconds: when a process dies without a word, its
//! successor knows since when it was silent.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use super::entry;
use crate::journal::{Change, Kind};

/// Bytes of a file before the next is begun.
const MOST: u64 = 512 * 1024;
/// Changes that wait for a slow disk.
const QUEUE: usize = 1_000;
/// How often the file is touched.
const TOUCH: Duration = Duration::from_secs(5);
/// Sidecars of one app that keep their history in one folder.
const NEIGHBOURS: usize = 64;

/// Keeps the history of a running sidecar.
#[derive(Debug)]
pub struct Writer {
    sender: Option<SyncSender<Change>>,
    thread: Option<JoinHandle<()>>,
    reader: Reader,
}

/// Reads a history, also that of a sidecar that is gone.
#[derive(Clone, Debug)]
pub struct Reader {
    newest: PathBuf,
    older: PathBuf,
}

impl Writer {
    /// Opens the history of an app, and notes how the process before this one ended.
    ///
    /// # Errors
    /// When the folder cannot be used; the path is named.
    pub fn open(folder: &Path, app_id: &str) -> Result<Self, String> {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("cannot make the folder {}: {error}", folder.display()))?;
        let (reader, file) = claim(folder, app_id)?;
        let (sender, changes) = sync_channel(QUEUE);
        let mut keeper = Keeper {
            file,
            reader: reader.clone(),
            has_begun: false,
            is_failing: false,
        };
        let outcome = keeper.begin();
        keeper.told(outcome);
        let thread = std::thread::Builder::new()
            .name("history".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || keeper.run(&changes))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self {
            sender: Some(sender),
            thread: Some(thread),
            reader,
        })
    }

    /// Takes a change; false when the disk is too slow for it.
    pub fn write(&self, change: Change) -> bool {
        self.sender
            .as_ref()
            .is_some_and(|sender| sender.try_send(change).is_ok())
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Writes what is left. Waits for the disk, so not to be called where that matters.
    pub fn close(mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The first name that no living neighbour has.
fn claim(folder: &Path, app_id: &str) -> Result<(Reader, File), String> {
    for number in 1..=NEIGHBOURS {
        let reader = Reader::numbered(folder, app_id, number);
        let path = reader.newest.clone();
        // Opening a pipe waits for its other end.
        if path.exists() && !path.is_file() {
            return Err(format!("{} is no regular file", path.display()));
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&path)
            .map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok((reader, file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(format!("cannot lock {}: {error}", path.display()));
            }
        }
    }
    Err(format!(
        "{NEIGHBOURS} sidecars of {app_id} keep their history in {} already",
        folder.display()
    ))
}

struct Keeper {
    file: File,
    reader: Reader,
    /// That this process runs has been written.
    has_begun: bool,
    is_failing: bool,
}

impl Keeper {
    /// What the process before left behind is ended, and this one begins.
    fn begin(&mut self) -> io::Result<()> {
        self.mend()?;
        let silent_since = self.file.metadata()?.modified()?;
        let last = self.reader.changes()?;
        let process = last
            .iter()
            .rev()
            .find(|change| change.kind == Kind::Process);
        let now = SystemTime::now();
        let state = |at, from: &str, to: &str, cause: Option<String>| Change {
            at,
            kind: Kind::Process,
            subject: String::new(),
            from: from.to_owned(),
            to: to.to_owned(),
            after: None,
            cause,
            class: None,
            refused: None,
        };
        let before = match process {
            Some(process) if process.to == "running" => {
                let since = silent_since.max(process.at).min(now);
                let lost = state(
                    since,
                    "running",
                    "lost",
                    Some(
                        "the process ended without a word: killed, or the machine went down"
                            .to_owned(),
                    ),
                );
                self.put(&lost)?;
                Some(lost)
            }
            other => other.cloned(),
        };
        let mut begun = state(
            now,
            "",
            "running",
            Some(format!("process {} has started", std::process::id())),
        );
        if let Some(before) = before {
            begun.after = now.duration_since(before.at).ok();
            begun.from = before.to;
        }
        self.put(&begun)?;
        self.has_begun = true;
        Ok(())
    }

    /// A line that was torn by the end of the process before is closed, so that the next one stands alone.
    fn mend(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length == 0 {
            return Ok(());
        }
        self.file.seek(SeekFrom::Start(length - 1))?;
        let mut last = [0];
        self.file.read_exact(&mut last)?;
        if last != *b"\n" {
            self.file.write_all(b"\n")?;
        }
        Ok(())
    }

    fn run(mut self, changes: &Receiver<Change>) {
        loop {
            match changes.recv_timeout(TOUCH) {
                Ok(change) => {
                    let outcome = self.append(&change);
                    self.told(outcome);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let outcome = if self.has_begun {
                        self.file.set_modified(SystemTime::now())
                    } else {
                        self.begin()
                    };
                    self.told(outcome);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// A disk that is full or gone is told once, and tried on.
    fn told(&mut self, outcome: io::Result<()>) {
        let is_failing = outcome.is_err();
        if let Err(error) = outcome
            && !self.is_failing
        {
            tracing::warn!(target: "dapr.runtime", file = %self.reader.newest.display(), err = %error, "the history cannot be written, trying on");
        }
        self.is_failing = is_failing;
    }

    /// A file that somebody has taken away is begun anew; what is written into it afterwards nobody could find.
    fn find_again(&mut self) -> io::Result<()> {
        if self.reader.newest.exists() {
            return Ok(());
        }
        if let Some(folder) = self.reader.newest.parent() {
            std::fs::create_dir_all(folder)?;
        }
        self.file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&self.reader.newest)?;
        self.file.try_lock().ok();
        tracing::warn!(target: "dapr.runtime", file = %self.reader.newest.display(), "the history was taken away, a new one is begun");
        Ok(())
    }

    fn append(&mut self, change: &Change) -> io::Result<()> {
        if !self.has_begun {
            self.begin()?;
        }
        self.put(change)
    }

    fn put(&mut self, change: &Change) -> io::Result<()> {
        self.find_again()?;
        if self.file.metadata()?.len() >= MOST {
            self.next_file()?;
        }
        // One call, so that a line is there whole or not at all.
        self.file.write_all(&entry::line(change))
    }

    fn next_file(&mut self) -> io::Result<()> {
        std::fs::rename(&self.reader.newest, &self.reader.older)?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .open(&self.reader.newest)?;
        // Nobody else can have it: the name was ours.
        file.try_lock().ok();
        self.file = file;
        Ok(())
    }
}

impl Reader {
    /// The history of an app in a folder; of several sidecars of it the first.
    pub fn new(folder: &Path, app_id: &str) -> Self {
        Self::numbered(folder, app_id, 1)
    }

    fn numbered(folder: &Path, app_id: &str, number: usize) -> Self {
        // An app id is no path.
        let safe: String = app_id
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        let name = if number == 1 {
            format!("{safe}.history")
        } else {
            format!("{safe}.{number}.history")
        };
        Self {
            newest: folder.join(format!("{name}.jsonl")),
            older: folder.join(format!("{name}.1.jsonl")),
        }
    }

    /// Every history in a folder, with the app id's part of its name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(folder: &Path) -> io::Result<Vec<(String, Self)>> {
        let mut all = Vec::new();
        for found in std::fs::read_dir(folder)? {
            let name = found?.file_name().to_string_lossy().into_owned();
            if let Some(id) = name.strip_suffix(".history.jsonl") {
                let reader = Self {
                    newest: folder.join(&name),
                    older: folder.join(format!("{id}.history.1.jsonl")),
                };
                all.push((id.to_owned(), reader));
            }
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all)
    }

    /// Everything that is kept, oldest first. Lines that are none are left out.
    ///
    /// # Errors
    /// When a file cannot be read; that there is none is no error.
    pub fn changes(&self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        for path in [&self.older, &self.newest] {
            let bytes = match std::fs::read(path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            changes.extend(bytes.split(|byte| *byte == b'\n').filter_map(entry::read));
        }
        Ok(changes)
    }

    pub fn path(&self) -> &Path {
        &self.newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("outrigger-history-{name}-{}", std::process::id()));
        std::fs::remove_dir_all(&folder).ok();
        folder
    }

    fn change(number: usize) -> Change {
        Change {
            at: SystemTime::now(),
            kind: Kind::Component,
            subject: format!("component-{number}"),
            from: "ready".to_owned(),
            to: "unavailable".to_owned(),
            after: None,
            cause: Some("x".repeat(200)),
            class: None,
            refused: None,
        }
    }

    fn processes(reader: &Reader) -> Vec<(String, String)> {
        let changes = reader.changes().unwrap();
        let own = changes.iter().filter(|change| change.kind == Kind::Process);
        own.map(|change| (change.from.clone(), change.to.clone()))
            .collect()
    }

    #[test]
    fn what_was_written_is_read_by_the_next_and_an_end_without_a_word_is_noted() {
        let folder = folder("next");
        let first = Writer::open(&folder, "orders").unwrap();
        assert!(first.write(change(1)));
        let reader = first.reader().clone();
        first.close();
        // The end of a line that a dying process did not finish.
        let mut torn = OpenOptions::new().append(true).open(reader.path()).unwrap();
        torn.write_all(b"{\"at\":\"2026-").unwrap();
        drop(torn);
        let second = Writer::open(&folder, "orders").unwrap();
        assert_eq!(second.reader().path(), reader.path());
        assert!(second.write(change(2)));
        second.close();
        let changes = reader.changes().unwrap();
        let subjects: Vec<&str> = changes
            .iter()
            .filter(|change| change.kind == Kind::Component)
            .map(|change| change.subject.as_str())
            .collect();
        assert_eq!(subjects, ["component-1", "component-2"]);
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(
            processes(&reader),
            [
                pair("", "running"),
                pair("running", "lost"),
                pair("lost", "running")
            ]
        );
        std::fs::remove_dir_all(&folder).ok();
    }

    #[test]
    fn a_folder_that_is_taken_away_is_made_again() {
        let folder = folder("again");
        let writer = Writer::open(&folder, "orders").unwrap();
        let reader = writer.reader().clone();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(writer.write(change(7)));
        writer.close();
        assert_eq!(reader.changes().unwrap().len(), 1);
        std::fs::remove_dir_all(&folder).ok();
    }

    #[test]
    fn two_sidecars_of_one_app_have_a_file_each() {
        let folder = folder("two");
        let first = Writer::open(&folder, "a/../b").unwrap();
        let second = Writer::open(&folder, "a/../b").unwrap();
        assert_ne!(first.reader().path(), second.reader().path());
        assert_eq!(first.reader().path().parent(), Some(folder.as_path()));
        assert_eq!(Reader::all(&folder).unwrap().len(), 2);
        first.close();
        second.close();
        std::fs::remove_dir_all(&folder).ok();
    }

    #[test]
    fn the_files_stay_small_and_the_newest_is_kept() {
        let folder = folder("small");
        let writer = Writer::open(&folder, "orders").unwrap();
        let reader = writer.reader().clone();
        for number in 0..6_000 {
            while !writer.write(change(number)) {
                std::thread::yield_now();
            }
        }
        writer.close();
        let size: u64 = [&reader.newest, &reader.older]
            .iter()
            .map(|path| std::fs::metadata(path).unwrap().len())
            .sum();
        assert!(size <= 2 * (MOST + 1_024), "{size}");
        let changes = reader.changes().unwrap();
        assert_eq!(changes.last().unwrap().subject, "component-5999");
        assert!(changes.len() > 1_000);
        std::fs::remove_dir_all(&folder).ok();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = Writer::open(Path::new("/proc/nowhere"), "a").unwrap_err();
        assert!(error.contains("/proc/nowhere"), "{error}");
    }
}
