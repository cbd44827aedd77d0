//! The soak: publish, subscribe, state and invocation for as long as one likes, while things go wrong.
//!
//! Owns: the order of a run: start, faults, healing, settling, counting.
//! Never: links a part of the sidecar; what is tested is the program that users get.
//! Start at [`soak`]. `plan.rs` says what goes wrong, `world.rs` does it, `traffic.rs` is the load, `ledger.rs` counts,
//! `samples.rs` watches memory, `report.rs` judges. `cargo xtask soak` builds everything and runs this; it reads the command
//! line of users, and hands on `NAME=VALUE`.

mod app;
mod ledger;
mod plan;
mod report;
mod samples;
mod traffic;
mod world;

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::FutureExt as _;
use futures_util::future::try_join_all;
use outrigger_e2e::rolling::{Broker, Rolling};
use tokio::time::sleep;

use ledger::Topic;
use plan::{Node, Plan, Round};
use report::{Carried, RECOVERY, Report, disturbed_by};
use samples::Samples;
use traffic::{Activity, Books, Traffic};
use world::World;

/// Everything works within this time after the start.
const START: Duration = Duration::from_secs(60);
/// How long everything has to work without a refusal at the end.
const CALM: Duration = Duration::from_secs(3);
/// How long what was accepted may take to arrive when everything works.
const SETTLE: Duration = Duration::from_secs(120);
/// Between two looks at memory.
const LOOK: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")
        .and_then(|runtime| runtime.block_on(command()));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            progress(&format!("soak: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn command() -> Result<bool> {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    if name == "app" {
        let port = words.next().context("`app` needs a port")?.parse()?;
        return app::command(port).await.map(|()| true);
    }
    let words: Vec<String> = words.collect();
    let text = |name: &str| {
        let found = words
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.with_context(|| format!("`{name}` is missing; use `cargo xtask soak`"))
    };
    let number = |name: &str| anyhow::Ok(text(name)?.parse::<u64>()?);
    let seed = number("seed")?;
    match name.as_str() {
        "soak" => {
            let options = Options {
                length: Duration::from_secs(number("seconds")?),
                seed,
                rate: u32::try_from(number("rate")?)?,
                out: PathBuf::from(text("out")?),
            };
            let work = AssertUnwindSafe(soak(&options)).catch_unwind();
            tokio::select! {
                done = work => done.unwrap_or_else(|_| bail!("the soak itself failed, see above; seed {seed}")),
                _ = tokio::signal::ctrl_c() => bail!("stopped"),
            }
        }
        "rolling" => rolling(seed, number("messages")?, number("replicas")?).await,
        _ => bail!("unknown command `{name}`; use `cargo xtask soak`"),
    }
}

struct Options {
    length: Duration,
    seed: u64,
    /// Messages a second.
    rate: u32,
    /// The JSON file; logs go beside it.
    out: PathBuf,
}

/// Runs it, and says whether all was well.
async fn soak(options: &Options) -> Result<bool> {
    let logs = options.out.with_extension("logs");
    if logs.exists() {
        std::fs::remove_dir_all(&logs)?;
    }
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let books = Arc::new(Books::new());
    let world = World::start(&logs, Arc::clone(&books)).await?;
    for node in Node::ALL {
        books.reconnect(node, world.api_port(node));
    }
    let samples = Mutex::new(Samples::default());
    let running = run(options, &world, &books, &samples);
    let report = tokio::select! {
        report = running => report?,
        () = watch(&world, &books, &samples) => bail!("nobody watches any more"),
    };
    std::fs::write(&options.out, report.json().to_string())?;
    write!(std::io::stdout().lock(), "\n{report}")?;
    progress(&format!(
        "{}, and logs in {}",
        options.out.display(),
        logs.display()
    ));
    Ok(report.faults().is_empty())
}

/// Looks at the sidecars every now and then, for ever.
async fn watch(world: &World, books: &Books, samples: &Mutex<Samples>) {
    loop {
        world.look_after().await;
        let lives = world.lives();
        lock(samples).take(books.now(), &lives);
        sleep(LOOK).await;
    }
}

