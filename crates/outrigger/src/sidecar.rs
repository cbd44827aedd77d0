//! `outrigger sidecar`: daprd's command line.

use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use outrigger_config::Options;
use outrigger_config::flags::{self, AppRestart, AppStart, Command, Parsed};
use outrigger_sidecar::{BUG, Companion, Start, Versions};

use crate::catalog::catalog;
use crate::{print, wait};

/// The release of Dapr whose API and behaviour this is.
const DAPR: &str = "1.18.2";

/// The usual value of `--app-stop-timeout`.
const APP_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// What tasks still run when everything is over gets this long.
const LAST_TASKS: Duration = Duration::from_millis(100);

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String], began: Instant) -> u8 {
    match parse(arguments) {
        Ok((options, mut warnings)) => {
            warnings.extend(for_run_only(&options).map(|flag| {
                format!("--{flag} has no effect: the app is not ours to start, see outrigger run")
            }));
            start(*options, warnings, "", None, began)
        }
        Err(code) => code,
    }
}

/// Flags that were given another value than the usual one, and that only `run` heeds.
fn for_run_only(options: &Options) -> impl Iterator<Item = &'static str> {
    let app = &options.app;
    [
        ("app-log-prefix", app.log_prefix.is_some()),
        ("app-restart", app.restart != AppRestart::Never),
        ("app-signal-first", app.signal_first),
        ("app-start", app.start != AppStart::OutboundReady),
        ("app-stop-timeout", app.stop_timeout != APP_STOP_TIMEOUT),
    ]
    .into_iter()
    .filter_map(|(flag, is_given)| is_given.then_some(flag))
}

/// Options for a sidecar, or the exit code of a command line that asked for something else.
pub(crate) fn parse(arguments: &[String]) -> Result<(Box<Options>, Vec<String>), u8> {
    let Parsed { command, warnings } = flags::parse(arguments, &|name| std::env::var(name).ok())
        .map_err(|error| {
            print::err(&format!("{error}\n"));
            error.exit_code()
        })?;
    match command {
        Command::Run(options) => Ok((options, warnings)),
        Command::Help(text) => {
            print::out(&text);
            Err(0)
        }
        Command::Version => {
            print::out(&format!("{DAPR}\n"));
            Err(0)
        }
        Command::BuildInfo => {
            let versions = versions();
            print::out(&format!(
                "Version: {}\nGit Commit: {}\nGit Version: outrigger-{}\n",
                versions.dapr, versions.commit, versions.own
            ));
            Err(0)
        }
        Command::Wait { http_port, timeout } => Err(wait::until_served(http_port, timeout)),
    }
}

/// Runs a sidecar to its end.
pub(crate) fn start(
    options: Options,
    warnings: Vec<String>,
    log_prefix: &'static str,
    companion: Option<Box<dyn Companion>>,
    began: Instant,
) -> u8 {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(options.worker_threads.unwrap_or_else(usual_threads));
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print::error(&format!("cannot start threads: {error}"));
            return 1;
        }
    };
    let start = Start {
        options,
        warnings,
        log_prefix,
        catalog: catalog(),
        versions: versions(),
        companion,
        began,
    };
    // Nothing of it is used after a panic.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(outrigger_sidecar::run(start))
    }));
    runtime.shutdown_timeout(LAST_TASKS);
    let code = match ended {
        Ok(Ok(code)) => code,
        Ok(Err(why)) => {
            print::error(&why);
            1
        }
        // The panic's own words are on stderr already.
        Err(_) => BUG,
    };
    outrigger_telemetry::log::flush();
    code
}

/// Half of the processors: the app has the other half, and calls that stay on one thread cost less.
fn usual_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 2).max(1)
}

fn versions() -> Versions {
    Versions {
        dapr: DAPR.to_owned(),
        own: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("OUTRIGGER_COMMIT").to_owned(),
    }
}

pub(crate) fn versions_text() -> String {
    let versions = versions();
    let mut text = format!("outrigger {} (Dapr {})", versions.own, versions.dapr);
    if !versions.commit.is_empty() {
        text.push_str(&format!(", commit {}", versions.commit));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags that are told to have no effect.
    fn told(words: &str) -> Vec<&'static str> {
        let mut arguments = vec!["--app-id=orders".to_owned()];
        arguments.extend(words.split_whitespace().map(str::to_owned));
        let parsed = flags::parse(&arguments, &|_| None).unwrap();
        let Command::Run(options) = parsed.command else {
            panic!("{words} asks for something else")
        };
        for_run_only(&options).collect()
    }

    #[test]
    fn every_flag_of_run_is_told_to_have_no_effect_and_no_other() {
        assert!(told("").is_empty());
        assert!(told("--app-port=80 --drain-timeout=5s").is_empty());
        let all = "--app-start=immediately --app-restart=always --app-signal-first --app-stop-timeout=3s --app-log-prefix=x";
        let mut expected: Vec<&str> = all
            .split_whitespace()
            .filter_map(|word| word.trim_start_matches("--").split('=').next())
            .collect();
        expected.sort_unstable();
        let mut found = told(all);
        found.sort_unstable();
        assert_eq!(found, expected);
        assert_eq!(told("--app-log-prefix="), ["app-log-prefix"]);
        assert!(
            told("--app-stop-timeout=10s").is_empty(),
            "the usual value, so that scripts may write it down"
        );
    }
}
