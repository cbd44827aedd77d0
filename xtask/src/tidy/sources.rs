//! What no source file may hold.
//!
//! Owns: words that were left behind, sizes, module docs, real time in tests.
//! Start at [`file_faults`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

const FOLDERS: [&str; 4] = ["crates", "components", "tests", "xtask"];

/// Lines of production code beyond which a file holds several ideas. Tests are not counted.
const MOST_LINES: usize = 800;

/// Left-overs, in two parts each, so that this file does not hold them itself.
const LEFT_OVERS: [(&str, &str); 4] = [
    ("#[ign", "ore"),
    ("to", "do!("),
    ("unimple", "mented!("),
    ("db", "g!("),
];

/// How many lines a polling loop may have before its sleep.
const LOOP: usize = 15;

/// Where a test sleeps by the real clock, and why it has nothing else to wait for.
const SLEEPERS: &[(&str, &str)] = &[
    (
        "components/sqlite/tests/state.rs",
        "another process holds the lock of the file for a while",
    ),
    (
        "crates/testkit/src/suites/pubsub/message_ttl.rs",
        "a real broker counts the life of a message",
    ),
    (
        "crates/testkit/src/suites/pubsub/inbox.rs",
        "a scripted app is as slow as its script says",
    ),
    (
        "tests/e2e/src/app.rs",
        "a scripted app is as slow as its script says",
    ),
];

pub(super) fn faults(root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for folder in FOLDERS {
        for path in rust_files(&root.join(folder))? {
            let name = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            faults.extend(file_faults(&name, &fs::read_to_string(&path)?));
        }
    }
    Ok(faults)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry?.path();
            let is_hidden = path
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if path.is_dir()
                && !is_hidden
                && !path.ends_with("target")
                && !path.ends_with("node_modules")
            {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn file_faults(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let (production, tests) = split(name, text);
    for (first, second) in LEFT_OVERS {
        if let Some(line) = text
            .lines()
            .position(|line| line.contains(&format!("{first}{second}")))
        {
            faults.push(format!("{name}:{} holds `{first}{second}`", line + 1));
        }
    }
    let lines = production.lines().count();
    if lines > MOST_LINES {
        faults.push(format!(
            "{name} has {lines} lines before its tests, more than {MOST_LINES}"
        ));
    }
    if name.contains("/src/") && !text.starts_with("//!") {
        faults.push(format!("{name} does not begin by saying what it is"));
    }
    if sleeps(tests) && !SLEEPERS.iter().any(|(sleeper, _)| *sleeper == name) {
        faults.push(format!(
            "{name} sleeps in a test: wait for what is expected, or pause the clock"
        ));
    }
    faults
}

/// A file's production code and its tests.
fn split<'a>(name: &str, text: &'a str) -> (&'a str, &'a str) {
    let is_test = name.contains("/tests/")
        || name.starts_with("tests/")
        || name.contains("testkit/src/suites/");
    if is_test || name.ends_with("tests.rs") {
        return ("", text);
    }
    match text.find("#[cfg(test)]\nmod ") {
        Some(place) => text.split_at_checked(place).unwrap_or((text, "")),
        None => (text, ""),
    }
}

/// Whether a test waits for real time. Under a paused clock time is not real, and a helper that polls sleeps in a loop.
fn sleeps(tests: &str) -> bool {
    if tests.contains("start_paused = true") || tests.contains("time::pause()") {
        return false;
    }
    let lines: Vec<_> = tests.lines().collect();
    let is_sleep = |line: &str| line.contains("time::sleep(") || line.contains("thread::sleep(");
    let is_loop = |line: &&str| line.contains("loop {") || line.contains("while ");
    let polls = |place: usize| {
        let before = lines
            .get(place.saturating_sub(LOOP)..place)
            .unwrap_or_default();
        before.iter().any(is_loop)
    };
    (0..)
        .zip(&lines)
        .any(|(place, line)| is_sleep(line) && !polls(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOC: &str = "//! A file.\n";

    #[test]
    fn left_overs_are_found_with_their_line() {
        let (first, second) = LEFT_OVERS[1];
        let faults = file_faults(
            "crates/x/src/a.rs",
            &format!("{DOC}fn a() {{ {first}{second}) }}\n"),
        );
        assert_eq!(
            faults,
            [format!("crates/x/src/a.rs:2 holds `{first}{second}`")]
        );
    }

    #[test]
    fn only_production_lines_count() {
        let tests = format!("{DOC}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(900));
        assert!(file_faults("crates/x/src/a.rs", &tests).is_empty());
        let production = format!("{DOC}{}", "\n".repeat(900));
        assert!(file_faults("crates/x/src/a.rs", &production)[0].contains("has 901 lines"));
    }

    #[test]
    fn a_module_without_a_doc_is_named() {
        assert!(file_faults("crates/x/src/a.rs", "use x;\n")[0].contains("what it is"));
        assert!(file_faults("crates/x/build.rs", "use x;\n").is_empty());
    }

    #[test]
    fn tests_wait_for_events_or_for_a_paused_clock() {
        let sleep = "tokio::time::sleep(x).await;\n";
        assert_eq!(file_faults("tests/e2e/tests/a.rs", sleep).len(), 1);
        assert!(
            file_faults(
                "tests/e2e/tests/a.rs",
                &format!("(start_paused = true)\n{sleep}")
            )
            .is_empty()
        );
        assert!(file_faults("tests/e2e/tests/a.rs", &format!("loop {{\n{sleep}}}\n")).is_empty());
        assert!(file_faults("crates/x/src/a.rs", &format!("{DOC}{sleep}")).is_empty());
    }
}