async fn run(
    options: &Options,
    world: &World,
    books: &Arc<Books>,
    samples: &Mutex<Samples>,
) -> Result<Report> {
    let traffic = Traffic::start(books, options.rate);
    let started = successes(books, Activity::all(), books.now(), START).await;
    let silent = started.iter().find(|(_, time)| time.is_none());
    ensure!(
        silent.is_none(),
        "no {silent:?} within {START:?} of the start"
    );
    progress(&format!("everything works after {:.1?}", books.now()));

    let (end, mut carried) = (Instant::now() + options.length, Vec::new());
    for round in Plan::new(options.seed) {
        if Instant::now() + round.rest >= end {
            break;
        }
        sleep(round.rest).await;
        carried.extend(carry_out(&round, world, books).await?);
    }
    sleep(CALM).await;
    books.set_calm(true);
    sleep(CALM).await;
    books.set_calm(false);
    let growth = Node::ALL.map(|node| (node, lock(samples).judge(node)));
    progress("all faults are over, waiting for what is under way");
    traffic.end().await;
    let left = settle(world, books).await;
    let (keys, unread) = read_keys(books).await;
    let mut odd = world.complaints().await;
    world.stop().await;
    odd.extend(world.odd());
    let samples = std::mem::take(&mut lock(samples).0);
    Ok(Report {
        seed: options.seed,
        took: books.now(),
        carried,
        messages: Topic::ALL
            .map(|topic| (topic, books.messages(topic).counts()))
            .to_vec(),
        tally: books.tally(),
        keys,
        unread,
        odd_answers: books.odd(),
        odd,
        refused_in_calm: books.refused_in_calm(),
        left,
        growth: growth.to_vec(),
        samples,
    })
}

/// Hurts, heals, and waits until everything works again.
async fn carry_out(round: &Round, world: &World, books: &Books) -> Result<Vec<Carried>> {
    let faults = round.faults.iter().map(|fault| async move {
        let begun = books.now();
        progress(&format!("{:7.1} s  {fault}", begun.as_secs_f64()));
        world.carry_out(fault).await?;
        let healed = books.now();
        let recovery = successes(books, disturbed_by(fault.target), healed, RECOVERY).await;
        anyhow::Ok(Carried {
            fault: *fault,
            begun,
            healed,
            recovery,
        })
    });
    let carried = try_join_all(faults).await?;
    // What one fault was not expected to disturb must work as well before the next.
    successes(books, Activity::all(), books.now(), RECOVERY).await;
    Ok(carried)
}

/// Waits until each activity has succeeded after this moment; how long after it.
async fn successes(
    books: &Books,
    activities: Vec<Activity>,
    moment: Duration,
    limit: Duration,
) -> Vec<(Activity, Option<Duration>)> {
    loop {
        let time = |activity| {
            let success = books.success_after(activity, moment);
            success.map(|success| success.saturating_sub(moment))
        };
        let times: Vec<_> = activities
            .iter()
            .map(|activity| (*activity, time(*activity)))
            .collect();
        let is_over = books.now() >= moment + limit;
        if is_over || times.iter().all(|(_, time)| time.is_some()) {
            return times;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until everything that was accepted has arrived and the brokers have nothing left; how much they have.
async fn settle(world: &World, books: &Books) -> usize {
    let end = Instant::now() + SETTLE;
    loop {
        let missing: usize = Topic::ALL
            .map(|topic| books.messages(topic).missing())
            .iter()
            .sum();
        let left = if missing == 0 {
            world.left().await
        } else {
            missing
        };
        if left == 0 || Instant::now() > end {
            return left;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Reads every key that was ever written, through the sidecars in turns: how many there are, and how many are silent.
async fn read_keys(books: &Books) -> (usize, usize) {
    let (keys, mut unread) = (books.keys(), 0);
    for (key, node) in keys.iter().zip(Node::ALL.into_iter().cycle()) {
        unread += usize::from(!books.read(key, node).await);
    }
    (keys.len(), unread)
}

/// Replicas restarted in turn, on both brokers; whether all was well.
async fn rolling(seed: u64, messages: u64, replicas: u64) -> Result<bool> {
    let mut is_well = true;
    for (broker, at_a_time) in [(Broker::RedisStreams, 2), (Broker::RabbitMq, 1)] {
        let rolling = Rolling {
            broker,
            replicas: usize::try_from(replicas)?,
            messages: usize::try_from(messages)?,
            work: Duration::from_secs(5),
            at_a_time,
            every: Duration::from_secs(10),
            seed,
        };
        progress(&format!(
            "{broker:?}: {replicas} replicas, {at_a_time} at a time"
        ));
        let outcome = rolling.run().await;
        let faults = outcome.faults();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{broker:?}: {outcome}")?;
        faults
            .iter()
            .try_for_each(|fault| writeln!(out, "  {fault}"))?;
        is_well &= faults.is_empty();
    }
    Ok(is_well)
}

/// Tells whoever watches. A closed standard error is no reason to stop.
fn progress(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
