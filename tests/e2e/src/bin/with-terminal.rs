//! Makes its input the controlling terminal of a new session, and becomes the program that it is given.
//!
//! Between a fork and the program this cannot be done without `unsafe`; a process of its own may do it.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::{ioctl_tiocsctty, setsid};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("a program is wanted");
        return ExitCode::FAILURE;
    };
    let led = setsid().and_then(|_| ioctl_tiocsctty(std::io::stdin()));
    if let Err(error) = led {
        eprintln!("no terminal: {error}");
        return ExitCode::FAILURE;
    }
    // Returns only when it fails.
    let error = Command::new(program).args(words).exec();
    eprintln!("cannot start: {error}");
    ExitCode::FAILURE
}
