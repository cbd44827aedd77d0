//! `outrigger top` in a terminal: what it shows, what keys and sizes do, and that the terminal is given back.
//!
//! The sidecars are scripts, whose answers are the same in every run; whole screens can be compared.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::path::Path;

use outrigger_e2e::process::Signal;
use outrigger_e2e::{App, Reply, Terminal};
use outrigger_testkit::ports;
use serde_json::json;

/// Becomes the leader of a session with a terminal.
const LEADER: &str = env!("CARGO_BIN_EXE_with-terminal");

fn top(arguments: &[&str], columns: u16, rows: u16) -> Terminal {
    let words = [&["top"], arguments].concat();
    Terminal::start(Path::new(LEADER), &words, columns, rows)
}

/// A sidecar that was up for ten days when it was asked first, and serves 50 requests a second.
async fn orders(port: u16) -> App {
    let number = std::sync::atomic::AtomicU64::new(1);
    App::start_on(port, move |asked| {
        assert_eq!(asked.path, "/outrigger/v1/status");
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Reply::json(&json!({
            "appId": "orders", "namespace": "default", "version": "0.1.0", "pid": 4242,
            "uptimeMs": 864_000_000 + number * 100,
            "phase": "draining", "phaseSinceMs": 812, "gate": "open", "gateSinceMs": 80100,
            "app": {"port": 8080, "protocol": "http"},
            "drain": {"id": "d-1", "cause": "api", "exits": false, "drained": false, "forMs": 812, "deadlineMs": 24188, "busy": true},
            "inflight": {"pubsub/bus": 3},
            "components": [
                {"name": "bus", "type": "pubsub.rabbitmq/v1", "state": "unavailable", "sinceMs": 12000, "attempt": 7,
                 "class": "TRANSIENT", "message": "connection \u{1b}[2Jrefused", "nextRetryMs": 4000, "lastOkMs": 13000,
                 "subscriptions": [{"topic": "new", "state": "idle", "sinceMs": 12000, "attempt": 0}]},
                {"name": "store", "type": "state.redis/v1", "state": "ready", "sinceMs": 80000},
            ],
            "breakers": [{"target": "app-b", "breaker": "default/app-b:pay", "state": "open", "forMs": 2000, "nextProbeMs": 500}],
            "counters": {"httpRequests": number * 5, "published": 10},
        }))
    })
    .await
}

/// Below the title.
const WIDE: &str = "\
orders  namespace default  version 0.1.0  pid 4242  up 10d
phase       draining for 812ms   gate open for 1m20s   app http on 8080
drain       d-1 by api   not drained yet   for 812ms   24s left   app busy
            it does not end
in hand     pubsub/bus 3
per second  http 50   published 0

  COMPONENT  TYPE                STATE         SINCE  NEXT TRY
