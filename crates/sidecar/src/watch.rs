//! Files that change on disk are read again without being told to: those of resources, and those of the Configuration.
//!
//! The folders are looked at, not subscribed to: that works on every file system, mounts of containers and their swapped
//! links included, and costs a few calls a second. Changes are taken over once they have come to rest. A file that is
//! gone or empty may be about to be written, so that takes longer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_lifecycle::Stop;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tracing::info;

use crate::files::resource_files;
use crate::reload::{Resources, refresh};

/// How often the folders are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How often while something changes.
const REST: Duration = Duration::from_millis(250);
/// Looks that have to show the same before it is taken over.
const CALM: u32 = 1;
/// The same where a file has gone.
const CALM_WITHOUT: u32 = 4;
/// The same where it is empty: whoever writes it may be held up by a slow disk.
const CALM_EMPTY: u32 = 8;
/// Changes that never come to rest are taken over after so many looks.
const PATIENCE: u32 = 20;

/// What is watched.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    /// Of resources.
    pub folders: Vec<String>,
    /// Of the Configuration.
    pub files: Vec<String>,
}

/// What tells a changed file from an unchanged one. Its path leads through links to what they name now.
pub(crate) type Seen = BTreeMap<PathBuf, Facts>;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Facts {
    modified: Option<SystemTime>,
    length: u64,
    /// Device, number and last change of any kind.
    identity: (u64, u64, i64, i64),
}

impl Watched {
    pub(crate) fn is_empty(&self) -> bool {
        self.folders.is_empty() && self.files.is_empty()
    }
}

/// Looks until it is stopped.
pub(crate) async fn run(resources: Arc<Mutex<Resources>>, watched: Watched, stop: Stop) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        let seen = look(&watched).await;
        if seen == resources.lock().await.seen {
            continue;
        }
        info!(target: "dapr.runtime", "resource files have changed");
        tokio::select! {
            () = stop.cancelled() => return,
            () = refresh(&resources) => {}
        }
    }
}

/// Waits until files that are not as they were known have come to rest; what they are then.
pub(crate) async fn at_rest(watched: &Watched, known: &Seen) -> Seen {
    let mut change = Change::new(look(watched).await);
    while !change.is_at_rest(known) {
        sleep(REST).await;
        change.again(look(watched).await);
    }
    change.seen
}

/// A change under way.
struct Change {
    seen: Seen,
    /// How often nothing new was seen.
    calm: u32,
    looks: u32,
}

impl Change {
    fn new(seen: Seen) -> Self {
        Self {
            seen,
            calm: 0,
            looks: 0,
        }
    }

    fn again(&mut self, seen: Seen) {
        self.looks += 1;
        if seen == self.seen {
            self.calm += 1;
        } else {
            self.calm = 0;
            self.seen = seen;
        }
    }

    fn is_at_rest(&self, known: &Seen) -> bool {
        if self.looks == 0 && self.seen == *known {
            return true;
        }
        let (mut calm, mut patience) = (CALM, PATIENCE);
        for (path, _) in known.iter().filter(|(_, facts)| facts.length > 0) {
            let needs = match self.seen.get(path) {
                None => CALM_WITHOUT,
                Some(facts) if facts.length == 0 => CALM_EMPTY,
                Some(_) => continue,
            };
            (calm, patience) = (calm.max(needs), 2 * PATIENCE);
        }
        self.calm >= calm || self.looks >= patience
    }
}

pub(crate) async fn look(watched: &Watched) -> Seen {
    let watched = watched.clone();
    // Files may lie on slow disks; nothing else waits for them.
    tokio::task::spawn_blocking(move || {
        let folders = watched.folders.iter();
        let files = folders.flat_map(|folder| resource_files(folder));
        let files = files.chain(watched.files.iter().map(PathBuf::from));
        files.map(|path| (path.clone(), facts(&path))).collect()
    })
    .await
    .unwrap_or_default()
}

fn facts(path: &Path) -> Facts {
    std::fs::metadata(path).map_or_else(
        |_| Facts::default(),
        |about| Facts {
            modified: about.modified().ok(),
            length: about.len(),
            identity: identity(&about),
        },
    )
}

