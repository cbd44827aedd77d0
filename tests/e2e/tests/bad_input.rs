//! Requests and command lines that are wrong: the right status and code, and that everything else goes on.
//!
//! Owns: the part of "Bad input" that comes over the wire or as flags. Files are in `resources.rs`.
//! Start at any test; each is a story of its own.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use outrigger_e2e::app::subscriptions;
use outrigger_e2e::http::Connection;
use outrigger_e2e::{Answer, App, Component, Plan, Process, Reply, Request, Sidecar, grpc, ms, s};
use outrigger_proto::dapr::proto::common::v1::StateItem;
use outrigger_proto::dapr::proto::runtime::v1::{
    GetMetadataRequest, GetMetadataResponse, SaveStateRequest,
};
use outrigger_proto::google::rpc;
use outrigger_testkit::servers::{RedisServer, Server as _};
use outrigger_testkit::{PrivateDir, ports};
use tokio::io::AsyncWriteExt as _;

/// Everything in the process.
async fn small() -> Sidecar {
    plan().serving().await
}

fn plan() -> Plan {
    Plan::new("orders")
        .with(&Component::new("memory", "state.in-memory"))
        .with(&Component::new("bus", "pubsub.in-memory"))
}

async fn raw(sidecar: &Sidecar, bytes: &[u8]) -> Answer {
    let mut connection = Connection::open(sidecar.ports.http).await.unwrap();
    connection.send_raw(bytes).await.unwrap()
}

