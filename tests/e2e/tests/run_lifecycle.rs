//! `outrigger run` as a parent: restarts, the order of the end, everything that an app leaves behind, process 1.
//!
//! Owns: A44 (in namespaces; in containers it is a test of `tests/compose.py`) and A45 of `lifecycle.md` §9, and the rules of
//! §6.7. What the app is given and what is printed is in `run_command.rs`.
//! Start at any test; each is a story of its own. Apps are shell scripts, or those of the folder `apps`.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::Instant;

use outrigger_e2e::process::Signal;
use outrigger_e2e::{Component, Request, Unit, UnitPlan, figure, http, ms, s, system, unit};
use outrigger_testkit::servers::{Rabbit, RabbitServer, Redis, RedisServer, Server};
use outrigger_testkit::wait;
use rustix::process::{Pid, kill_process};
use tokio::process::Command;

/// Ends when told.
const FOREVER: &str =
    "trap 'echo told to end; exit 0' TERM; echo started; while :; do sleep 0.05; done";

/// Ends in no way but by SIGKILL, as do its child and a daemon, which has left its group and its session.
const DEAF: &str = "trap '' TERM; \
    sh -c 'trap \"\" TERM; echo child=$$; while :; do sleep 0.05; done' & \
    setsid sh -c 'trap \"\" TERM; sh -c \"trap \\\"\\\" TERM; echo daemon=\\$\\$; while :; do sleep 0.05; done\" &'; \
    echo app=$$; echo started; while :; do sleep 0.05; done";

/// Counts its lives in the file `lives`.
const LIVES: &str = "n=$(($(cat lives 2>/dev/null || echo 0) + 1)); echo $n > lives; echo life $n;";

fn signal(id: i32, signal: Signal) {
    kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
}

async fn until_gone(name: &str, id: i32) {
    wait::until(format!("the end of {name} {id}"), s(5), async || {
        (!system::exists(id)).then_some(())
    })
    .await;
}

/// Where a line was printed, among all lines.
fn line_of(output: &str, text: &str) -> usize {
    output
        .lines()
        .position(|line| line.contains(text))
        .unwrap_or_else(|| panic!("no {text:?} in\n{output}"))
}

fn count(output: &str, text: &str) -> usize {
    output.lines().filter(|line| line.contains(text)).count()
}

fn bus(redis: &RedisServer) -> Component {
    Component::redis_pubsub("bus", &redis.address())
}

/// A45.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_app_dies_on_is_redelivered_and_its_death_is_the_exit_code() {
    let redis = RedisServer::launch(Redis::default()).await;
    for (name, value, code) in [("EXIT", "", 1), ("SIGNAL", "11", 139)] {
        let plan = UnitPlan::worker().with(&bus(&redis));
        let mut unit = plan.env("CRASHES", "1").env(name, value).started().await;
        unit.subscribed().await;
        unit.publish(&format!("killer-{code}")).await;
        let took = Instant::now();
        let ended = unit.process.ended(s(10)).await;
        assert_eq!(ended.code, code, "{}", ended.output);
        assert!(took.elapsed() <= s(5), "{:?}", took.elapsed());
        assert_eq!(count(&ended.output, "| dead "), 0, "{}", ended.output);

        let next = UnitPlan::worker().with(&bus(&redis)).started().await;
        next.process
            .says(&format!("did killer-{code}"), s(10))
            .await;
        assert_eq!(count(&next.process.output(), "| dead "), 0);
    }
}

