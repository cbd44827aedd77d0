//! The receiving app, a process of its own so that it can be killed and frozen.
//!
//! Owns: the hidden command `app PORT`. It writes a line for each message before it answers, so what was handled is known
//! even if the process does not live to say so: `rabbit 17`, or `dead rabbit 17` on the dead letter topic.
//! Never: counts. Start at [`command`].

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::Result;
use outrigger_e2e::{App, Reply};
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};

/// What calls of other apps ask for.
pub(crate) const METHOD: &str = "echo";
/// One message in so many takes long.
const LONG: u64 = 97;

pub(crate) async fn command(port: u16) -> Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let mut app = App::forgetful(port, |asked| {
        let number = asked.data().as_u64();
        let told = match (asked.path.as_str(), number) {
            ("/on/rabbit", Some(number)) => format!("rabbit {number}"),
            ("/on/stream", Some(number)) => format!("stream {number}"),
            ("/on/rabbit-dead", Some(number)) => format!("dead rabbit {number}"),
            ("/on/stream-dead", Some(number)) => format!("dead stream {number}"),
            ("/echo", _) => {
                return Reply::json(&json!({"echo": String::from_utf8_lossy(&asked.body)}))
                    .after(Duration::from_millis(3));
            }
            ("/healthz", _) => return Reply::status(200),
            _ => return Reply::status(404),
        };
        let written = writeln!(std::io::stdout().lock(), "{told}");
        // What nobody got to know was not done.
        let status = if written.is_ok() { 200 } else { 500 };
        Reply::status(status).after(time_for(number.unwrap_or(0)))
    })
    .await;
    // Whoever started it holds the other end.
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let mut input = Receiver::from_owned_fd(input)?;
    let mut nothing = [0; 16];
    let orphaned = async { while matches!(input.read(&mut nothing).await, Ok(1..)) {} };
    tokio::select! {
        _ = stop.recv() => app.finish().await,
        () = orphaned => {}
    }
    Ok(())
}

/// How long the app takes over a message: some milliseconds, now and then a second.
fn time_for(number: u64) -> Duration {
    if number % LONG == LONG - 1 {
        return Duration::from_secs(1);
    }
    Duration::from_millis(number.wrapping_mul(2_654_435_761) % 40)
}