x bus        pubsub.rabbitmq/v1  unavailable     12s  in 4s
    TRANSIENT, attempt 7, last ok 13s ago: connection ?[2Jrefused
~ > new      topic               idle            12s
+ store      state.redis/v1      ready         1m20s

  BREAKER OF  NAME               STATE         SINCE  NEXT PROBE
x app-b       default/app-b:pay  open             2s  in 500ms








";

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_a_sidecar_follows_keys_and_sizes_and_gives_the_terminal_back() {
    let port = ports::free();
    let app = orders(port).await;
    let mut top = top(
        &["--port", &port.to_string(), "--interval", "100ms"],
        80,
        24,
    );
    let rows = top.says("per second").await;
    let title = format!(" outrigger top   127.0.0.1:{port}   every 100ms ");
    assert!(
        rows[0].starts_with(&title) && rows[0].ends_with("  ? help  q quit"),
        "{rows:?}"
    );
    assert_eq!(
        rows[1..],
        WIDE.lines().collect::<Vec<_>>(),
        "{}",
        rows.join("\n")
    );
    let screen = top.screen();
    assert!(screen.alternate_screen() && screen.hide_cursor());
    let state = screen.cell(9, 33).unwrap();
    assert_eq!(
        (state.contents(), state.fgcolor()),
        ("u", vt100::Color::Idx(1))
    );

    // Smaller: the same, cut, with the end out of sight.
    top.resize(40, 10);
    let rows = top.says("lines 1 to 8 of ").await;
    assert_eq!(rows.len(), 10);
    assert_eq!(rows[1], "orders  namespace default  version 0.1.0");
    top.press("jj");
    top.says("lines 3 to 10 of ").await;
    top.press("\u{1b}[A");
    top.says("lines 2 to 9 of ").await;
    top.press("G");
    top.says("x app-b").await;
    top.press("?");
    top.says("q, Esc, Ctrl-C").await;
    top.press("?");
    top.says("x app-b").await;
    top.resize(120, 40);
    top.shows("the whole again", |rows| {
        rows.len() == 40 && rows[1].starts_with("orders") && rows[14].starts_with("x app-b")
    })
    .await;

    // One that goes away is shown as such, and comes back alone.
    drop(app);
    let rows = top.says("is unreachable for").await;
    assert!(
        rows[1].ends_with(": connection refused"),
        "{}",
        rows.join("\n")
    );
    assert_eq!(rows[2], "Below is what it said last.");
    let _again = orders(port).await;
    top.shows("the sidecar again", |rows| rows[1].starts_with("orders"))
        .await;

    top.press("q");
    assert_eq!(top.ended().await, 0);
    top.assert_given_back().await;
    assert_eq!(top.rows().concat(), "", "nothing is left on the screen");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sidecars_are_selected_with_tab() {
    let (here, nowhere) = (ports::free(), ports::free());
    let _app = orders(here).await;
    let here_url = format!("http://127.0.0.1:{here}");
    let mut top = top(
        &[
            "--port",
            &nowhere.to_string(),
            "--url",
            &here_url,
            "--no-color",
            "--interval=100ms",
        ],
        80,
        24,
    );
    let rows = top.says("IN HAND  HTTP/S").await;
    assert!(rows[0].contains("2 sidecars"), "{rows:?}");
    let rows = top
        .shows("both", |rows| {
            rows[2].contains("unreachable for") && rows[3].ends_with("50")
        })
        .await;
    assert!(rows[2].starts_with("> x          127.0.0.1:"), "{rows:?}");
    assert!(rows[3].starts_with("  x orders "), "{rows:?}");
    top.press("\t");
    let rows = top
        .shows("the other one", |rows| rows[3].starts_with("> x orders"))
        .await;
    assert!(rows[5].starts_with("orders  namespace"), "{rows:?}");
    let screen = top.screen();
    let cells = (0..24).flat_map(|row| (0..80).map(move |column| (row, column)));
    let mut cells = cells.filter_map(|(row, column)| screen.cell(row, column));
    assert!(cells.all(|cell| cell.fgcolor() == vt100::Color::Default));
    top.press("\u{3}");
    assert_eq!(top.ended().await, 0);
    top.assert_given_back().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_and_the_terminal_is_given_back() {
    let port = ports::free().to_string();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut top = top(&["--port", &port], 80, 24);
        top.says("unreachable for").await;
        assert!(top.screen().alternate_screen());
        top.signal(signal);
        assert_eq!(top.ended().await, code);
        top.assert_given_back().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_coloured_on_a_terminal_and_leaves_it_alone() {
    let port = ports::free();
    let _app = orders(port).await;
    let words = ["status", "--port", &port.to_string()];
    let mut status = Terminal::start(Path::new(LEADER), &words, 60, 30);
    assert_eq!(status.ended().await, 0);
    let rows = status.says("BREAKER OF").await;
    assert_eq!(
        rows[0],
        "orders  namespace default  version 0.1.0  pid 4242  up 10d"
    );
    assert!(
        rows.iter()
            .any(|row| row.ends_with("connection ?[2Jrefused")),
        "{rows:?}"
    );
    let screen = status.screen();
    assert!(screen.cell(0, 0).unwrap().bold());
    assert_eq!(screen.cell(1, 12).unwrap().fgcolor(), vt100::Color::Idx(3));
    status.assert_given_back().await;
}
