//! Everything that descends from the app: what it leaves behind becomes our child, is told to end with it, and reaped.
//!
//! Who was our child before the app was started (a script may have started something and then become us) is reaped, and
//! left alone otherwise.

use std::collections::HashSet;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, waitid, waitpid,
};

use super::process::Process;

#[derive(Debug, Default)]
pub(super) struct Family {
    /// Children from before the app.
    strangers: HashSet<Pid>,
    /// Who has been told to end: processes, and the groups of the app.
    told: HashSet<Pid>,
}

impl Family {
    /// From now on orphans come to us, not to the first process of the machine.
    pub(super) fn adopting() -> Self {
        system::adopt_orphans();
        Self {
            strangers: system::children().into_iter().collect(),
            told: HashSet::new(),
        }
    }

    /// Takes note of the ends of all but the app itself, which is asked for its exit code.
    pub(super) fn reap(&mut self, app: Option<&Process>) {
        let app = app.filter(|app| !app.is_reaped()).map(Process::id);
        for child in system::children() {
            if Some(child) != app
                && matches!(waitpid(Some(child), WaitOptions::NOHANG), Ok(Some(_)))
            {
                self.strangers.remove(&child);
                self.told.remove(&child);
            }
        }
    }

    /// Whether anything is left after the app's end.
    pub(super) fn has_rest(&self, app: &Process) -> bool {
        app.has_group() || self.adopted().next().is_some() || self.has_overlooked()
    }

    /// The list of children may lack some while others end; whether there are any is known for certain.
    fn has_overlooked(&self) -> bool {
        let looks = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.strangers.is_empty() && !matches!(waitid(WaitId::All, looks), Err(Errno::CHILD))
    }

    /// Tells everyone once.
    pub(super) fn terminate_rest(&mut self, app: &Process) {
        let adopted: Vec<Pid> = self.adopted().collect();
        if self.told.insert(app.id()) {
            app.signal_group(Signal::TERM);
        }
        for child in adopted {
            if self.told.insert(child) {
                kill_process(child, Signal::TERM).ok();
            }
        }
    }

    /// The app and everything that descends from it. To be repeated: who loses his parent comes to us then.
    pub(super) fn kill(&self, app: &Process) {
        app.signal(Signal::KILL);
        app.signal_group(Signal::KILL);
        for child in self.adopted() {
            kill_process(child, Signal::KILL).ok();
        }
    }

    fn adopted(&self) -> impl Iterator<Item = Pid> {
        system::children()
            .into_iter()
            .filter(|child| !self.strangers.contains(child))
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::{read_dir, read_to_string};

    use rustix::process::{Pid, getpid, set_child_subreaper};

    pub(super) fn adopt_orphans() {
        set_child_subreaper(Some(getpid())).ok();
    }

    /// The children of all our threads, those that have ended included.
    pub(super) fn children() -> Vec<Pid> {
        let lists = read_dir("/proc/self/task").into_iter().flatten().flatten();
        let mut listed = false;
        let mut found = Vec::new();
        for thread in lists {
            if let Ok(list) = read_to_string(thread.path().join("children")) {
                listed = true;
                found.extend(list.split_ascii_whitespace().filter_map(pid));
            }
        }
        if listed { found } else { searched() }
    }

    /// For kernels without such lists.
    fn searched() -> Vec<Pid> {
        let own = getpid().as_raw_pid();
        let processes = read_dir("/proc").into_iter().flatten().flatten();
        let is_ours = |name: &str| {
            let status = read_to_string(format!("/proc/{name}/stat")).unwrap_or_default();
            parent_of(&status) == Some(own)
        };
        processes
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && is_ours(name))
            .filter_map(|name| pid(&name))
            .collect()
    }

    /// `42 (a name) S 17 ...`: the fourth word, and a name may hold anything.
    fn parent_of(status: &str) -> Option<i32> {
        let (_, rest) = status.rsplit_once(')')?;
        rest.split_ascii_whitespace().nth(1)?.parse().ok()
    }

    fn pid(word: &str) -> Option<Pid> {
        Pid::from_raw(word.parse().ok()?)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_name_may_hold_anything() {
            assert_eq!(parent_of("42 (a) S 1 (b)) S 17 42 42 0"), Some(17));
            assert_eq!(parent_of("nonsense"), None);
        }

        #[test]
        fn both_ways_find_the_same_children() {
            let mut child = std::process::Command::new("sleep")
                .arg("60")
                .spawn()
                .unwrap();
            let id = pid(&child.id().to_string()).unwrap();
            assert!(children().contains(&id));
            assert!(searched().contains(&id));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!children().contains(&id) && !searched().contains(&id));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use rustix::process::Pid;

    /// Orphans go elsewhere here; the app's group is all that is known of it.
    pub(super) fn adopt_orphans() {}

    pub(super) fn children() -> Vec<Pid> {
        Vec::new()
    }
}