async fn save_by_grpc(
    sidecar: &Sidecar,
    value: Vec<u8>,
    headers: &[(&str, &str)],
) -> Result<(), grpc::Refusal> {
    let item = StateItem {
        key: "key".to_owned(),
        value: value.into(),
        ..StateItem::default()
    };
    let request = SaveStateRequest {
        store_name: "memory".to_owned(),
        states: vec![item],
    };
    grpc::call(
        sidecar.ports.grpc,
        "/dapr.proto.runtime.v1.Dapr/SaveState",
        &request,
        headers,
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused_on_every_route() {
    let app = App::start(|_| Reply::status(200)).await;
    let sidecar = plan()
        .app(app.port())
        .flag("--max-body-size=64Ki")
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
    let long = "x".repeat(100_000);
    let saved = sidecar
        .post(
            "/v1.0/state/memory",
            format!(r#"[{{"key":"a","value":"{long}"}}]"#),
        )
        .await;
    saved.assert(400, "ERR_MALFORMED_REQUEST");
    assert!(
        saved.text().contains("stream too large"),
        "{}",
        saved.text()
    );
    let published = sidecar
        .post("/v1.0/publish/bus/new", format!("\"{long}\""))
        .await;
    published.assert(500, "ERR_PUBSUB_PUBLISH_MESSAGE");
    let invoked = sidecar.post("/v1.0/invoke/orders/method/x", &long).await;
    invoked.assert(500, "ERR_DIRECT_INVOKE");
    assert!(
        invoked.text().contains("stream too large"),
        "{}",
        invoked.text()
    );
    let refusal = save_by_grpc(&sidecar, vec![b'x'; 100_000], &[])
        .await
        .unwrap_err();
    assert_eq!(refusal.code, 8);
    assert!(
        refusal.message.contains("received message larger than max"),
        "{refusal:?}"
    );
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_beyond_the_limit_is_answered_with_431() {
    let sidecar = small().await;
    let request = Request::get("/v1.0/metadata").header("x-long", &"x".repeat(20_000));
    let answer = sidecar.call(request).await;
    assert_eq!(answer.status, 431, "{}", answer.text());
    let head = format!(
        "GET /v1.0/state/memory/{} HTTP/1.1\r\nhost: x\r\n\r\n",
        "y".repeat(20_000)
    );
    assert_eq!(raw(&sidecar, head.as_bytes()).await.status, 431);
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_utf8_end_in_an_error_or_in_the_replacement_character() {
    let sidecar = small().await;
    // As in Dapr: broken text inside JSON is replaced, never refused, and never reaches the store as it is.
    let saved = sidecar
        .post(
            "/v1.0/state/memory",
            b"[{\"key\":\"a\",\"value\":\"\xff\xfe\"}]",
        )
        .await;
    saved.assert(204, "");
    assert_eq!(
        sidecar.get("/v1.0/state/memory/a").await.text(),
        "\"\u{fffd}\u{fffd}\""
    );
    let odd = raw(
        &sidecar,
        b"GET /v1.0/state/memory/%zz HTTP/1.1\r\nhost: x\r\n\r\n",
    )
    .await;
    assert_eq!(odd.status, 400, "{}", odd.text());
    let odd = raw(
        &sidecar,
        b"GET /v1.0/metadata HTTP/1.1\r\nhost: x\r\nx-\xff: y\r\n\r\n",
    )
    .await;
    assert_eq!(odd.status, 400, "{}", odd.text());
    let odd = raw(&sidecar, b"\xff\xfe\xfd / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(odd.status, 400, "{}", odd.text());
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_that_does_not_parse_is_refused_with_the_code_of_its_route() {
    let sidecar = small().await;
    for (path, body, status, code) in [
        ("/v1.0/state/memory", "{", 400, "ERR_MALFORMED_REQUEST"),
        (
            "/v1.0/state/memory",
            r#"[{"key":"","value":1}]"#,
            400,
            "ERR_MALFORMED_REQUEST",
        ),
        ("/v1.0/state/memory/bulk", "[", 400, "ERR_MALFORMED_REQUEST"),
        (
            "/v1.0/state/memory/transaction",
            "nothing",
            400,
            "ERR_MALFORMED_REQUEST",
        ),
        (
            "/v1.0/state/memory/transaction",
            r#"{"operations":[{"operation":"upset","request":{"key":"a"}}]}"#,
            400,
            "ERR_NOT_SUPPORTED_STATE_OPERATION",
        ),
        (
            "/v1.0/publish/bulk/bus/new",
            "{",
            400,
            "ERR_PUBSUB_EVENTS_SER",
        ),
        (
            "/v1.0/state/nowhere",
            "[]",
            400,
            "ERR_STATE_STORE_NOT_FOUND",
        ),
        (
            "/v1.0/publish/nowhere/new",
            "1",
            404,
            "ERR_PUBSUB_NOT_FOUND",
        ),
    ] {
        sidecar.post(path, body).await.assert(status, code);
    }
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_content_type_that_does_not_fit_the_body_is_refused() {
    let sidecar = small().await;
    let event = |body: &str| {
        Request::post("/v1.0/publish/bus/new", body)
            .header("content-type", "application/cloudevents+json")
    };
    let refused = sidecar.call(event("no json")).await;
    assert!(
        refused.status >= 400 && refused.code().starts_with("ERR_PUBSUB_CLOUD_EVENTS_SER"),
        "{refused:?}"
    );
    // A body without its type is taken as it is.
    let text =
        Request::post("/v1.0/publish/bus/new", "no json").header("content-type", "text/plain");
    sidecar.call(text).await.assert(204, "");
    let mut connection = Connection::open(sidecar.ports.grpc).await.unwrap();
    let answer = connection.send(&Request::get("/v1.0/metadata")).await;
    assert!(
        !answer.is_ok_and(|answer| answer.status < 400),
        "HTTP/1.1 at the gRPC port"
    );
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etag_that_is_absent_stale_or_no_etag_at_all_is_a_conflict_or_an_error_of_its_own() {
    let redis = RedisServer::shared().await;
    let sidecar = plan()
        .with(&Component::redis_state("store", &redis.address()))
        .serving()
        .await;
    sidecar.until("store", "ready", s(5)).await;
    let key = format!("etag-{}", ports::free());
    let save = |store: &str, etag: &str| {
        let body = format!(
            r#"[{{"key":"{key}","value":1,"etag":"{etag}","options":{{"concurrency":"first-write"}}}}]"#
        );
        Request::post(&format!("/v1.0/state/{store}"), body)
    };
    let delete = |store: &str, etag: &str| {
        Request::new("DELETE", &format!("/v1.0/state/{store}/{key}")).header("if-match", etag)
    };
    // Of a key that does not exist.
    sidecar
        .call(save("memory", "1"))
        .await
        .assert(409, "ERR_STATE_SAVE");
    sidecar
        .call(delete("memory", "1"))
        .await
        .assert(409, "ERR_STATE_DELETE");
    for store in ["memory", "store"] {
        let plain = format!(r#"[{{"key":"{key}","value":1}}]"#);
        sidecar
            .post(&format!("/v1.0/state/{store}"), plain)
            .await
            .assert(204, "");
        sidecar
            .call(save(store, "77"))
            .await
            .assert(409, "ERR_STATE_SAVE");
        sidecar
            .call(delete(store, "77"))
            .await
            .assert(409, "ERR_STATE_DELETE");
        let read = sidecar.get(&format!("/v1.0/state/{store}/{key}")).await;
        let etag = read.header("etag").expect("an entity tag").to_owned();
        sidecar.call(delete(store, &etag)).await.assert(204, "");
        assert_eq!(
            sidecar
                .get(&format!("/v1.0/state/{store}/{key}"))
                .await
                .status,
            204
        );
    }
    sidecar
        .call(save("store", "no number"))
        .await
        .assert(400, "ERR_STATE_SAVE");
    sidecar.assert_state_works("store").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_wrong_api_token_is_refused_and_health_needs_none() {
    let sidecar = plan().env("DAPR_API_TOKEN", "right").serving().await;
    let request = |token: Option<&str>| {
        let request = Request::get("/v1.0/metadata");
        match token {
            Some(token) => request.header("dapr-api-token", token),
            None => request,
        }
    };
    for token in [None, Some("wrong"), Some("")] {
        let answer = sidecar.call(request(token)).await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (401, "invalid api token\n"),
            "{token:?}"
        );
    }
    assert_eq!(sidecar.call(request(Some("right"))).await.status, 200);
    for path in ["/v1.0/healthz", "/v1.0/healthz/outbound"] {
        assert_eq!(sidecar.get(path).await.status, 204);
    }
    for (headers, text) in [
        (vec![], "missing api token"),
        (vec![("dapr-api-token", "wrong")], "token mismatch"),
    ] {
        let refusal = save_by_grpc(&sidecar, b"1".to_vec(), &headers)
            .await
            .unwrap_err();
        assert_eq!(
            (refusal.code, refusal.message.as_str()),
            (16, "Unauthorized"),
            "{text}"
        );
    }
    save_by_grpc(&sidecar, b"1".to_vec(), &[("dapr-api-token", "right")])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_decoded_is_refused_by_grpc() {
    let sidecar = small().await;
    // Its first field is a number; a request's first field is a text.
    let number = rpc::Status {
        code: 5,
        ..rpc::Status::default()
    };
    let method = "/dapr.proto.runtime.v1.Dapr/SaveState";
    let refused: Result<(), _> = grpc::call(sidecar.ports.grpc, method, &number, &[]).await;
    assert_eq!(refused.unwrap_err().code, 13);
    let garbage = GetMetadataRequest {};
    let unknown: Result<GetMetadataResponse, _> = grpc::call(
        sidecar.ports.grpc,
        "/dapr.proto.runtime.v1.Dapr/NoSuchMethod",
        &garbage,
        &[],
    )
    .await;
    let refusal = unknown.unwrap_err();
    assert!([2, 12].contains(&refusal.code), "{refusal:?}");
    let wrong = SaveStateRequest {
        store_name: "nowhere".to_owned(),
        states: Vec::new(),
    };
    let refused: Result<(), _> = grpc::call(
        sidecar.ports.grpc,
        "/dapr.proto.runtime.v1.Dapr/SaveState",
        &wrong,
        &[],
    )
    .await;
    assert_eq!(refused.unwrap_err().code, 3);
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_flags_and_bad_values_are_named_with_exit_codes_2_and_1() {
    for (flags, code, parts) in [
        (
            vec!["--app-id=a", "--app-prot=1"],
            2,
            vec!["--app-prot", "--app-port"],
        ),
        (
            vec!["--app-id=a", "--dapr-http-port"],
            2,
            vec!["--dapr-http-port"],
        ),
        (
            vec!["--app-id=a", "--app-max-concurrency=many"],
            2,
            vec!["--app-max-concurrency", "many"],
        ),
        (
            vec!["--app-id=a", "--log-level=loud"],
            1,
            vec!["--log-level", "loud"],
        ),
        (
            vec!["--app-id=a", "--component-init-mode=brave"],
            1,
            vec!["--component-init-mode", "resilient or strict"],
        ),
        (vec!["--dapr-http-port=1"], 1, vec!["--app-id"]),
    ] {
        let words: Vec<&str> = ["sidecar"].into_iter().chain(flags.clone()).collect();
        let ended = Process::run(&words).await;
        assert_eq!(ended.code, code, "{flags:?}: {}", ended.output);
        assert!(ended.took < s(2), "{:?}", ended.took);
        for part in parts {
            assert!(
                ended.output.contains(part),
                "{flags:?}, no {part}: {}",
                ended.output
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_waited_for_ten_seconds_and_then_named() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let start = |flag: &str| plan().flag(&format!("--{flag}={port}")).start();
    let (mut api, mut internal) = (start("dapr-grpc-port"), start("dapr-internal-grpc-port"));
    let (api, internal) = tokio::join!(api.process.ended(s(20)), internal.process.ended(s(20)));
    for (ended, whose) in [(api, "the gRPC API"), (internal, "the internal gRPC")] {
        assert_eq!(ended.code, 1, "{}", ended.output);
        assert!(
            ended.output.contains(&port.to_string()) && ended.output.contains(whose),
            "{}",
            ended.output
        );
        assert!(
            ended.took >= s(9) && ended.took <= s(12),
            "{:?}",
            ended.took
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_becomes_free_in_time_is_taken() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let sidecar = plan().flag(&format!("--dapr-grpc-port={port}")).start();
    outrigger_testkit::wait::never("an answer", s(2), async || {
        outrigger_e2e::http::call(sidecar.ports.http, &Request::get("/v1.0/healthz/outbound"))
            .await
            .is_ok_and(|answer| answer.status == 204)
    })
    .await;
    drop(taken);
    sidecar.serves(s(5)).await;
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_or_configuration_that_cannot_be_read_ends_the_start_with_its_name() {
    let folder = PrivateDir::new("unreadable");
    let file = folder.write("file", "no folder").display().to_string();
    let bad = folder.write("bad.yaml", "a: [").display().to_string();
    let missing = folder.path().join("missing").display().to_string();
    for (flag, name) in [
        (format!("--resources-path={missing}"), &missing),
        (format!("--resources-path={file}"), &file),
        (format!("--config={missing}"), &missing),
        (format!("--config={bad}"), &bad),
    ] {
        let mut sidecar = plan().flag(&flag).start();
        let ended = sidecar.process.ended(s(10)).await;
        assert_eq!(ended.code, 1, "{flag}: {}", ended.output);
        assert!(
            ended.output.contains(name.as_str()),
            "{flag}: {}",
            ended.output
        );
        assert!(ended.took < s(3), "{:?}", ended.took);
    }
}

/// In a user namespace without rights, so that files without permissions are closed to root as well.
const WITHOUT_RIGHTS: [&str; 2] = ["unshare", "--user"];

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_permissions_ends_the_start_with_its_name() {
    let folder = PrivateDir::new("closed");
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    set_mode(&closed, 0);
    let flag = format!("--resources-path={}", closed.display());
    let mut sidecar = plan().wrapped(&WITHOUT_RIGHTS).flag(&flag).start();
    let ended = sidecar.process.ended(s(10)).await;
    set_mode(&closed, 0o700);
    assert_eq!(ended.code, 1, "{}", ended.output);
    assert!(
        ended.output.contains("closed") && ended.output.contains("Permission denied"),
        "{}",
        ended.output
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_file_without_permissions_is_named_and_hurts_no_other() {
    let plan = plan().file(
        "closed.yaml",
        Component::new("closed", "state.in-memory").yaml(),
    );
    set_mode(&plan.folder().join("closed.yaml"), 0);
    let sidecar = plan.wrapped(&WITHOUT_RIGHTS).serving().await;
    let line = sidecar.process.says("Permission denied", s(5)).await;
    assert!(line.contains("closed.yaml"), "{line}");
    let seen = sidecar.components().await;
    let is_named = |one: &serde_json::Value| {
        one["state"] == "rejected" && one["name"].as_str().unwrap().contains("closed.yaml")
    };
    assert!(seen.iter().any(is_named), "{seen:?}");
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_no_http_are_refused_and_leave_the_others_alone() {
    let sidecar = small().await;
    let mut healthy = Connection::open(sidecar.ports.http).await.unwrap();
    for bytes in [
        &b"GET /v1.0/metadata HTTP/1.1\r\n\r\n"[..],
        b"GET /v1.0/metadata HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST /v1.0/state/memory HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"POST /v1.0/state/memory HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    ] {
        let answer = raw(&sidecar, bytes).await;
        assert_eq!(answer.status, 400, "{} for {:?}", answer.text(), String::from_utf8_lossy(bytes));
    }
    let odd = raw(
        &sidecar,
        b"POST /v1.0/state/memory HTTP/1.1\r\nhost: a\r\ntransfer-encoding: zip\r\n\r\n",
    )
    .await;
    assert_eq!(odd.status, 501);
    let began = Instant::now();
    assert_eq!(
        healthy
            .send(&Request::get("/v1.0/metadata"))
            .await
            .unwrap()
            .status,
        200
    );
    assert!(began.elapsed() < ms(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_the_grpc_ports_ends_its_own_connection_only() {
    let sidecar = small().await;
    for port in [
        sidecar.ports.grpc,
        sidecar.ports.internal,
        sidecar.ports.metrics,
    ] {
        let mut connection = Connection::open(port).await.unwrap();
        let noise = [0x9f_u8; 4096];
        let answer = connection.send_raw(&noise);
        let answer = outrigger_testkit::wait::within("an end", s(15), answer).await;
        assert!(
            !answer.is_ok_and(|answer| answer.status < 400),
            "port {port}"
        );
    }
    save_by_grpc(&sidecar, b"1".to_vec(), &[]).await.unwrap();
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_answers_noise_is_an_error_of_that_call() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", ports::free()))
        .await
        .unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut noisy = tokio::task::JoinSet::new();
    noisy.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Read first: closing with unread data would be a reset.
            stream.readable().await.ok();
            stream.try_read(&mut [0; 8192]).ok();
            stream.write_all(b"this is no HTTP\r\n\r\n").await.ok();
        }
    });
    let sidecar = plan()
        .app(port)
        .flag("--disable-init-endpoints=config,subscribe")
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
    let answer = sidecar.post("/v1.0/invoke/orders/method/x", "{}").await;
    answer.assert(500, "ERR_DIRECT_INVOKE");
    sidecar.assert_state_works("memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_subscriptions_that_is_no_json_is_asked_for_again() {
    let asked = AtomicUsize::new(0);
    let list = subscriptions(&[("bus", "new")]);
    let app = App::start(move |request| match request.path.as_str() {
        "/dapr/subscribe" if asked.fetch_add(1, Ordering::SeqCst) < 2 => Reply::text("[{"),
        "/dapr/subscribe" => Reply::json(&list),
        _ => Reply::status(200),
    })
    .await;
    let sidecar = plan().app(app.port()).serving().await;
    sidecar.assert_state_works("memory").await;
    sidecar.until_topic("bus", "new", "active", s(10)).await;
    sidecar.publish("bus", "new", "hello").await.assert(204, "");
    outrigger_testkit::wait::until("the delivery", s(5), async || app.delivered("hello")).await;
    assert_eq!(app.count("/dapr/subscribe"), 3);
}
