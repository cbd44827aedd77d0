//! Resource files that change on disk are read again without being told to.
//!
//! The folders are looked at, not subscribed to: that works on every file system, mounts of containers included, and costs
//! a few calls a second. Changes are taken over once they have come to rest.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_lifecycle::Stop;
use tokio::sync::Mutex;
use tracing::info;

use crate::files::resource_files;
use crate::reload::Resources;

/// How often the folders are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How long everything has to have been as it is.
const REST: Duration = Duration::from_millis(250);
/// Changes that never come to rest are taken over after so many looks.
const PATIENCE: usize = 20;

/// What tells a changed file from an unchanged one. Its path leads through links to what they name now.
type Seen = BTreeMap<PathBuf, (Option<SystemTime>, u64, u64)>;

/// Looks until it is stopped.
pub(crate) async fn run(resources: Arc<Mutex<Resources>>, folders: Vec<String>, stop: Stop) {
    let mut known = look(folders.clone()).await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let mut now = look(folders.clone()).await;
        if now == known {
            continue;
        }
        for _ in 0..PATIENCE {
            tokio::time::sleep(REST).await;
            let next = look(folders.clone()).await;
            if next == now {
                break;
            }
            now = next;
        }
        known = now;
        info!(target: "dapr.runtime", "resource files have changed");
        resources.lock().await.refresh().await;
    }
}

async fn look(folders: Vec<String>) -> Seen {
    // Files may lie on slow disks; nothing else waits for them.
    tokio::task::spawn_blocking(move || {
        let files = folders.iter().flat_map(|folder| resource_files(folder));
        let seen = files.map(|path| {
            let facts = std::fs::metadata(&path).map_or((None, 0, 0), |facts| {
                (facts.modified().ok(), facts.len(), identity(&facts))
            });
            (path, facts)
        });
        seen.collect()
    })
    .await
    .unwrap_or_default()
}

#[cfg(unix)]
fn identity(facts: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    facts.ino()
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_shows_whichever_way_it_was_made() {
        let folder = std::env::temp_dir().join(format!("outrigger-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.yaml");
        let folders = vec![folder.display().to_string()];
        std::fs::write(&path, "a").unwrap();
        let first = look(folders.clone()).await;
        std::fs::write(&path, "ab").unwrap();
        let longer = look(folders.clone()).await;
        assert_ne!(first, longer);
        std::fs::write(folder.join("b.txt"), "ignored").unwrap();
        assert_eq!(longer, look(folders.clone()).await);
        std::fs::write(folder.join("new"), "cd").unwrap();
        std::fs::rename(folder.join("new"), &path).unwrap();
        assert_ne!(longer, look(folders.clone()).await);
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(look(folders).await.is_empty());
    }
}
