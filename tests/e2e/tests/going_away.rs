//! A sidecar whose app, or whose network, goes away for good.
//!
//! Owns: `--exit-when-app-exits`, `--exit-on-network-namespace-loss`, and A46 of `lifecycle.md` §9 in a network namespace of
//! its own (in containers it is a test of `tests/compose.py`). An app that is the sidecar's child is in `run_lifecycle.rs`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::Instant;

use outrigger_e2e::component::subscription;
use outrigger_e2e::process::{Ended, Launch, Process};
use outrigger_e2e::{App, Component, Plan, Reply, figure, ms, s, system};
use outrigger_testkit::servers::{Redis, RedisServer, Server};
use outrigger_testkit::{ports, wait};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_is_gone_for_long_enough_ends_the_sidecar_cleanly() {
    let app = App::answering(&[404]).await;
    let port = app.port();
    let mut sidecar = Plan::new("job")
        .app(port)
        .flag("--exit-when-app-exits=2s")
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
    // It is away for a moment only.
    drop(app);
    wait::never("the end", ms(1_000), async || !sidecar.process.is_alive()).await;
    let app = App::start_on(port, |_| Reply::status(404)).await;
    wait::never("the end", s(4), async || !sidecar.process.is_alive()).await;
    drop(app);
    let gone = Instant::now();
    let ended = sidecar.process.ended(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    let took = gone.elapsed();
    assert!(took >= s(2) && took <= s(6), "{took:?}");
    assert!(ended.output.contains("away for 2s"), "{}", ended.output);
    figure(
        "exit-when-app-exits",
        format!("exit 0 {took:?} after the app with T = 2s"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_has_not_come_yet_is_not_gone() {
    let mut sidecar = Plan::new("job")
        .app(ports::free())
        .flag("--exit-when-app-exits=500ms")
        .serving()
        .await;
    wait::never("the end", s(3), async || !sidecar.process.is_alive()).await;
}

/// What an app that went away leaves in hand goes back to its broker before the end.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_in_hand_when_the_app_went_for_good_is_given_back() {
    let redis = RedisServer::launch(Redis::default()).await;
    let bus = Component::redis_pubsub("bus", &redis.address());
    let file = subscription("bus", "t");
    let plan = || Plan::new("job").with(&bus).file("subscription.yaml", &file);
    let app = App::start(|asked| match asked.path.as_str() {
        "/on/t" => Reply::status(200).after(s(60)),
        _ => Reply::status(404),
    })
    .await;
    let mut sidecar = plan()
        .app(app.port())
        .flag("--exit-when-app-exits=1s")
        .serving()
        .await;
    sidecar.until_topic("bus", "t", "active", s(10)).await;
    sidecar
        .publish("bus", "t", "unfinished")
        .await
        .assert(204, "");
    wait::until("the delivery", s(10), async || app.delivered("unfinished")).await;
    drop(app);
    let ended = sidecar.process.ended(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    let next = App::answering(&[200]).await;
    let other = plan().app(next.port()).serving().await;
    wait::until("the delivery to another", s(15), async || {
        next.delivered("unfinished")
    })
    .await;
    drop(other);
}

/// A sidecar in a network namespace of its own, which has one interface besides loopback.
fn in_own_network(flags: &[&str]) -> Process {
    let script = "ip link set lo up && ip link add eth0 type veth peer name eth1 && ip link set eth0 up && exec \"$@\"";
    let mut wrapper = system::unshare(&["--net"]);
    wrapper.extend(["sh", "-c", script, "sh"].map(str::to_owned));
    let mut arguments = vec!["sidecar".to_owned(), "--app-id=alone".to_owned()];
    arguments.extend(flags.iter().map(ToString::to_string));
    Process::start(&Launch {
        wrapper,
        arguments,
        ..Launch::default()
    })
}

/// Runs a program in the process's network namespace; what it prints.
async fn inside(process: &Process, words: &[&str]) -> String {
    let enter = system::enter(process.id(), &["--net"]);
    let mut all = enter
        .iter()
        .map(String::as_str)
        .chain(words.iter().copied());
    let output = Command::new(all.next().unwrap())
        .args(all)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn is_running(process: &Process) {
    process.says("Status: Running", s(15)).await;
}

async fn loses_its_network(process: &Process) -> Instant {
    inside(process, &["ip", "link", "delete", "eth0"]).await;
    Instant::now()
}

/// A46, first half.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_network_namespace_is_reported_and_ends_nothing() {
    let mut process = in_own_network(&[]);
    is_running(&process).await;
    let lost = loses_its_network(&process).await;
    process.says("NETWORK_NAMESPACE_LOST", s(15)).await;
    let reported = lost.elapsed();
    assert!(reported >= s(8), "{reported:?}: it may come back");
    let scrape = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9090').read().decode())";
    let page = inside(&process, &["python3", "-c", scrape]).await;
    assert!(
        page.contains("outrigger_network_namespace_lost{app_id=\"alone\"} 1"),
        "{page}"
    );
    process.assert_alive();
    inside(
        &process,
        &["ip", "link", "add", "eth2", "up", "type", "veth"],
    )
    .await;
    process.says("there is a network again", s(5)).await;
    figure("A46-report", format!("{reported:?} after the interface"));
}

/// A46, second half.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_flag_a_lost_network_namespace_is_exit_code_75() {
    let mut process = in_own_network(&["--exit-on-network-namespace-loss"]);
    is_running(&process).await;
    let lost = loses_its_network(&process).await;
    let Ended { code, output, .. } = process.ended(s(20)).await;
    let took = lost.elapsed();
    assert_eq!(code, 75, "{output}");
    assert!(took <= s(15), "{took:?}");
    figure("A46-exit", format!("exit 75 {took:?} after the interface"));
}