/// A45 with a broker that counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_loses_no_message_and_fails_none() {
    let rabbit = RabbitServer::launch(Rabbit::default()).await;
    let bus = Component::rabbit("bus", &rabbit.url());
    let mut unit = UnitPlan::worker()
        .with(&bus)
        .flag("--app-restart=on-failure")
        .env("CRASHES", "3")
        .env("WORK", "0.05")
        .started()
        .await;
    unit.subscribed().await;
    let mut lives = 1;
    for nth in 0..30 {
        unit.publish(&format!("m{nth}.")).await;
        if nth % 10 == 5 && lives < 4 {
            // Published while it is away, too.
            lives += 1;
            wait::until("a new life", s(20), async || {
                (count(&unit.process.output(), "started") >= lives).then_some(())
            })
            .await;
        }
    }
    for nth in 0..30 {
        unit.process.says(&format!("did m{nth}."), s(30)).await;
    }
    let output = unit.process.output();
    assert_eq!(count(&output, "is to be started again"), 3, "{output}");
    assert_eq!(count(&output, "| dead "), 0, "{output}");
    let ended = unit.stop(s(15)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_app_is_away_its_gate_is_closed_and_calls_are_answered() {
    let redis = RedisServer::launch(Redis::default()).await;
    let unit = UnitPlan::worker()
        .with(&bus(&redis))
        .flag("--app-restart=always")
        .env("CRASHES", "2")
        .started()
        .await;
    unit.subscribed().await;
    unit.publish("killer").await;
    let closed = wait::until("a closed gate", s(5), async || {
        (unit.gate().await == "closed").then(Instant::now)
    })
    .await;
    let invoked = unit
        .call(Request::post("/v1.0/invoke/shop/method/x", ""))
        .await;
    assert_eq!(invoked.status, 500, "{}", invoked.text());
    unit.publish("while-away").await;
    unit.process.says("did while-away", s(20)).await;
    unit.process.says("did killer", s(20)).await;
    // One second and two.
    let output = unit.process.output();
    assert!(closed.elapsed() >= s(3), "{:?}\n{output}", closed.elapsed());
    assert!(
        output.contains("pause_ms=1000") && output.contains("pause_ms=2000"),
        "{output}"
    );
    assert_eq!(unit.gate().await, "open");
    let metrics = http::call(unit.ports.metrics, &Request::get("/"))
        .await
        .unwrap()
        .text();
    let restarts = "outrigger_app_restarts_total{app_id=\"shop\"} 2";
    assert!(metrics.lines().any(|line| line == restarts), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_failure_means_until_it_succeeds() {
    let script = format!("{LIVES} [ $n -ge 3 ] || exit 7");
    let mut unit = UnitPlan::shell(&script)
        .flag("--app-restart=on-failure")
        .start();
    let ended = unit.process.ended(s(20)).await;
    assert_eq!(
        (ended.code, count(&ended.output, "life ")),
        (0, 3),
        "{}",
        ended.output
    );
    assert!(ended.took >= s(3), "{:?}", ended.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn always_means_after_success_too_and_a_signal_in_a_pause_ends_it_at_once() {
    let mut unit = UnitPlan::shell(LIVES).flag("--app-restart=always").start();
    unit.process.says("life 3", s(20)).await;
    unit.process.says("pause_ms=4000", s(5)).await;
    let began = Instant::now();
    let ended = unit.stop(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(began.elapsed() <= s(2), "{:?}", began.elapsed());
    assert_eq!(count(&ended.output, "life "), 3, "{}", ended.output);
}

/// A44 without containers, and with 5 s in place of 15.
#[tokio::test(flavor = "multi_thread")]
async fn as_process_1_it_finishes_the_message_then_ends_the_app_and_leaves_no_zombie() {
    let redis = RedisServer::launch(Redis::default()).await;
    let own_namespace = system::unshare(&["--pid", "--fork", "--mount-proc"]);
    let words: Vec<&str> = own_namespace.iter().map(String::as_str).collect();
    let mut unit = UnitPlan::worker()
        .with(&bus(&redis))
        .wrapped(&words)
        .env("WORK", "5")
        .env("ON_TERM", "bye")
        .started()
        .await;
    let first = system::children(unit.process.id())[0];
    unit.subscribed().await;
    // Orphans of others come to process 1, too.
    let enter = system::enter(first, &["--pid", "--mount"]);
    let orphan = ["sh", "-c", "sleep 1 &"];
    let mut words = enter.iter().map(String::as_str).chain(orphan);
    let mut entering = Command::new(words.next().unwrap());
    assert!(entering.args(words).status().await.unwrap().success());
    let alone = async || system::children(first).len() == 1;
    wait::until("the orphan", s(5), async || (!alone().await).then_some(())).await;
    wait::until("its end", s(5), async || alone().await.then_some(())).await;
    unit.publish("long").await;
    unit.process.says("took long", s(10)).await;
    let began = Instant::now();
    signal(first, Signal::TERM);
    let ended = unit.process.ended(s(20)).await;
    let took = began.elapsed();
    assert_eq!(ended.code, 0, "{}", ended.output);
    let [did, told, last] =
        ["did long", "told to end", "last words: 204"].map(|text| line_of(&ended.output, text));
    assert!(did < told && told < last, "{}", ended.output);
    assert!(took >= s(4) && took <= s(8), "{took:?}");
    figure(
        "A44-namespace",
        format!("exit 0 {took:?} after SIGTERM with 5 s of work in hand"),
    );
    // Acknowledged: nobody gets it again.
    let next = UnitPlan::worker().with(&bus(&redis)).started().await;
    next.subscribed().await;
    next.publish("short").await;
    next.process.says("did short", s(10)).await;
    assert_eq!(count(&next.process.output(), "took long"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_loses_his_parent_is_reaped() {
    let script =
        format!("for i in 1 2 3 4 5; do sh -c 'sleep 2 & echo orphan=$!'; done; {FOREVER}");
    let unit = UnitPlan::shell(&script).started().await;
    let sidecar = unit.process.id();
    let orphan = unit.told("orphan=").await;
    assert!(
        system::children(sidecar).contains(&orphan),
        "it is ours now"
    );
    until_gone("orphan", orphan).await;
    wait::until("no more than the app", s(5), async || {
        let children = system::children(sidecar);
        if children.len() == 1 {
            Ok(())
        } else {
            Err(children)
        }
    })
    .await;
    let app = system::children(sidecar)[0];
    assert_ne!(system::state(app), Some('Z'));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_it_started_survives_the_end() {
    for stop in ["once", "twice"] {
        let mut unit = UnitPlan::shell(DEAF)
            .flag("--app-stop-timeout=1s")
            .started()
            .await;
        let mut family = Vec::new();
        for word in ["app=", "child=", "daemon="] {
            family.push((word, unit.told(word).await));
        }
        assert!(family.iter().all(|(_, id)| system::exists(*id)));
        unit.process.signal(Signal::TERM);
        if stop == "twice" {
            wait::never("an end", ms(600), async || !unit.process.is_alive()).await;
            unit.process.signal(Signal::TERM);
        }
        // How soon is a matter of `run_command.rs`.
        let ended = unit.process.ended(s(10)).await;
        assert_eq!(ended.code, 1, "it was forced: {}", ended.output);
        for (name, id) in family {
            assert!(!system::exists(id), "{stop}: {name}{id} is still there");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_of_an_app_that_ends_by_itself_ends_with_it() {
    let script = "setsid sh -c 'trap \"echo daemon was told; exit 0\" TERM; echo daemon=$$; while :; do sleep 0.05; done' & sleep 0.5; exit 4";
    let mut unit = UnitPlan::shell(script).start();
    let daemon = unit.told("daemon=").await;
    let ended = unit.process.ended(s(10)).await;
    assert_eq!(ended.code, 4, "{}", ended.output);
    assert!(ended.output.contains("daemon was told"), "{}", ended.output);
    assert!(!system::exists(daemon));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_behind_a_wrapper_gets_its_time() {
    // The wrapper dies of SIGTERM at once; what it runs takes a second to end well.
    let script = "sh -c 'trap \"sleep 1; echo saved; exit 0\" TERM; echo started; while :; do sleep 0.05; done'; echo never";
    let mut unit = UnitPlan::shell(script).started().await;
    let ended = unit.stop(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(ended.output.contains("saved"), "{}", ended.output);
    assert!(!ended.output.contains("never"), "{}", ended.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_app_makes_of_being_told_is_the_exit_code() {
    for (trap, code) in [("exit 0", 0), ("exit 3", 3), ("kill -SEGV $$", 139)] {
        let script = format!("trap '{trap}' TERM; echo started; while :; do sleep 0.05; done");
        let ended = UnitPlan::shell(&script).started().await.stop(s(10)).await;
        assert_eq!(ended.code, code, "{trap}: {}", ended.output);
    }
    // To die of the signal is to obey.
    let ended = UnitPlan::shell("echo started; exec sleep 60")
        .started()
        .await
        .stop(s(10))
        .await;
    assert_eq!(ended.code, 0, "{}", ended.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_signal_first_the_app_is_told_while_work_is_in_hand() {
    let redis = RedisServer::launch(Redis::default()).await;
    let mut unit = UnitPlan::worker()
        .with(&bus(&redis))
        .flag("--app-signal-first")
        .env("WORK", "2")
        .started()
        .await;
    unit.subscribed().await;
    unit.publish("long").await;
    unit.process.says("took long", s(10)).await;
    let ended = unit.stop(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    let [told, did] = ["told to end", "did long"].map(|text| line_of(&ended.output, text));
    assert!(told < did, "{}", ended.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_deadline_the_app_is_told_and_what_it_has_in_hand_goes_back() {
    let redis = RedisServer::launch(Redis::default()).await;
    let mut unit = UnitPlan::worker()
        .with(&bus(&redis))
        .flag("--drain-timeout=1s")
        .env("WORK", "60")
        .started()
        .await;
    unit.subscribed().await;
    unit.publish("endless").await;
    unit.process.says("took endless", s(10)).await;
    let began = Instant::now();
    let ended = unit.stop(s(10)).await;
    let took = began.elapsed();
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(ended.output.contains("told to end"), "{}", ended.output);
    assert!(took >= s(1) && took <= s(6), "{took:?}");
    let next = UnitPlan::worker().with(&bus(&redis)).started().await;
    // At once if there was time to give it back, else once Redis's time-out of 60 s is over.
    next.process.says("did endless", s(90)).await;
    assert_eq!(count(&next.process.output(), "| dead "), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_starts_immediately_may_end_before_the_sidecar_serves() {
    // It takes no connections, so that the first attempt takes its whole time.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = hole.local_addr().unwrap().to_string();
    let slow = Component::redis_pubsub("bus", &address);
    let plan = |script| UnitPlan::shell(script).with(&slow);
    let mut unit = plan("echo started; sleep 0.5; exit 5")
        .flag("--app-start=immediately")
        .started()
        .await;
    let health = unit.call(Request::get("/v1.0/healthz/outbound")).await;
    assert_eq!(health.status, 500, "it was to be too early");
    let ended = unit.process.ended(s(4)).await;
    assert_eq!(ended.code, 5, "{}", ended.output);

    let mut patient = plan("echo started; exit 5").started().await;
    let ended = patient.process.ended(s(4)).await;
    assert_eq!(ended.code, 5, "{}", ended.output);
    assert!(
        ended.took >= s(4),
        "{:?}: the first attempt has 5 s",
        ended.took
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_closes_its_output_runs_on() {
    let script = "echo started; exec >&- 2>&-; trap 'touch told; exit 0' TERM; touch silent; while :; do sleep 0.05; done";
    let mut unit = UnitPlan::shell(script).started().await;
    let silent = unit.folder().join("silent");
    wait::until("silence", s(5), async || silent.exists().then_some(())).await;
    unit.process.assert_alive();
    let told = unit.folder().join("told");
    let process = unit.stop(s(10)).await;
    assert_eq!(process.code, 0, "{}", process.output);
    assert!(told.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_killed_takes_its_app_along() {
    let mut unit =
        UnitPlan::shell("echo app=$$; echo started; trap '' TERM; while :; do sleep 0.05; done")
            .started()
            .await;
    let app = unit.told("app=").await;
    unit.process.signal(Signal::KILL);
    until_gone("app", app).await;
    unit.process.ended(s(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_of_the_app_are_passed_on_to_it() {
    let script = "trap 'echo got USR2' USR2; trap 'echo got WINCH' WINCH; echo started; while :; do sleep 0.05; done";
    let unit = UnitPlan::shell(script).started().await;
    unit.process.signal(Signal::USR2);
    unit.process.says("got USR2", s(5)).await;
    unit.process.signal(Signal::WINCH);
    unit.process.says("got WINCH", s(5)).await;
    assert_eq!(count(&unit.process.output(), "got "), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminals_keys_stop_both_and_interrupt_the_sidecar_alone() {
    let script = "trap 'echo INT' INT; trap 'echo told to end; exit 0' TERM; echo app=$$; echo started; n=0; while :; do sleep 0.05; n=$((n+1)); [ $n = 20 ] && echo later; done";
    let terminal = unit::app("terminal.py");
    let wrapper = ["python3", &*terminal, "started=z", "later=c", "--"];
    let mut unit = UnitPlan::shell(script).wrapped(&wrapper).start();
    unit.process.says("terminal: stopped", s(20)).await;
    unit.process.says("later", s(10)).await;
    let ended = unit.process.ended(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(ended.output.contains("told to end"), "{}", ended.output);
    assert_eq!(count(&ended.output, "INT"), 0, "{}", ended.output);
}

#[tokio::test(flavor = "multi_thread")]
async fn app_and_sidecar_stop_and_go_on_together() {
    let unit = UnitPlan::shell(&format!("echo app=$$; {FOREVER}"))
        .started()
        .await;
    let both = [unit.process.id(), unit.told("app=").await];
    let stopped = || both.iter().all(|id| system::state(*id) == Some('T'));
    let awake = || {
        both.iter()
            .all(|id| system::state(*id).is_some_and(|state| state != 'T'))
    };
    unit.process.signal(Signal::TSTP);
    wait::until("both stopped", s(5), async || stopped().then_some(())).await;
    unit.process.signal(Signal::CONT);
    wait::until("both awake", s(5), async || awake().then_some(())).await;
    served(&unit).await;
}

async fn served(unit: &Unit) {
    let health = unit.call(Request::get("/v1.0/healthz/outbound")).await;
    assert_eq!(health.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_somebody_else_has_started_is_left_alone() {
    // A script that starts something and then becomes the sidecar: its children are ours from then on.
    let wrapper = [
        "sh",
        "-c",
        "sleep 300 & echo stranger=$!; (sleep 0.5; exit 0) & exec \"$0\" \"$@\"",
    ];
    let mut unit = UnitPlan::shell(&format!("{LIVES} sleep 0.2"))
        .wrapped(&wrapper)
        .flag("--app-restart=always")
        .start();
    let stranger = unit.told("stranger=").await;
    unit.process.says("life 3", s(15)).await;
    assert!(
        system::exists(stranger),
        "a restart is none of its business"
    );
    let sidecar = unit.process.id();
    let zombies = system::children(sidecar)
        .into_iter()
        .filter(|child| system::state(*child) == Some('Z'));
    assert_eq!(zombies.count(), 0, "the other one has ended");
    let ended = unit.stop(s(10)).await;
    assert_eq!(ended.code, 0, "{}", ended.output);
    assert!(system::exists(stranger));
    signal(stranger, Signal::KILL);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_told_what_dapr_run_tells_and_keeps_what_it_was_told_by_others() {
    let script = "env | sed 's/^/</; s/$/>/'; exit 0";
    let mut unit = UnitPlan::shell(script)
        .flag("--app-port=4711")
        .flag("--app-protocol=grpc")
        .env("APP_CHANNEL_ADDRESS", "elsewhere")
        .env("DAPR_HTTP_ENDPOINT", "https://mine")
        .env("DAPR_HTTP_PORT", "1")
        .env("MINE", "kept")
        .start();
    let ports = unit.ports;
    let ended = unit.process.ended(s(15)).await;
    for (name, value) in [
        ("APP_ID", "shop"),
        ("APP_PORT", "4711"),
        ("APP_PROTOCOL", "grpc"),
        ("APP_CHANNEL_ADDRESS", "elsewhere"),
        ("DAPR_HTTP_ENDPOINT", "https://mine"),
        ("DAPR_HTTP_PORT", &*ports.http.to_string()),
        ("DAPR_GRPC_PORT", &*ports.grpc.to_string()),
        ("DAPR_METRICS_PORT", &*ports.metrics.to_string()),
        ("MINE", "kept"),
    ] {
        assert!(
            ended.output.contains(&format!("<{name}={value}>")),
            "no {name}={value} in\n{}",
            ended.output
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_prefix_the_app_has_our_output_for_its_own() {
    let script = "[ -p /proc/self/fd/1 ] && readlink /proc/self/fd/1; echo plain";
    let mut unit = UnitPlan::shell(script).flag("--app-log-prefix=").start();
    let own = std::fs::read_link(format!("/proc/{}/fd/1", unit.process.id())).unwrap();
    let ended = unit.process.ended(s(15)).await;
    for wanted in [own.to_str().unwrap(), "plain"] {
        assert!(
            ended.output.lines().any(|line| line == wanted),
            "no {wanted} in\n{}",
            ended.output
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_executed_ends_the_unit_and_says_why() {
    let mut plan = UnitPlan::shell("");
    plan = plan.wrapped(&[
        "sh",
        "-c",
        "printf '#!/no/such/interpreter\\n' > broken; chmod +x broken; exec \"$@\"",
        "sh",
    ]);
    let mut unit = plan.command(&["./broken"]).start();
    let ended = unit.process.ended(s(15)).await;
    assert_eq!(ended.code, 127, "{}", ended.output);
    assert!(
        ended.output.contains("cannot start ./broken"),
        "{}",
        ended.output
    );
}
