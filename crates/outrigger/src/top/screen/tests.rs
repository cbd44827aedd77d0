//! Whole screens, compared with files; `UPDATE_GOLDEN=1` writes them. And anything at all on any size.

use std::path::Path;

use outrigger_core::json::{Value, parse_all};
use proptest::prelude::*;

use super::*;
use crate::client::text::is_harmful;
use crate::client::{Failure, Sidecar};
use crate::status::model::Status;

const ORDERS: &str = r#"{
  "appId":"orders","namespace":"default","version":"0.1.0","pid":4242,"uptimeMs":81234,
  "phase":"ready","phaseSinceMs":80000,"gate":"open","gateSinceMs":80100,"app":{"port":8080,"protocol":"http"},
  "inflight":{"pubsub/orders-pubsub":3,"invoke":1},
  "components":[
    {"name":"archive","type":"state.sqlite/v1","state":"connecting","sinceMs":900,"attempt":1},
    {"name":"orders-pubsub","type":"pubsub.rabbitmq/v1","state":"unavailable","sinceMs":12000,"attempt":7,
     "class":"TRANSIENT","message":"error connecting to amqp://broker.orders.svc.cluster.local:5672: connection refused",
     "nextRetryMs":4000,"lastOkMs":13000,"optional":true,
     "subscriptions":[{"topic":"new","state":"idle","sinceMs":12000,"attempt":0},
                      {"topic":"cancelled","state":"retrying","sinceMs":100,"attempt":3,"error":"queue is exclusive"}]},
    {"name":"statestore","type":"state.redis/v1","state":"ready","sinceMs":80000,"attempt":1,"lastOkMs":40,
     "pendingRevision":{"state":"rejected","message":"redisHost is missing"}},
    {"name":"vault","type":"secretstores.hashicorp.vault/v1","state":"rejected","sinceMs":81000,
     "class":"CONFIG","message":"no such type"}],
  "breakers":[{"target":"app-b","breaker":"default/app-b:pay","state":"open","forMs":2000,"nextProbeMs":500,
               "lastError":"status 503"}],
  "counters":{"httpRequests":123,"grpcRequests":4,"published":10,"delivered":8,"failed":1,"released":0,"refused":3}}"#;

const SHOP: &str = r#"{"appId":"shop","phase":"draining","phaseSinceMs":812,"gate":"open","pid":7,"uptimeMs":5000,
  "drain":{"id":"d-1","cause":"api","exits":false,"drained":false,"forMs":812,"deadlineMs":24188,"busy":true},
  "inflight":{"invoke":2},"components":[],"counters":{"httpRequests":1}}"#;

fn status(json: &str) -> Status {
    Status::read(&parse_all(json.as_bytes()).unwrap()).unwrap()
}

/// One that was asked twice, two seconds apart by its own clock.
fn asked(port: u16, json: &str, now: Instant) -> Watched {
    let mut watched = Watched::new(&Sidecar::local(port));
    let last = status(json);
    let mut before = last.clone();
    before.uptime_ms = before.uptime_ms.map(|uptime| uptime - 2_000);
    before.counters = status(r#"{"appId":"a","phase":"p","counters":{"httpRequests":0,"grpcRequests":3,"published":10,"delivered":0,"failed":0,"released":0,"refused":3}}"#).counters;
    watched.told(Ok(before), now);
    watched.told(Ok(last), now);
    watched
}

fn silent(mut watched: Watched, now: Instant) -> Watched {
    let why = format!("no sidecar answers at {}: connection refused", watched.at);
    watched.told(Err(Failure::Unreachable(why)), now);
    watched
}

fn look(has_color: bool) -> Look {
    Look {
        has_color,
        interval: Duration::from_secs(1),
    }
}

fn buffer(width: u16, height: u16) -> Buffer {
    Buffer::empty(Rect::new(0, 0, width, height))
}

fn frame(readings: &[Watched], keys: &mut View, size: (u16, u16), now: Instant) -> String {
    let mut buffer = buffer(size.0, size.1);
    keys.fit(draw(&mut buffer, readings, keys, look(false), now));
    shown(&buffer)
}

fn shown(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content.chunks(width).map(|row| {
        let mut text = String::new();
        let mut hidden = 0;
        for cell in row {
            // The second half of a wide character is a cell of its own.
            if hidden == 0 {
                text.push_str(cell.symbol());
                hidden = text::width(cell.symbol()).max(1);
            }
            hidden -= 1;
        }
        text.trim_end().to_owned() + "\n"
    });
    rows.collect()
}

use crate::client::text;

#[track_caller]
fn golden(name: &str, shown: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = folder.join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, shown).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        shown == expected,
        "{name} differs:\n{shown}\nexpected:\n{expected}"
    );
}

