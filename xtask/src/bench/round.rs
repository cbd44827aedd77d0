//! One round: every figure once, for one subject.
//!
//! Owns: which scene is set up for which figure.
//! Start at [`run`]. A direct call is measured right before what it is compared with, over as many connections
//! and at the same pace.

use std::time::Duration;

use anyhow::Result;

use super::Timing;
use super::figures::{self as f, Samples};
use crate::load::{Amount, Job, Protocol, Report};
use crate::process::{busy, pause};
use crate::scene::{Call, Echo, Names, Scene};
use crate::sidecar::{Sidecar, Subject};

const CONNECTIONS: usize = 16;
const PER_SECOND: u32 = 1000;

pub(super) fn run(
    subject: &Subject,
    names: Names,
    timing: &Timing,
    samples: &mut Samples,
) -> Result<()> {
    let mut round = Round {
        scene: Scene::new("bench", names)?,
        subject,
        timing,
        samples,
    };
    round.samples.add(f::MACHINE, f::BUSY, busy(timing.settle)?);
    round.sizes()?;
    round.starts()?;
    round.one_sidecar()?;
    round.two_sidecars(Protocol::Http)?;
    round.two_sidecars(Protocol::Grpc)
}

struct Round<'a> {
    scene: Scene,
    subject: &'a Subject,
    timing: &'a Timing,
    samples: &'a mut Samples,
}

/// What one load showed, and what it cost each sidecar.
struct Outcome {
    report: Report,
    cpu: Vec<Duration>,
}

impl Round<'_> {
    fn sizes(&mut self) -> Result<()> {
        let length = std::fs::metadata(&self.subject.program)?.len();
        self.samples.add(f::SIZE, f::BINARY, length as f64 / 1e6);
        Ok(())
    }

    fn starts(&mut self) -> Result<()> {
        for _ in 0..self.timing.starts {
            let mut sidecar = self.scene.sidecar(self.subject)?;
            self.samples.add(f::SIZE, f::START, sidecar.first_answer()?);
        }
        Ok(())
    }

    fn one_sidecar(&mut self) -> Result<()> {
        let app = self.scene.echo(Protocol::Http)?;
        let mut sidecar = self.scene.sidecar(self.subject)?;
        sidecar.wait()?;
        pause(self.timing.settle);
        self.samples
            .add(f::SIZE, f::IDLE, sidecar.process.resident()?);
        // The value to get must have been set.
        let calls = [
            (f::STATE_SET, Call::StateSet),
            (f::STATE_GET, Call::StateGet),
            (f::PUBLISH, Call::Publish),
        ];
        let direct = self.direct(&app)?;
        for (name, call) in calls {
            let job = self.scene.job(call, &sidecar);
            let outcome = self.paced(&job, &[&sidecar])?;
            self.added(name, &outcome.report, &direct);
            self.add_cpu(name, &[f::CPU], &outcome);
            self.flat(name, &job, &[&sidecar])?;
        }
        Ok(())
    }

    fn two_sidecars(&mut self, protocol: Protocol) -> Result<()> {
        let (name, direct_name) = match protocol {
            Protocol::Http => (f::HTTP, f::DIRECT_HTTP),
            Protocol::Grpc => (f::GRPC, f::DIRECT_GRPC),
        };
        let app = self.scene.echo(protocol)?;
        let (calling, called) = self.scene.pair(self.subject, self.subject, &app)?;
        let pair = [&calling, &called];
        let direct = self.direct(&app)?;
        self.samples.add(direct_name, f::DIRECT_P50, direct.p50);
        self.samples.add(direct_name, f::DIRECT_P90, direct.p90);
        self.samples.add(direct_name, f::DIRECT_P99, direct.p99);
        let job = self.scene.job(Call::Invoke(protocol), &calling);
        let outcome = self.paced(&job, &pair)?;
        if protocol == Protocol::Http {
            let resident = calling.process.resident()?.max(called.process.resident()?);
            self.samples.add(f::SIZE, f::LOADED, resident);
        }
        self.added(name, &outcome.report, &direct);
        self.add_cpu(name, &[f::CALLING, f::CALLED], &outcome);
        self.flat(name, &job, &pair)
    }

    fn direct(&self, app: &Echo) -> Result<Report> {
        Ok(self.paced(&self.scene.direct(app), &[])?.report)
    }

    fn added(&mut self, name: &'static str, report: &Report, direct: &Report) {
        self.samples.add(name, f::P50, report.p50 - direct.p50);
        self.samples.add(name, f::P90, report.p90 - direct.p90);
        self.samples.add(name, f::P99, report.p99 - direct.p99);
    }

    fn add_cpu(&mut self, name: &'static str, names: &[&'static str], outcome: &Outcome) {
        for (figure, cpu) in names.iter().zip(&outcome.cpu) {
            self.samples.add(
                name,
                figure,
                cpu.as_secs_f64() * 1e6 / outcome.report.requests,
            );
        }
    }

    /// A load at the agreed pace, after one that warms up.
    fn paced(&self, job: &Job, sidecars: &[&Sidecar]) -> Result<Outcome> {
        let job = Job {
            connections: CONNECTIONS,
            rate: Some(PER_SECOND),
            ..job.clone()
        };
        self.scene.load(&Job {
            amount: Amount::Time(self.timing.warm),
            ..job.clone()
        })?;
        self.loaded(
            &Job {
                amount: Amount::Time(self.timing.paced),
                ..job
            },
            sidecars,
        )
    }

    /// As many requests as go through.
    fn flat(&mut self, name: &'static str, job: &Job, sidecars: &[&Sidecar]) -> Result<()> {
        let job = Job {
            connections: CONNECTIONS,
            ..job.clone()
        };
        self.scene.load(&Job {
            amount: Amount::Time(self.timing.warm),
            ..job.clone()
        })?;
        let outcome = self.loaded(
            &Job {
                amount: Amount::Time(self.timing.flat),
                ..job
            },
            sidecars,
        )?;
        let cpu: Duration = outcome.cpu.iter().sum();
        self.samples
            .add(name, f::FLAT, outcome.report.requests / cpu.as_secs_f64());
        self.samples.add(
            name,
            f::RATE,
            outcome.report.requests / outcome.report.seconds,
        );
        Ok(())
    }

    fn loaded(&self, job: &Job, sidecars: &[&Sidecar]) -> Result<Outcome> {
        let cpu = || {
            sidecars
                .iter()
                .map(|sidecar| sidecar.process.cpu())
                .collect::<Result<Vec<_>>>()
        };
        let before = cpu()?;
        let report = self.scene.load(job)?;
        let used = cpu()?
            .into_iter()
            .zip(before)
            .map(|(after, before)| after.saturating_sub(before));
        Ok(Outcome {
            report,
            cpu: used.collect(),
        })
    }
}
