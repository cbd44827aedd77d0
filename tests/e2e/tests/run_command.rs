//! `outrigger run -- COMMAND`: a sidecar and an app as one unit.
//!
//! Owns: what the app is given, what both print, how both end and with which code; ports that are taken; `--wait`.
//! Start at any test; each is a story of its own. The apps are shell scripts.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::net::TcpListener;
use std::time::Instant;

use outrigger_e2e::process::{Ended, Launch, Signal};
use outrigger_e2e::{Component, Plan, Process, Request, http, ms, s};
use outrigger_testkit::{PrivateDir, ports, wait};

/// An app that runs until somebody tells it to end.
const FOREVER: &str =
    "trap 'echo told to end; exit 0' TERM; echo started; while :; do sleep 0.05; done";

/// Runs a script as the app beside a sidecar with these flags.
fn run(folder: &PrivateDir, flags: &[&str], script: &str) -> Process {
    let mut arguments: Vec<String> = ["run"]
        .iter()
        .chain(flags)
        .map(ToString::to_string)
        .collect();
    arguments.extend(["--", "sh", "-c", script].map(str::to_owned));
    Process::start(&Launch {
        arguments,
        folder: Some(folder.path().to_owned()),
        ..Launch::default()
    })
}

/// The same with ports of its own, and the port of the HTTP API.
fn run_on_free_ports(folder: &PrivateDir, flags: &[&str], script: &str) -> (Process, u16) {
    let http = ports::free();
    let own = [
        "--app-id=shop".to_owned(),
        format!("--dapr-http-port={http}"),
        format!("--dapr-grpc-port={}", ports::free()),
        format!("--metrics-port={}", ports::free()),
        format!("--dapr-internal-grpc-port={}", ports::free()),
    ];
    let flags: Vec<&str> = own
        .iter()
        .map(String::as_str)
        .chain(flags.iter().copied())
        .collect();
    (run(folder, &flags, script), http)
}

