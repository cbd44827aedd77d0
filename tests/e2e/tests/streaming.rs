//! Bodies that are larger than any memory that a sidecar may take.
//!
//! Owns: a gigabyte through service invocation, in both directions.
//! Start at the one test that is here.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a step that fails must fail its test, and tell where"
)]

use std::time::{Duration, Instant};

use outrigger_e2e::component::names_in;
use outrigger_e2e::http::Connection;
use outrigger_e2e::{App, Plan, Reply, Request, Sidecar, figure, s};
use outrigger_testkit::{PrivateDir, wait};

const GIGABYTE: u64 = 1 << 30;
/// Of resident memory, in KiB.
const FLAT: u64 = 64 * 1024;

async fn sidecar(app_id: &str, app: &App, config: &str) -> Sidecar {
    let sidecar = Plan::new(app_id)
        .app(app.port())
        .flag("--max-body-size=0")
        .flag(&format!("--config={config}"))
        .serving()
        .await;
    sidecar.until_status("/v1.0/healthz", 204, s(10)).await;
    sidecar
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_flat_while_a_gigabyte_goes_through_two_sidecars_and_another_comes_back() {
    let folder = PrivateDir::new("names");
    let config = folder
        .write("config.yaml", names_in(&folder.path().join("names.db")))
        .display()
        .to_string();
    let app = App::start(|asked| match asked.path.as_str() {
        "/sink" => Reply::text(asked.length.to_string()),
        "/source" => Reply::zeros(GIGABYTE),
        _ => Reply::status(404),
    })
    .await;
    let (near, far) = (
        sidecar("near", &app, &config).await,
        sidecar("far", &app, &config).await,
    );
    wait::until("the peer", s(15), async || {
        near.get("/v1.0/invoke/far/method/missing").await.status == 404
    })
    .await;

    let began = Instant::now();
    let upload = Request::new("POST", "/v1.0/invoke/far/method/sink");
    let mut connection = Connection::open(near.ports.http).await.unwrap();
    let sent = wait::within("the upload", s(150), connection.stream(&upload, GIGABYTE))
        .await
        .unwrap();
    assert_eq!((sent.status, sent.text()), (200, GIGABYTE.to_string()));
    let up = began.elapsed();
    let peaks_up = (near.process.peak_memory(), far.process.peak_memory());

    let began = Instant::now();
    let download = Request::get("/v1.0/invoke/far/method/source");
    let got = wait::within("the download", s(150), connection.send(&download))
        .await
        .unwrap();
    assert_eq!((got.status, got.length), (200, GIGABYTE));
    let down = began.elapsed();
    let peaks = (near.process.peak_memory(), far.process.peak_memory());
    figure(
        "stream-1GiB",
        format!(
            "up {} MB/s, peak {peaks_up:?} KiB; down {} MB/s, peak {peaks:?} KiB",
            speed(up),
            speed(down)
        ),
    );
    assert!(peaks.0 < FLAT && peaks.1 < FLAT, "{peaks:?} KiB");
}

fn speed(took: Duration) -> u128 {
    u128::from(GIGABYTE) / 1000 / took.as_millis().max(1)
}