#[test]
fn one_sidecar_fits_a_usual_terminal() {
    let now = Instant::now();
    let readings = [asked(3500, ORDERS, now)];
    golden(
        "top_80x24",
        &frame(&readings, &mut View::new(1), (80, 24), now),
    );
    golden(
        "top_120x40",
        &frame(&readings, &mut View::new(1), (120, 40), now),
    );
    golden(
        "top_40x10",
        &frame(&readings, &mut View::new(1), (40, 10), now),
    );
}

#[test]
fn several_sidecars_have_an_overview_and_the_selected_one_its_details() {
    let now = Instant::now();
    let readings = [
        asked(3500, ORDERS, now),
        asked(3501, SHOP, now),
        silent(Watched::new(&Sidecar::local(3502)), now),
        silent(asked(3503, SHOP, now), now),
        Watched::new(&Sidecar::local(3504)),
    ];
    let mut keys = View::new(readings.len());
    keys.selected = 1;
    let later = now + Duration::from_secs(12);
    golden("top_several", &frame(&readings, &mut keys, (80, 24), later));
    keys.selected = 3;
    golden("top_silent", &frame(&readings, &mut keys, (80, 24), later));
    golden(
        "top_several_small",
        &frame(&readings, &mut keys, (40, 10), later),
    );
    keys.shows_help = true;
    golden("top_help", &frame(&readings, &mut keys, (80, 24), later));
}

#[test]
fn the_end_can_be_scrolled_to() {
    let now = Instant::now();
    let readings = [asked(3500, ORDERS, now)];
    let mut keys = View::new(1);
    frame(&readings, &mut keys, (80, 12), now);
    keys.scrolled = usize::MAX;
    let last = frame(&readings, &mut keys, (80, 12), now);
    assert!(last.contains("status 503"), "{last}");
    assert!(last.contains("lines 13 to 22 of 22"), "{last}");
}

#[test]
fn what_is_printed_once_has_everything() {
    let now = Instant::now();
    let readings = [asked(3500, ORDERS, now), asked(3501, SHOP, now)];
    let lines = once(&readings, 1_000, now);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let trimmed: String = text
        .lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect();
    golden("top_once", &trimmed);
}

#[test]
fn colour_only_repeats_what_is_written() {
    let now = Instant::now();
    let readings = [asked(3500, ORDERS, now), asked(3501, SHOP, now)];
    let draw = |has_color| {
        let mut buffer = buffer(80, 24);
        draw(&mut buffer, &readings, &View::new(2), look(has_color), now);
        buffer
    };
    let (colored, plain) = (draw(true), draw(false));
    assert_eq!(shown(&colored), shown(&plain));
    let has_color = |buffer: &Buffer| buffer.content.iter().any(|cell| cell.fg != Color::Reset);
    assert!(has_color(&colored) && !has_color(&plain));
}

/// Any text, also those that nobody means well.
fn any_text() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(Value::string),
        "[a-z.-]{0,60}".prop_map(Value::string),
        prop::sample::select(vec![
            "ready",
            "open",
            "closed",
            "unavailable",
            "rejected",
            "retrying",
            "日本語の名前",
            "👨‍👩‍👧‍👦☺️e\u{301}",
            "\u{1b}[2J"
        ])
        .prop_map(Value::string),
    ]
}

