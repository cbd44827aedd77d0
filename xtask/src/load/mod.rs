//! The load generator: one kind of request, sent over and over.
//!
//! Owns: the hidden command `load`, the pace, the latencies. It is one thread and so leaves the machine to the sidecars.
//! Never: judges. It stops at the first answer that is no success, since a figure over errors means nothing.
//! Start at [`run`]; what to send is a [`Job`], what came of it a [`Report`].

mod grpc;
mod http;
mod job;
mod pace;
mod report;

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use tokio::task::JoinSet;

pub(crate) use job::{Amount, Job, Protocol};
pub(crate) use report::Report;

use crate::words::Words;
use pace::{Pace, Timer};

pub(crate) fn command(words: Words) -> Result<()> {
    let job = Job::from_words(words)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(run(job))?;
    crate::say(&report.to_text())
}

async fn run(job: Job) -> Result<Report> {
    let mut callers = Vec::new();
    for _ in 0..job.connections {
        callers.push(Caller::connect(&job).await?);
    }
    let began = Instant::now();
    let pace = Arc::new(Pace::new(&job, began));
    let mut workers = JoinSet::new();
    for caller in callers {
        workers.spawn(work(caller, Arc::clone(&pace)));
    }
    let mut latencies = Vec::new();
    while let Some(outcome) = workers.join_next().await {
        latencies.append(&mut outcome??);
    }
    Ok(Report::new(latencies, began.elapsed()))
}

/// Calls until there is nothing left to call. Whoever is free takes the next request; it is counted from the moment
/// when it was due, not from when it was sent, so that a stalled sidecar cannot hide its stall by slowing the load.
async fn work(mut caller: Caller, pace: Arc<Pace>) -> Result<Vec<u32>> {
    let timer = Timer::new()?;
    let mut latencies = Vec::new();
    while let Some(due) = pace.next() {
        timer.until(due).await?;
        caller.call().await?;
        latencies.push(u32::try_from(due.elapsed().as_nanos() / 100)?);
    }
    Ok(latencies)
}

/// One connection.
enum Caller {
    Http(http::Caller),
    Grpc(Box<grpc::Caller>),
}

impl Caller {
    async fn connect(job: &Job) -> Result<Self> {
        Ok(match job.protocol {
            Protocol::Http => Caller::Http(http::Caller::connect(job).await?),
            Protocol::Grpc => Caller::Grpc(Box::new(grpc::Caller::connect(job).await?)),
        })
    }

    async fn call(&mut self) -> Result<()> {
        match self {
            Caller::Http(caller) => caller.call().await,
            Caller::Grpc(caller) => caller.call().await,
        }
    }
}
