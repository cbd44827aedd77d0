//! `outrigger run`: a sidecar and an app as one unit.

mod child;
mod defaults;
mod output;

use std::time::{Duration, Instant};

use outrigger_sidecar::Companion;

use crate::{SYNTAX, print, sidecar};
use child::{Child, ChildSettings};
pub(crate) use defaults::folder as default_folder;

/// What the app gets to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

const SIDECAR_PREFIX: &str = "sidecar | ";
const APP_PREFIX: &str = "app     | ";

const HELP: &str = "\
Usage: outrigger run [flags] -- COMMAND [ARGS...]

Starts a sidecar, then the app beside it, and ends both together: with Ctrl-C the sidecar takes nothing new in, finishes
what is in hand, ends the app and then itself. When the app ends, so does the sidecar, with the app's exit code.

The app finds DAPR_HTTP_PORT, DAPR_GRPC_PORT, APP_ID and, with --app-port, APP_PORT in its environment.

  --app-id ID                 default: the name of the current folder
  --resources-path DIR        default: ./resources or ./components, where there is one
  --dapr-http-port NUMBER     default: 3500, or a free one
  --dapr-grpc-port NUMBER     default: 50001, or a free one
  --metrics-port NUMBER       default: 9090, or a free one
  --app-log-prefix TEXT       ahead of each line of the app (default \"app     | \")
  --app-stop-timeout DURATION what the app gets to end by itself before it is killed (default 10s)

and every flag of `outrigger sidecar`.
";

/// Runs the command; its exit code.
pub(crate) fn command(arguments: &[String], began: Instant) -> u8 {
    let end = arguments.iter().position(|word| word == "--");
    let (flags, command) = match end {
        Some(end) => arguments.split_at(end),
        None => (arguments, [].as_slice()),
    };
    if flags
        .iter()
        .any(|word| matches!(word.as_str(), "--help" | "-help" | "-h"))
    {
        print::out(HELP);
        return 0;
    }
    match start(flags, command.get(1..).unwrap_or_default(), began) {
        Ok(code) => code,
        Err(why) => {
            print::error(&why);
            SYNTAX
        }
    }
}

fn start(flags: &[String], command: &[String], began: Instant) -> Result<u8, String> {
    let (program, arguments) = command
        .split_first()
        .ok_or("no command was given; write it after `--`")?;
    let (flags, stop_timeout) = own_flags(flags)?;
    let (flags, said) = defaults::complete(flags);
    let (options, warnings) = match sidecar::parse(&flags) {
        Ok(parsed) => parsed,
        Err(code) => return Ok(code),
    };
    if !said.is_empty() {
        print::out(&format!("outrigger: {}\n", said.join(", ")));
    }
    let prefix = match (options.app.log_prefix.as_str(), options.log.json) {
        ("", true) => String::new(),
        ("", false) => APP_PREFIX.to_owned(),
        (chosen, _) => chosen.to_owned(),
    };
    let child = Child::new(ChildSettings {
        program: program.clone(),
        arguments: arguments.to_vec(),
        app_id: options.app_id.to_string(),
        app_port: options.app.port,
        prefix,
        stop_timeout,
    });
    let companion: Box<dyn Companion> = Box::new(child);
    Ok(sidecar::start(
        *options,
        warnings,
        SIDECAR_PREFIX,
        Some(companion),
        began,
    ))
}

/// Takes out the flags that a sidecar does not know.
fn own_flags(flags: &[String]) -> Result<(Vec<String>, Duration), String> {
    const STOP: &str = "app-stop-timeout";
    let mut rest = Vec::with_capacity(flags.len());
    let mut stop_timeout = STOP_TIMEOUT;
    let mut words = flags.iter();
    while let Some(word) = words.next() {
        match defaults::flag(word) {
            Some((STOP, value)) => {
                let value = match value {
                    Some(value) => value.to_owned(),
                    None => words
                        .next()
                        .ok_or_else(|| format!("flag needs an argument: --{STOP}"))?
                        .clone(),
                };
                stop_timeout = duration(&value)
                    .ok_or_else(|| format!("--{STOP}: `{value}` is no duration, such as 10s"))?;
            }
            _ => rest.push(word.clone()),
        }
    }
    Ok((rest, stop_timeout))
}

fn duration(text: &str) -> Option<Duration> {
    outrigger_core::duration::parse_go(text)?.positive()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_time_to_stop_is_no_flag_of_the_sidecar() {
        assert_eq!(
            own_flags(&words("--app-id a --app-stop-timeout 3s --app-port 80")),
            Ok((words("--app-id a --app-port 80"), Duration::from_secs(3)))
        );
        assert_eq!(
            own_flags(&words("-app-stop-timeout=500ms")),
            Ok((Vec::new(), Duration::from_millis(500)))
        );
        assert!(own_flags(&words("--app-stop-timeout soon")).is_err());
        assert!(own_flags(&words("--app-stop-timeout")).is_err());
    }
}
