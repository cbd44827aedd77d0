//! What a command line comes to.

use std::time::Duration;

use super::options::Options;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Run a sidecar.
    Run(Box<Options>),
    /// `--help`: print this, which is [`help`](fn@super::help).
    Help(String),
    /// `--version`: print the version alone.
    Version,
    /// `--build-info`: print version, commit and Git version.
    BuildInfo,
    /// `--wait`: poll `/v1.0/healthz/outbound` of a sidecar on this machine.
    Wait {
        http_port: u16,
        /// `--wait-timeout`: 60s.
        timeout: Duration,
    },
}

/// A command line that can be followed.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub command: Command,
    /// One line each, to be logged: deprecated flags.
    pub warnings: Vec<String>,
}

/// A command line that cannot be followed, with everything that is wrong with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    pub faults: Vec<FlagFault>,
}

/// One flag or variable that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlagFault {
    /// `--app-port` or `OUTRIGGER_COMPONENT_WAIT`, as it was written.
    pub flag: String,
    pub message: String,
    /// The nearest valid name, without dashes.
    pub nearest: Option<&'static str>,
    /// Wrong syntax (exit code 2), not a wrong value (exit code 1).
    pub is_syntax: bool,
}

impl ParseError {
    /// 2 for a flag that does not exist or does not parse, 1 for a value that cannot be used.
    pub fn exit_code(&self) -> u8 {
        if self.faults.iter().any(|fault| fault.is_syntax) {
            2
        } else {
            1
        }
    }
}

impl std::fmt::Display for ParseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "error: {}", fault.message)?;
            if let Some(nearest) = fault.nearest {
                write!(f, "; did you mean `--{nearest}`?")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ParseError {}
