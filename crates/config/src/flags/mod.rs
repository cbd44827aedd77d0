//! The command line of `daprd`, and our own additions to it.
//!
//! One table has every flag with its default, its meaning and where its value goes; parsing, the
//! environment variables of our own flags and the help text all follow from it. What depends on several flags is decided
//! at the end.

mod command;
mod draft;
mod environment;
mod go;
mod help;
mod options;
mod parse;
mod table;
#[cfg(test)]
mod tests;

pub use command::{Command, FlagFault, ParseError, Parsed};
pub use help::help;
pub use options::*;
pub use parse::parse;
