//! The step between us and the app: a process that asks the kernel to be killed when we are, and then becomes the app.
//!
//! Without it an app would stay for ever after the sidecar's SIGKILL. It can be asked for by the process itself only.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::print;

/// The first word of the command line.
pub(crate) const WORD: &str = "become-app";

/// What shells have for programs that cannot be run, and for those that are not there.
const CANNOT: u8 = 126;
const MISSING: u8 = 127;

/// A command that starts the program so that it does not outlive us.
#[cfg(target_os = "linux")]
pub(super) fn command(program: &str, arguments: &[String]) -> Command {
    // The same file, even when another is in its place by now.
    const SELF: &str = "/proc/self/exe";
    if !std::path::Path::new(SELF).exists() {
        return plain(program, arguments);
    }
    let mut command = Command::new(SELF);
    command
        .arg0("outrigger")
        .args([WORD, &std::process::id().to_string(), program])
        .args(arguments);
    command
}

#[cfg(not(target_os = "linux"))]
pub(super) fn command(program: &str, arguments: &[String]) -> Command {
    plain(program, arguments)
}

fn plain(program: &str, arguments: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Becomes the app. Returns only if that cannot be.
pub(crate) fn become_app(words: &[String]) -> u8 {
    let [parent, program, arguments @ ..] = words else {
        print::error("this is no command for users");
        return crate::SYNTAX;
    };
    if !die_with(parent) {
        // It ended before it could be asked for.
        return CANNOT;
    }
    let error = plain(program, arguments).exec();
    print::error(&format!("cannot start {program}: {error}"));
    if error.kind() == std::io::ErrorKind::NotFound {
        MISSING
    } else {
        CANNOT
    }
}

/// False when the parent has ended already.
#[cfg(target_os = "linux")]
fn die_with(parent: &str) -> bool {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    // Where it is not allowed the app runs all the same.
    set_parent_process_death_signal(Some(Signal::KILL)).ok();
    getppid()
        .map(Pid::as_raw_pid)
        .map(|id| id.to_string())
        .as_deref()
        == Some(parent)
}

#[cfg(not(target_os = "linux"))]
fn die_with(_parent: &str) -> bool {
    true
}