async fn code_of(script: &str) -> Ended {
    let folder = PrivateDir::new("run");
    let (mut process, _) = run_on_free_ports(&folder, &[], script);
    process.ended(s(15)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_finds_ports_and_ids_in_its_environment_and_the_apis_serve_when_it_starts() {
    let folder = PrivateDir::new("run");
    let script = "echo \"http=$DAPR_HTTP_PORT grpc=$DAPR_GRPC_PORT id=$APP_ID port=$APP_PORT\"; while :; do sleep 0.05; done";
    let (mut process, http) = run_on_free_ports(&folder, &["--app-port=4711"], script);
    let line = process.says("http=", s(10)).await;
    assert!(line.contains(&format!("http={http} grpc=")), "{line}");
    assert!(line.ends_with("id=shop port=4711"), "{line}");
    let served = http::call(http, &Request::get("/v1.0/healthz/outbound"))
        .await
        .unwrap();
    assert_eq!(served.status, 204);
    process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_says_whose_it_is() {
    let ended = code_of("echo out; echo err >&2; printf unfinished").await;
    let has = |line: &str| ended.output.lines().any(|other| other == line);
    for line in ["app     | out", "app     | err", "app     | unfinished"] {
        assert!(has(line), "no {line:?} in\n{}", ended.output);
    }
    let others = ended
        .output
        .lines()
        .filter(|line| !line.starts_with("app     | "));
    let mut logs = others.filter(|line| line.contains("level="));
    assert!(
        logs.all(|line| line.starts_with("sidecar | ")),
        "{}",
        ended.output
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_of_ones_own_is_used() {
    let folder = PrivateDir::new("run");
    let (mut process, _) = run_on_free_ports(&folder, &["--app-log-prefix=shop> "], "echo out");
    let ended = process.ended(s(15)).await;
    assert!(
        ended.output.lines().any(|line| line == "shop> out"),
        "{}",
        ended.output
    );
}

/// A45, the codes.
#[tokio::test(flavor = "multi_thread")]
async fn the_apps_exit_code_is_that_of_the_unit() {
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -SEGV $$", 139),
        ("kill -KILL $$", 137),
    ] {
        let ended = code_of(script).await;
        assert_eq!(ended.code, code, "{script}: {}", ended.output);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_the_app_while_the_apis_still_serve_and_then_the_sidecar() {
    let folder = PrivateDir::new("run");
    let script = "trap 'echo told to end; while [ ! -e go ]; do sleep 0.05; done; echo done; exit 0' TERM; echo started; while :; do sleep 0.05; done";
    let (mut process, http) = run_on_free_ports(&folder, &[], script);
    process.says("app     | started", s(10)).await;
    process.signal(Signal::INT);
    let began = Instant::now();
    process.says("app     | told to end", s(5)).await;
    let told = began.elapsed();
    let served = http::call(http, &Request::get("/v1.0/healthz/outbound"))
        .await
        .unwrap();
    assert_eq!(served.status, 204, "the app may still need the sidecar");
    assert_eq!(
        http::call(http, &Request::get("/v1.0/healthz"))
            .await
            .unwrap()
            .status,
        500
    );
    folder.write("go", "");
    let ended = process.ended(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(ended.output.contains("app     | done"), "{}", ended.output);
    outrigger_e2e::figure(
        "run-interrupt",
        format!("app told to end {told:?} after SIGINT, exit {}", ended.code),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_end_when_told_is_killed_in_time() {
    let folder = PrivateDir::new("run");
    let script = "trap 'echo deaf' TERM; echo started; while :; do sleep 0.05; done";
    let (mut process, _) = run_on_free_ports(&folder, &["--app-stop-timeout=1s"], script);
    process.says("app     | started", s(10)).await;
    process.signal(Signal::TERM);
    let began = Instant::now();
    let ended = process.ended(s(10)).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(began.elapsed() <= s(6), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_ends_both_at_once() {
    let folder = PrivateDir::new("run");
    let script = "trap 'echo deaf' TERM; echo started; while :; do sleep 0.05; done";
    let (mut process, _) = run_on_free_ports(&folder, &[], script);
    process.says("app     | started", s(10)).await;
    process.signal(Signal::INT);
    process.says("app     | deaf", s(5)).await;
    wait::never("an end", ms(600), async || !process.is_alive()).await;
    process.signal(Signal::INT);
    let began = Instant::now();
    let ended = process.ended(s(5)).await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(began.elapsed() <= ms(500), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_are_taken_are_replaced_and_said_in_one_line() {
    // Whoever has one of them already takes it for us.
    let _taken: Vec<_> = [3500, 50001, 9090]
        .map(|port| TcpListener::bind(("0.0.0.0", port)))
        .into_iter()
        .collect();
    let folder = PrivateDir::new("run");
    let resources = folder.path().join("resources");
    std::fs::create_dir(&resources).unwrap();
    std::fs::write(
        resources.join("store.yaml"),
        Component::new("store", "state.in-memory").yaml(),
    )
    .unwrap();
    let mut process = run(
        &folder,
        &[],
        "echo \"http=$DAPR_HTTP_PORT id=$APP_ID\"; while :; do sleep 0.05; done",
    );
    let said = process.says("(3500 is taken)", s(10)).await;
    assert!(
        said.starts_with("outrigger: app id outrigger-run-"),
        "{said}"
    );
    for part in [
        "resources in ./resources",
        "(50001 is taken)",
        "(9090 is taken)",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let line = process.says("http=", s(10)).await;
    let port = line
        .split("http=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap();
    assert!(
        said.contains(&format!("HTTP API on {port} ")),
        "{said} {line}"
    );
    let saved = http::call(
        port.parse().unwrap(),
        &Request::post("/v1.0/state/store", "[]"),
    )
    .await
    .unwrap();
    assert_eq!(saved.status, 204);
    process.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_missing_or_cannot_be_started_is_named() {
    let none = Process::run(&["run", "--app-id=shop"]).await;
    assert_eq!(none.code, 2, "{}", none.output);
    assert!(none.output.contains("no command"), "{}", none.output);
    let free = |name: &str| format!("--{name}={}", ports::free());
    let flags = ["dapr-http-port", "dapr-grpc-port", "metrics-port"].map(free);
    let mut words = vec!["run", "--app-id=shop"];
    words.extend(flags.iter().map(String::as_str));
    words.extend(["--", "/no/such/program"]);
    let missing = Process::run(&words).await;
    assert_eq!(missing.code, 1, "{}", missing.output);
    assert!(
        missing.output.contains("/no/such/program"),
        "{}",
        missing.output
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_flag_of_run_is_refused_before_anything_starts() {
    let ended = Process::run(&["run", "--app-prot=1", "--", "echo", "started"]).await;
    assert_eq!(ended.code, 2, "{}", ended.output);
    assert!(
        ended.output.contains("--app-port") && !ended.output.contains("app     | started"),
        "{}",
        ended.output
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_alone_says_which_flags_are_for_an_app_of_its_own() {
    let sidecar = Plan::new("orders").flag("--app-restart=always").start();
    let told = "--app-restart has no effect";
    sidecar.process.says(told, s(10)).await;
    assert!(!sidecar.process.output().contains("--app-start"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_on_when_the_sidecar_is_told_to_end_by_its_api_is_ended_too() {
    let folder = PrivateDir::new("run");
    let (mut process, http) = run_on_free_ports(&folder, &[], FOREVER);
    process.says("app     | started", s(10)).await;
    let answer = http::call(http, &Request::post("/v1.0/shutdown", ""))
        .await
        .unwrap();
    assert_eq!(answer.status, 204);
    let ended = process.ended(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(
        ended.output.contains("app     | told to end"),
        "{}",
        ended.output
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_sidecar_ends_with_it_or_with_the_time() {
    let nobody = format!("--dapr-http-port={}", ports::free());
    let ended = Process::run(&[
        "sidecar",
        "--app-id=x",
        "--wait",
        "--wait-timeout=1s",
        &nobody,
    ])
    .await;
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(
        ended.took >= ms(800) && ended.took < s(3),
        "{:?}",
        ended.took
    );
    let sidecar = Plan::new("orders").serving().await;
    let there = format!("--dapr-http-port={}", sidecar.ports.http);
    let ended = Process::run(&["sidecar", "--app-id=x", "--wait", &there]).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
}