#[cfg(unix)]
fn identity(about: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    use std::os::unix::fs::MetadataExt as _;
    (about.dev(), about.ino(), about.ctime(), about.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    Default::default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A folder of its own; removed when it is dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let id = std::process::id();
            let path = std::env::temp_dir().join(format!("outrigger-watch-{name}-{id}"));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn at(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn watched(&self) -> Watched {
            Watched {
                folders: vec![self.0.display().to_string()],
                files: Vec::new(),
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[tokio::test]
    async fn a_change_shows_whichever_way_it_was_made() {
        let folder = Folder::new("ways");
        let (path, watched) = (folder.at("a.yaml"), folder.watched());
        fs::write(&path, "a").unwrap();
        let first = look(&watched).await;
        fs::write(&path, "ab").unwrap();
        let longer = look(&watched).await;
        assert_ne!(first, longer);
        fs::write(folder.at("new"), "cd").unwrap();
        fs::rename(folder.at("new"), &path).unwrap();
        let renamed = look(&watched).await;
        assert_ne!(longer, renamed);
        // Another text of the same length, with the old time put back.
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut &file, b"ef").unwrap();
        file.set_modified(before).unwrap();
        drop(file);
        assert_ne!(renamed, look(&watched).await);
        fs::remove_file(&path).unwrap();
        assert!(look(&watched).await.is_empty());
    }

    #[tokio::test]
    async fn what_editors_leave_beside_a_file_does_not_count() {
        let folder = Folder::new("editors");
        fs::write(folder.at("a.yaml"), "a").unwrap();
        let before = look(&folder.watched()).await;
        for name in [
            ".a.yaml.swp",
            "a.yaml~",
            "#a.yaml#",
            "a.yaml.bak",
            "4913",
            "._a.yaml",
            "notes.txt",
        ] {
            fs::write(folder.at(name), "x").unwrap();
        }
        // Emacs locks a file by a link that leads nowhere.
        symlink("somebody@host.1234", folder.at(".#a.yaml")).unwrap();
        assert_eq!(look(&folder.watched()).await, before);
    }

    #[tokio::test]
    async fn a_swapped_link_is_a_change_of_all_files_behind_it() {
        let folder = Folder::new("links");
        for version in ["..v1", "..v2"] {
            fs::create_dir_all(folder.at(version)).unwrap();
            fs::write(folder.at(version).join("a.yaml"), "same").unwrap();
        }
        symlink("..v1", folder.at("..data")).unwrap();
        symlink("..data/a.yaml", folder.at("a.yaml")).unwrap();
        let before = look(&folder.watched()).await;
        assert_eq!(before.len(), 1, "{before:?}");
        symlink("..v2", folder.at("..data_tmp")).unwrap();
        fs::rename(folder.at("..data_tmp"), folder.at("..data")).unwrap();
        let after = look(&folder.watched()).await;
        assert_ne!(before, after);
        assert_eq!(after.len(), 1);
    }

    #[tokio::test]
    async fn files_of_the_configuration_are_looked_at_themselves() {
        let folder = Folder::new("configuration");
        let path = folder.at("config");
        let watched = Watched {
            folders: Vec::new(),
            files: vec![path.display().to_string()],
        };
        let absent = look(&watched).await;
        fs::write(&path, "a").unwrap();
        assert_ne!(absent, look(&watched).await);
    }

    fn seen(files: &[(&str, u64)]) -> Seen {
        let facts = |length| Facts {
            length,
            ..Facts::default()
        };
        let files = files.iter();
        files
            .map(|(path, length)| (PathBuf::from(path), facts(*length)))
            .collect()
    }

    /// How many looks it takes until what is seen then is taken over.
    fn looks(known: &Seen, course: &[Seen]) -> (u32, Seen) {
        let mut course = course.iter().cloned();
        let mut change = Change::new(course.next().unwrap());
        while !change.is_at_rest(known) {
            let next = course.next().unwrap_or_else(|| change.seen.clone());
            change.again(next);
        }
        (change.looks, change.seen)
    }

    #[test]
    fn a_file_that_is_written_in_pieces_is_taken_over_when_it_is_whole() {
        let known = seen(&[("a", 10)]);
        let pieces = [3, 6, 9, 12].map(|length| seen(&[("a", length)]));
        assert_eq!(looks(&known, &pieces), (4, pieces[3].clone()));
    }

    #[test]
    fn a_file_that_is_gone_or_empty_may_be_about_to_come_back() {
        let known = seen(&[("a", 10), ("b", 0)]);
        for (between, calm) in [
            (seen(&[("a", 0), ("b", 0)]), CALM_EMPTY),
            (seen(&[("b", 0)]), CALM_WITHOUT),
        ] {
            let back = seen(&[("a", 12), ("b", 0)]);
            let course = [
                between.clone(),
                between.clone(),
                between.clone(),
                back.clone(),
            ];
            assert_eq!(looks(&known, &course), (4, back));
            assert_eq!(
                looks(&known, std::slice::from_ref(&between)),
                (calm, between)
            );
        }
    }

    #[test]
    fn what_has_not_changed_is_at_rest() {
        let known = seen(&[("a", 10)]);
        assert_eq!(looks(&known, std::slice::from_ref(&known)).0, 0);
    }

    #[test]
    fn changes_without_an_end_are_taken_over_all_the_same() {
        let known = seen(&[("a", 10)]);
        let restless: Vec<Seen> = (0..100).map(|length| seen(&[("a", length)])).collect();
        assert_eq!(looks(&known, &restless[1..]).0, PATIENCE);
        // Not in a moment in which the file is empty.
        let mut course = restless[1..].to_vec();
        let last = usize::try_from(PATIENCE).unwrap();
        course[last] = restless[0].clone();
        assert_eq!(looks(&known, &course).0, PATIENCE + 1);
    }
}
