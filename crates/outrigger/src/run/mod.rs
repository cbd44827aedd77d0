//! `outrigger run`: a sidecar and an app as one unit.

mod child;
mod defaults;
mod exec;
mod family;
mod keeper;
mod output;
mod process;

use std::time::Instant;

use outrigger_config::Options;
use outrigger_config::flags::{AppRestart, AppStart};
use outrigger_lifecycle::child as child_life;
use outrigger_sidecar::Companion;

use crate::{SYNTAX, print, sidecar};
use child::{Child, ChildSettings};
pub(crate) use defaults::folder as default_folder;
pub(crate) use exec::{WORD as BECOME_APP, become_app};
use process::Program;

const SIDECAR_PREFIX: &str = "sidecar | ";
const APP_PREFIX: &str = "app     | ";

const HELP: &str = "\
Usage: outrigger run [flags] -- COMMAND [ARGS...]

Starts a sidecar, then the app beside it, and ends both together: with Ctrl-C the sidecar takes nothing new in, finishes
what is in hand, ends the app and then itself. When the app ends, so does the sidecar, with the app's exit code.

The app finds DAPR_HTTP_PORT, DAPR_GRPC_PORT, APP_ID and, with --app-port, APP_PORT in its environment; unless they are set
already, DAPR_METRICS_PORT, APP_PROTOCOL and APP_CHANNEL_ADDRESS, too.

  --app-id ID                 default: the name of the current folder
  --resources-path DIR        default: ./resources or ./components, where there is one
  --dapr-http-port NUMBER     default: 3500, or a free one
  --dapr-grpc-port NUMBER     default: 50001, or a free one
  --metrics-port NUMBER       default: 9090, or a free one
  --app-log-prefix TEXT       ahead of each line of the app (default \"app     | \", none with --log-as-json)
  --app-start WHEN            outbound-ready (default): once its calls are served; or immediately
  --app-restart WHEN          never (default), on-failure or always: start it again when it ends by itself
  --app-stop-timeout DURATION what the app gets to end by itself before it is killed (default 10s)
  --app-signal-first          tell it to end at once, not when all work in hand is done

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
    let (flags, said) = defaults::complete(flags.to_vec());
    let (options, warnings) = match sidecar::parse(&flags) {
        Ok(parsed) => parsed,
        Err(code) => return Ok(code),
    };
    if !said.is_empty() {
        print::out(&format!("outrigger: {}\n", said.join(", ")));
    }
    let child = Child::new(ChildSettings {
        program: Program {
            name: program.clone(),
            arguments: arguments.to_vec(),
            environment: environment(&options),
            defaults: environment_defaults(&options),
            prefix: prefix(&options),
        },
        starts_at_once: options.app.start == AppStart::Immediately,
        life: life(&options),
    });
    let child = child.map_err(|error| format!("cannot look after an app: {error}"))?;
    let companion: Box<dyn Companion> = Box::new(child);
    Ok(sidecar::start(
        *options,
        warnings,
        SIDECAR_PREFIX,
        Some(companion),
        began,
    ))
}

/// Ahead of each line of the app; nothing where it writes for itself.
fn prefix(options: &Options) -> Option<String> {
    match (&options.app.log_prefix, options.log.json) {
        (Some(chosen), _) => Some(chosen.clone()).filter(|chosen| !chosen.is_empty()),
        (None, true) => None,
        (None, false) => Some(APP_PREFIX.to_owned()),
    }
}

fn life(options: &Options) -> child_life::Settings {
    let app = &options.app;
    child_life::Settings {
        restart: match app.restart {
            AppRestart::Never => child_life::Restart::Never,
            AppRestart::OnFailure => child_life::Restart::OnFailure,
            AppRestart::Always => child_life::Restart::Always,
        },
        stop_timeout: app.stop_timeout,
        signal_first: app.signal_first,
    }
}

/// What is so, whatever the app was told by others.
fn environment(options: &Options) -> Vec<(&'static str, String)> {
    let mut told = vec![("APP_ID", options.app_id.to_string())];
    told.extend(options.app.port.map(|port| ("APP_PORT", port.to_string())));
    told
}

/// What `dapr run` tells besides.
fn environment_defaults(options: &Options) -> Vec<(&'static str, String)> {
    let metrics = &options.metrics;
    let mut told = vec![
        ("APP_PROTOCOL", options.app.protocol.name().to_owned()),
        ("APP_CHANNEL_ADDRESS", options.app.channel_address.clone()),
        // Behind a pipe Python would show its lines when it ends.
        ("PYTHONUNBUFFERED", "1".to_owned()),
    ];
    if metrics.enabled && metrics.port != 0 {
        told.push(("DAPR_METRICS_PORT", metrics.port.to_string()));
    }
    told
}
