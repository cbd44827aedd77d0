//! Command lines, as users write them.

use std::time::Duration;

use proptest::prelude::*;

use super::table::FLAGS;
use super::{
    AllowedOrigins, AppProtocol, Command, InitMode, Mode, Options, ParseError, Parsed, parse,
};

fn parse_with(arguments: &str, variables: &[(&str, &str)]) -> Result<Parsed, ParseError> {
    let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
    parse(&arguments, &|name| {
        variables
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

#[track_caller]
fn options(arguments: &str, variables: &[(&str, &str)]) -> Options {
    match parse_with(arguments, variables).unwrap().command {
        Command::Run(options) => *options,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(arguments: &str) -> (u8, String) {
    let error = parse_with(arguments, &[]).unwrap_err();
    (error.exit_code(), error.to_string())
}

#[test]
fn an_app_id_is_enough_and_defaults_are_those_of_daprd() {
    let options = options("--app-id a", &[]);
    assert_eq!(options.app_id.as_str(), "a");
    assert_eq!(
        (
            options.api.http_port,
            options.api.grpc_port,
            options.metrics.port
        ),
        (3500, 50001, 9090)
    );
    assert_eq!(
        (
            options.app.port,
            options.api.public_port,
            options.internal.port
        ),
        (None, None, None)
    );
    assert_eq!(options.app.protocol, AppProtocol::Http);
    assert_eq!(options.app.channel_address, "127.0.0.1");
    assert_eq!(options.app.max_concurrency, None);
    assert!(
        options.app.reads_config && options.app.reads_subscriptions && options.app.health.is_none()
    );
    assert_eq!(
        (options.api.max_body_size, options.api.read_buffer_size),
        (4 << 20, 4 << 10)
    );
    assert_eq!(
        (options.api.api_logging, &options.api.allowed_origins),
        (None, &AllowedOrigins::Off)
    );
    assert_eq!(options.files.mode, Mode::Standalone);
    assert_eq!(options.files.reconcile_interval, Duration::from_secs(60));
    assert_eq!(options.control_plane.trust_domain, "localhost");
    assert_eq!(options.control_plane.scheduler_job_streams, 3);
    assert_eq!(options.components.wait, Duration::from_secs(2));
    assert_eq!(
        options.lifecycle.drain_timeout,
        Some(Duration::from_secs(25))
    );
    assert!(options.metrics.enabled && options.worker_threads.is_none());
}

#[test]
fn values_come_in_every_form_that_daprd_takes() {
    let options = options(
        "-app-id=a --app-port 80 stray -enable-api-logging --enable-metrics=F --config a.yaml,b.yaml --config=c.yaml --app-max-concurrency 0x10 \
         --dapr-listen-addresses 127.0.0.1,::1 --app-protocol GRPC --app-ssl --max-body-size 16Mi --enable-profiling -- --app-port 90",
        &[],
    );
    assert_eq!(options.app.port, Some(80));
    assert_eq!(options.api.api_logging, Some(true));
    assert!(!options.metrics.enabled);
    assert_eq!(options.files.config, ["a.yaml", "b.yaml", "c.yaml"]);
    assert_eq!(options.app.max_concurrency, Some(16));
    assert_eq!(options.api.listen_addresses, ["127.0.0.1", "::1"]);
    assert_eq!(options.app.protocol, AppProtocol::Grpcs);
    assert_eq!(options.api.max_body_size, 16 << 20);
    assert_eq!(options.api.profile_port, Some(7777));
}

#[test]
fn wrong_syntax_is_two_and_a_wrong_value_is_one() {
    for (arguments, code, part) in [
        (
            "--app-id a --no-such-flag",
            2,
            "unknown flag: --no-such-flag",
        ),
        ("--app-id a --app-prot 80", 2, "did you mean `--app-port`?"),
        ("--app-id a -x", 2, "unknown flag: -x"),
        ("--app-id a ---x", 2, "bad flag syntax"),
        ("--app-id", 2, "needs an argument: --app-id"),
        ("--app-id a --app-health-threshold=x", 2, "a whole number"),
        ("--app-id a --enable-metrics=maybe", 2, "true or false"),
        ("--app-id a --component-wait=5", 2, "a duration"),
        ("--app-id a --config \"x", 2, "separated by commas"),
        ("--app-id a --scheduler-job-streams=-1", 2, "not negative"),
        ("--app-id a --scheduler-job-streams=0", 1, "at least 1"),
        ("", 1, "--app-id is missing"),
        ("--app-id a.b", 1, "holds a dot"),
        ("--app-id a --mode=what", 1, "standalone or kubernetes"),
        ("--app-id a --log-level=what", 1, "debug, info"),
        ("--app-id a --app-protocol=what", 1, "http, https"),
        ("--app-id a --app-port=x", 1, "a port"),
        ("--app-id a --app-port=70000", 1, "a port"),
        ("--app-id a --dapr-http-port=", 1, "a port"),
        (
            "--app-id a --app-port=3500",
            1,
            "--dapr-http-port 3500 is the same",
        ),
        (
            "--app-id a --app-port=50001",
            1,
            "--dapr-grpc-port 50001 is the same",
        ),
        (
            "--app-id a --app-health-probe-timeout=2000 --app-health-probe-interval=1",
            1,
            "above",
        ),
        ("--app-id a --max-body-size=4MB", 1, "bytes such as"),
        (
            "--app-id a --disable-init-endpoints=what",
            1,
            "config or subscribe",
        ),
        (
            "--app-id a --actors-disseminate-timeout=0s",
            1,
            "a positive duration",
        ),
        ("--app-id a --component-retry-cap=1ms", 1, "below"),
        ("--app-id a --app-ready-path=ready", 1, "begins with `/`"),
    ] {
        let (told, text) = refused(arguments);
        assert!(
            told == code && text.contains(part),
            "{arguments}: {told} {text}"
        );
    }
}

#[test]
fn everything_wrong_is_told_at_once() {
    let (code, text) = refused("--mode=x --nosuch --app-port=y");
    assert_eq!((code, text.lines().count()), (2, 4), "{text}");
}

#[test]
fn flags_of_later_releases_are_unknown() {
    for flag in ["resource-requests", "native-sidecar"] {
        assert_eq!(refused(&format!("--app-id a --{flag}=1")).0, 2, "{flag}");
    }
}

#[test]
fn times_and_paths_that_cannot_all_hold_are_refused_by_name() {
    for (arguments, named) in [
        ("--drain-timeout=5s --drain-quiet=5s", "--drain-quiet 5s"),
        (
            "--dapr-graceful-shutdown-seconds=2 --drain-accept-window=3s",
            "--dapr-graceful-shutdown-seconds",
        ),
        ("--app-busy-path=busy", "begins with `/`"),
        ("--app-ready-path=ready", "begins with `/`"),
        ("--app-lifecycle-path=hook", "begins with `/`"),
        ("--app-busy-path=/busy --app-protocol=grpc", "speaks HTTP"),
        ("--drain-timeout=-1s", "not negative"),
        ("--drain-accept-window=-1s", "not negative"),
        ("--poison-crash-limit=-1", "not negative"),
        ("--lifecycle-webhook-url=ftp://host", "http:// or https://"),
        (
            "--lifecycle-webhook-url=http://u:p@host/x",
            "without user and password",
        ),
        ("--prestop-on-public-port", "--dapr-public-port"),
        (
            "--prestop-on-public-port --drain-timeout=0",
            "--dapr-public-port",
        ),
        ("--app-ready-path=/r --app-protocol=grpc", "speaks HTTP"),
        ("--app-ready-grpc-service=s", "speaks gRPC"),
        (
            "--app-stop-timeout=60s --drain-timeout=5s",
            "--app-stop-timeout 1m0s",
        ),
        (
            "--component-ping-timeout=20s --component-ping-interval=5s",
            "--component-ping-interval 5s",
        ),
    ] {
        let (code, text) = refused(&format!("--app-id a {arguments}"));
        assert_eq!(code, 1, "{arguments}");
        assert!(text.contains(named), "{arguments}: {text}");
    }
    let (_, text) = refused("--app-id a --lifecycle-webhook-url=http://u:hunter2@host/x");
    assert!(!text.contains("hunter2"), "{text}");
    let mode = options("--app-id a --mode kubernetes", &[]).lifecycle;
    assert_eq!(mode.accept_window, Duration::from_secs(3));
    assert_eq!(
        options("--app-id a", &[]).lifecycle.accept_window,
        Duration::ZERO
    );
}

#[test]
fn what_is_doubtful_is_told_and_no_reason_not_to_start() {
    let pod = |seconds: &'static str| [("POD_TERMINATION_GRACE_PERIOD_SECONDS", seconds)];
    let doubts = |arguments: &str, environment: &[(&str, &str)]| {
        let arguments = format!("--app-id a --app-port 1 {arguments}");
        parse_with(&arguments, environment).unwrap().warnings
    };
    assert_eq!(doubts("", &pod("60")), Vec::<String>::new());
    for (arguments, seconds, told) in [
        (
            "--drain-timeout=10s --dapr-block-shutdown-duration=60s",
            "60",
            "--dapr-block-shutdown-duration 1m0s is cut short: the end may take 10s",
        ),
        ("--drain-timeout=60s", "30", "the pod is killed after 30s"),
        ("--drain-timeout=0", "30", "as long as it wants"),
        ("", "abc", "\"abc\", expected whole seconds"),
    ] {
        let all = doubts(arguments, &pod(seconds));
        assert_eq!(all.len(), 1, "{arguments}: {all:?}");
        assert!(all[0].contains(told), "{arguments}: {all:?}");
    }
    let all = parse_with("--app-id a --app-ready-path=/r", &[])
        .unwrap()
        .warnings;
    assert_eq!(all, ["--app-ready-path has no effect without --app-port"]);
    let short = options(
        "--app-id a --mode kubernetes --dapr-graceful-shutdown-seconds 2",
        &[],
    );
    assert_eq!(short.lifecycle.accept_window, Duration::from_secs(1));
}

#[test]
fn deprecated_and_hidden_flags_work_with_a_warning() {
    let arguments = "--app-id a --components-path old --dapr-http-max-request-size 8 --dapr-http-read-buffer-size 16 --actors-service placement:h:1 --reminders-service x";
    assert_eq!(parse_with(arguments, &[]).unwrap().warnings.len(), 5);
    let options = options(arguments, &[]);
    assert_eq!(options.files.resources_paths, ["old"]);
    assert_eq!(
        (options.api.max_body_size, options.api.read_buffer_size),
        (8 << 20, 16 << 10)
    );
    assert_eq!(options.control_plane.placement_addresses, ["h:1"]);
}

#[test]
fn sizes_have_their_special_values() {
    for (arguments, size) in [
        ("--max-body-size=-1", 4 << 20),
        ("--max-body-size=0", 0),
        ("--dapr-http-max-request-size=-1", 4 << 20),
        (
            "--max-body-size=1Mi --dapr-http-max-request-size=8",
            1 << 20,
        ),
    ] {
        assert_eq!(
            options(&format!("--app-id a {arguments}"), &[])
                .api
                .max_body_size,
            size,
            "{arguments}"
        );
    }
}

#[test]
fn health_numbers_that_are_not_positive_mean_the_default() {
    let options = options(
        "--app-id a --enable-app-health-check --app-health-probe-interval=0 --app-health-probe-timeout=-1 --app-health-threshold=0",
        &[],
    );
    let health = options.app.health.unwrap();
    assert_eq!(
        (health.interval, health.timeout, health.threshold),
        (Duration::from_secs(5), Duration::from_millis(500), 3)
    );
}

#[test]
fn the_drain_budget_follows_the_first_that_is_given() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let pod: &[(&str, &str)] = &[("POD_TERMINATION_GRACE_PERIOD_SECONDS", "60")];
    for (arguments, variables, budget) in [
        ("", &[] as &[(&str, &str)], seconds(25)),
        ("", pod, seconds(55)),
        ("--dapr-graceful-shutdown-seconds=10", pod, seconds(10)),
        ("--dapr-graceful-shutdown-seconds=-1", pod, seconds(55)),
        ("--dapr-graceful-shutdown-seconds=0", pod, None),
        ("--dapr-block-shutdown-duration=7s", pod, seconds(12)),
        (
            "--dapr-block-shutdown-duration=7s --dapr-graceful-shutdown-seconds=1",
            pod,
            seconds(8),
        ),
        (
            "--drain-timeout=3s --dapr-graceful-shutdown-seconds=10",
            pod,
            seconds(3),
        ),
        ("--drain-timeout=0", pod, None),
    ] {
        assert_eq!(
            options(&format!("--app-id a {arguments}"), variables)
                .lifecycle
                .drain_timeout,
            budget,
            "{arguments}"
        );
    }
}

#[test]
fn a_flag_wins_over_its_variable_and_daprds_flags_have_none() {
    let variables: &[(&str, &str)] = &[
        ("OUTRIGGER_COMPONENT_INIT_MODE", "strict"),
        ("OUTRIGGER_COMPONENT_WAIT", "1s"),
        ("OUTRIGGER_APP_PORT", "80"),
    ];
    let options = options("--app-id a --component-wait=3s", variables);
    assert_eq!(options.components.init_mode, InitMode::Strict);
    assert_eq!(options.components.wait, Duration::from_secs(3));
    assert_eq!(options.app.port, None);
    let error = parse_with("--app-id a", &[("OUTRIGGER_COMPONENT_WAIT", "soon")]).unwrap_err();
    assert_eq!(
        (error.exit_code(), error.faults[0].flag.as_str()),
        (1, "OUTRIGGER_COMPONENT_WAIT")
    );
}

#[test]
fn variables_of_daprd_count_where_flags_are_silent() {
    let variables: &[(&str, &str)] = &[
        ("DAPR_CONTROLPLANE_TRUST_DOMAIN", "example.com"),
        ("DAPR_CONTROLPLANE_NAMESPACE", "dapr-system"),
        ("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A", "s1:1,s2:2"),
        ("NAMESPACE", "prod"),
        ("DAPR_API_TOKEN", "t0ken"),
        ("DAPR_HTTP_DISABLE_H2C", "yes"),
    ];
    let options = options("--app-id a --control-plane-namespace own", variables);
    assert_eq!(options.control_plane.trust_domain, "example.com");
    assert_eq!(options.control_plane.namespace, "own");
    assert_eq!(options.control_plane.scheduler_addresses, ["s1:1", "s2:2"]);
    assert_eq!(
        options.environment.namespace.as_ref().unwrap().as_str(),
        "prod"
    );
    assert!(options.environment.disable_h2c);
    assert!(!format!("{options:?}").contains("t0ken"));
}

#[test]
fn actions_need_no_app_id() {
    assert!(matches!(
        parse_with("--version", &[]).unwrap().command,
        Command::Version
    ));
    assert!(matches!(
        parse_with("-build-info", &[]).unwrap().command,
        Command::BuildInfo
    ));
    assert!(matches!(
        parse_with("-h", &[]).unwrap().command,
        Command::Help(_)
    ));
    assert!(matches!(
        parse_with("-help", &[]).unwrap().command,
        Command::Help(_)
    ));
    match parse_with("--wait --dapr-http-port 1234", &[])
        .unwrap()
        .command
    {
        Command::Wait { http_port, timeout } => {
            assert_eq!((http_port, timeout), (1234, Duration::from_secs(60)))
        }
        other => panic!("{other:?}"),
    }
    assert!(parse_with("--version --nosuch", &[]).is_err());
}

#[test]
fn origins_are_told_apart() {
    let origins = |text: &str| {
        options(&format!("--app-id a --allowed-origins={text}"), &[])
            .api
            .allowed_origins
    };
    assert_eq!(origins(""), AllowedOrigins::Off);
    assert_eq!(origins("*"), AllowedOrigins::Every);
    assert_eq!(
        origins("http://a,http://b"),
        AllowedOrigins::Only(vec!["http://a".into(), "http://b".into()])
    );
}

#[test]
fn the_help_text_names_every_visible_flag() {
    let help = super::help();
    for flag in FLAGS {
        assert_eq!(
            help.contains(&format!("--{}", flag.name)),
            !flag.is_hidden,
            "{}",
            flag.name
        );
    }
    assert!(help.contains("  --component-wait DURATION\n      how long a call waits for a component that is not ready (default 2s, env OUTRIGGER_COMPONENT_WAIT)\n"));
}

proptest! {
    #[test]
    fn no_arguments_panic(arguments in proptest::collection::vec("\\PC{0,12}", 0..6)) {
        parse(&arguments, &|_| None).ok();
    }

    #[test]
    fn no_values_panic(index in 0..FLAGS.len(), value in "\\PC{0,12}", variable in "\\PC{0,12}") {
        let arguments = [format!("--{}={value}", FLAGS[index].name), "--app-id=a".to_owned()];
        parse(&arguments, &|name| name.starts_with("OUTRIGGER_").then(|| variable.clone())).ok();
    }
}