fn any_member() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::integer),
        (0_i64..100_000).prop_map(Value::integer),
        Just(Value::Number("1e400".to_owned())),
    ];
    let leaf = prop_oneof![
        any_text(),
        number,
        any::<bool>().prop_map(Value::Bool),
        Just(Value::Null)
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec(
                (
                    prop::sample::select(vec![
                        "name",
                        "type",
                        "state",
                        "sinceMs",
                        "attempt",
                        "class",
                        "message",
                        "nextRetryMs",
                        "lastOkMs",
                        "optional",
                        "subscriptions",
                        "topic",
                        "error",
                        "target",
                        "breaker",
                        "forMs",
                        "nextProbeMs",
                        "lastError",
                        "pendingRevision",
                        "port",
                        "protocol",
                        "cause",
                        "exits",
                        "drained",
                        "deadlineMs",
                        "busy",
                        "httpRequests",
                        "invoke",
                    ])
                    .prop_map(str::to_owned),
                    inner
                ),
                0..12
            )
            .prop_map(Value::Object),
        ]
    })
}

/// A component or a breaker that is likely to be read.
fn any_thing() -> impl Strategy<Value = Value> {
    (
        any_text(),
        any_text(),
        any_text(),
        any_member(),
        any_member(),
    )
        .prop_map(|(name, kind, state, message, more)| {
            let mut members = vec![
                ("name".to_owned(), name.clone()),
                ("target".to_owned(), name.clone()),
                ("topic".to_owned(), name),
                ("type".to_owned(), kind.clone()),
                ("breaker".to_owned(), kind),
                ("state".to_owned(), state),
                ("message".to_owned(), message),
            ];
            if let Value::Object(more) = more {
                members.extend(more);
            }
            Value::Object(members)
        })
}

fn any_status() -> impl Strategy<Value = Value> {
    let things = || prop::collection::vec(any_thing(), 0..6).prop_map(Value::Array);
    let head = (
        any_text(),
        any_text(),
        any_text(),
        any_member(),
        any_member(),
    );
    let body = (things(), things(), any_member(), any_member(), any_member());
    (head, body).prop_map(
        |(
            (app_id, phase, gate, uptime, app),
            (components, breakers, drain, inflight, counters),
        )| {
            Value::object([
                ("appId", app_id),
                ("phase", phase),
                ("gate", gate),
                ("uptimeMs", uptime.clone()),
                ("phaseSinceMs", uptime),
                ("app", app),
                ("drain", drain),
                ("inflight", inflight),
                ("components", components),
                ("breakers", breakers),
                ("counters", counters),
            ])
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_reading_on_no_screen_panics_or_moves_a_cursor(
        values in prop::collection::vec((any_status(), any::<bool>(), any::<bool>()), 0..4),
        size in (0_u16..150, 0_u16..50),
        selected in 0_usize..5,
        scrolled in prop_oneof![0_usize..40, Just(usize::MAX)],
        shows_help in any::<bool>(),
        has_color in any::<bool>(),
    ) {
        let now = Instant::now();
        let readings: Vec<Watched> = values
            .iter()
            .map(|(value, is_known, is_silent)| {
                let mut watched = Watched::new(&Sidecar::local(1));
                if let (true, Some(status)) = (is_known, Status::read(value)) {
                    watched.told(Ok(status.clone()), now);
                    watched.told(Ok(status), now);
                }
                if *is_silent { silent(watched, now) } else { watched }
            })
            .collect();
        let mut keys = View::new(readings.len());
        keys.selected = selected;
        keys.scrolled = scrolled;
        keys.shows_help = shows_help;
        let mut buffer = buffer(size.0, size.1);
        keys.fit(draw(&mut buffer, &readings, &keys, look(has_color), now));
        draw(&mut buffer, &readings, &keys, look(has_color), now);
        prop_assert!(!shown(&buffer).replace('\n', "").contains(is_harmful));
        let room = usize::from(size.0);
        for line in once(&readings, room, now) {
            prop_assert!(line.width() <= room, "{line} in {room}");
        }
    }
}
