//! What the kernel tells of processes, and namespaces of a test's own.
//!
//! Namespaces need root, or a kernel that lets users have their own; without, such a test fails and says so.

use rustix::process::{Pid, test_kill_process};

/// Programs that start another in new namespaces: `unshare` with these flags, as root of a new user namespace where we
/// are not root.
pub fn unshare(flags: &[&str]) -> Vec<String> {
    let mut words = vec!["unshare".to_owned()];
    if !rustix::process::geteuid().is_root() {
        words.extend(["--user", "--map-root-user"].map(str::to_owned));
    }
    words.extend(flags.iter().map(ToString::to_string));
    words
}

/// A program that runs another in namespaces of a process, such as `--net`.
pub fn enter(id: i32, namespaces: &[&str]) -> Vec<String> {
    let mut words = vec!["nsenter".to_owned(), format!("--target={id}")];
    if !rustix::process::geteuid().is_root() {
        words.extend(["--user", "--preserve-credentials"].map(str::to_owned));
    }
    words.extend(namespaces.iter().map(ToString::to_string));
    words
}

/// Whether there is such a process, one that has ended and was not waited for included.
pub fn exists(id: i32) -> bool {
    Pid::from_raw(id).is_some_and(|id| test_kill_process(id).is_ok())
}

/// A process's children.
pub fn children(id: i32) -> Vec<i32> {
    let own = |entry: std::fs::DirEntry| -> Option<i32> {
        let child: i32 = entry.file_name().to_str()?.parse().ok()?;
        (stat(child)?.1 == id).then_some(child)
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(own).collect()
}

/// A letter: `S` sleeps, `T` is stopped, `Z` has ended and was not waited for. Nothing if it is gone.
pub fn state(id: i32) -> Option<char> {
    stat(id).map(|(state, _)| state)
}

/// State and parent.
fn stat(id: i32) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut words = rest.split_ascii_whitespace();
    Some((words.next()?.chars().next()?, words.next()?.parse().ok()?))
}
