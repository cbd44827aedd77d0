//! A folder that lives as long as its owner.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A folder of its own under the system's temporary folder; removed with all it holds on drop.
#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
}

impl PrivateDir {
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(name: &str) -> Self {
        let parent = std::env::temp_dir();
        // As the system writes it, so that it can be compared.
        let parent = parent.canonicalize().unwrap_or(parent);
        let path = parent.join(format!(
            "outrigger-{name}-{}",
            uuid::Uuid::new_v4().simple()
        ));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("cannot make {path:?}: {error}"));
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file and gives its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {path:?}: {error}"));
        path
    }

    /// Lets every user of the machine write here, for servers that drop their privileges.
    pub(crate) fn open_to_all(&self) {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o777))
            .unwrap_or_else(|error| panic!("cannot open {:?} to all: {error}", self.path));
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.path).ok();
    }
}
