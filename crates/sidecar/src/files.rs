//! Reading files and folders of resources.

use std::fs::ReadDir;
use std::path::{Path, PathBuf};

use outrigger_config::SourceFile;

/// Far more than anyone writes; whatever is larger got here by mistake, and would be worked on for minutes.
const LARGEST: u64 = 4 << 20;

/// The texts of `--config` files, in their order.
///
/// # Errors
/// When one cannot be read.
pub fn read_configuration(paths: &[String]) -> Result<Vec<SourceFile>, String> {
    paths
        .iter()
        .map(|path| {
            read(Path::new(path))
                .map(|text| (path.clone(), text))
                .map_err(|error| format!("error reading configuration file {path}: {error}"))
        })
        .collect()
}

/// A file that cannot be read, and why.
pub type Unreadable = (String, String);

/// The resource files directly inside folders, in the order of the folders and of the names within them. Beside them
/// come the files that cannot be read, and why.
///
/// # Errors
/// When a folder cannot be read.
pub fn read_resources(folders: &[String]) -> Result<(Vec<SourceFile>, Vec<Unreadable>), String> {
    let (mut files, mut unreadable) = (Vec::new(), Vec::new());
    for folder in folders {
        let entries = std::fs::read_dir(folder)
            .map_err(|error| format!("error reading resources folder {folder}: {error}"))?;
        for path in sorted(entries) {
            let name = path.display().to_string();
            match read(&path) {
                Ok(text) => files.push((name, text)),
                Err(error) => unreadable.push((name, error)),
            }
        }
    }
    Ok((files, unreadable))
}

/// The resource files directly inside a folder; none if it cannot be read.
pub(crate) fn resource_files(folder: &str) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map(sorted).unwrap_or_default()
}

fn sorted(entries: ReadDir) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| is_resource(path))
        .collect();
    paths.sort();
    paths
}

fn is_resource(path: &Path) -> bool {
    // A lock of Emacs's, or what macOS keeps beside a file of another file system.
    let is_stray = path
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(".#") || name.starts_with("._"));
    if is_stray {
        return false;
    }
    let known = path.extension().is_some_and(|extension| {
        extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml")
    });
    known && !path.is_dir()
}

fn read(path: &Path) -> Result<String, String> {
    let about = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let length = about.len();
    if length > LARGEST {
        return Err(format!(
            "it has {length} bytes, more than the {LARGEST} that a file of resources may have"
        ));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error
            .as_bytes()
            .iter()
            .take(error.utf8_error().valid_up_to())
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("line {line} is no UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        let folder = std::env::temp_dir().join(format!("outrigger-files-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("b.yaml"), "kind: x").unwrap();
        std::fs::write(folder.join("a.YML"), b"one\ntwo\xff").unwrap();
        std::fs::write(folder.join("c.txt"), "ignored").unwrap();
        let huge = usize::try_from(LARGEST).unwrap() + 1;
        std::fs::write(folder.join("d.yml"), "#".repeat(huge)).unwrap();
        let (files, unreadable) = read_resources(&[folder.display().to_string()]).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(files.len(), 1);
        assert!(files[0].0.ends_with("b.yaml"));
        assert_eq!(unreadable[0].1, "line 2 is no UTF-8");
        assert!(unreadable[1].1.contains("4194305 bytes"));
        assert!(
            read_resources(&["/does/not/exist".to_owned()])
                .unwrap_err()
                .contains("/does/not/exist")
        );
        assert!(read_configuration(&["/does/not/exist".to_owned()]).is_err());
    }
}
