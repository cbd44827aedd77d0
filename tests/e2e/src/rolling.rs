//! Replicas that are stopped and started again, one after the other, while messages take their time.
//!
//! Owns: row A47 of `lifecycle.md` §9, in any size; the test is short, `cargo xtask soak --rolling` is not.
//! Start at [`Rolling::run`].

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outrigger_testkit::servers::{Rabbit, RabbitServer, Redis, RedisServer, Server as _};
use outrigger_testkit::{ports, wait};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};

use crate::component::with_dead_letters;
use crate::http::{Pool, Request};
use crate::{App, Component, Plan, Reply, Sidecar, s};

const APP: &str = "worker";
const BUS: &str = "bus";
const TOPIC: &str = "jobs";
const GRAVEYARD: &str = "graveyard";
/// How many publishes are under way at a time.
const PUBLISHERS: usize = 16;

/// Where the messages are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broker {
    RabbitMq,
    RedisStreams,
}

/// How large it is to be.
#[derive(Clone, Debug)]
pub struct Rolling {
    pub broker: Broker,
    pub replicas: usize,
    pub messages: usize,
    /// How long the app takes over a message.
    pub work: Duration,
    /// How many messages an app works on at a time.
    pub at_a_time: usize,
    /// From one stop to the next.
    pub every: Duration,
    pub seed: u64,
}

/// One delivery of a message to an app.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    pub replica: usize,
    pub at: Duration,
}

/// One stop of a replica.
#[derive(Clone, Debug)]
pub struct Stopped {
    pub replica: usize,
    pub at: Duration,
    pub took: Duration,
    pub code: i32,
    /// The app went at the same time, and not after its sidecar.
    pub together: bool,
}

/// What became of it all.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub taken: BTreeMap<usize, Vec<Taken>>,
    pub lost: Vec<usize>,
    pub duplicated: Vec<usize>,
    /// What came to the dead letter topic.
    pub dead: usize,
    pub stops: Vec<Stopped>,
    pub took: Duration,
}

impl Outcome {
    /// What is wrong with it, one line each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.lost.is_empty() {
            faults.push(format!("{} lost: {:?}", self.lost.len(), self.lost));
        }
        for id in &self.duplicated {
            let near = |taken: &Taken| {
                let during = |stop: &&Stopped| {
                    stop.replica == taken.replica && stop.at + stop.took >= taken.at
                };
                let stop = self.stops.iter().find(during);
                format!("{taken:?}, that replica's next stop {stop:?}")
            };
            let taken: Vec<String> = self.taken.get(id).into_iter().flatten().map(near).collect();
            faults.push(format!("message {id} twice:\n  {}", taken.join("\n  ")));
        }
        if self.dead > 0 {
            faults.push(format!("{} dead letters", self.dead));
        }
        let unclean = self.stops.iter().filter(|stop| stop.code != 0);
        faults.extend(unclean.map(|stop| format!("unclean end: {stop:?}")));
        faults
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slowest = self.stops.iter().map(|stop| stop.took).max();
        write!(
            f,
            "{} messages in {:.1?}, {} stops (the slowest took {:.1?}); {} lost, {} dead letters, {} duplicated",
            self.taken.len() + self.lost.len(),
            self.took,
            self.stops.len(),
            slowest.unwrap_or_default(),
            self.lost.len(),
            self.dead,
            self.duplicated.len()
        )
    }
}

/// What the apps remember together.
#[derive(Debug)]
struct Book {
    began: Instant,
    taken: Mutex<BTreeMap<usize, Vec<Taken>>>,
}

impl Book {
    fn note(&self, id: usize, replica: usize) {
        let at = self.began.elapsed();
        self.lock()
            .entry(id)
            .or_default()
            .push(Taken { replica, at });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Vec<Taken>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Server {
    Rabbit(RabbitServer),
    Redis(RedisServer),
}

impl Server {
    async fn launch(broker: Broker) -> Self {
        match broker {
            Broker::RabbitMq => Self::Rabbit(RabbitServer::launch(Rabbit::default()).await),
            Broker::RedisStreams => Self::Redis(RedisServer::launch(Redis::default()).await),
        }
    }

    /// More is fetched than is worked on, so that there is always something to give back.
    fn component(&self, at_a_time: usize) -> Component {
        match self {
            Self::Rabbit(server) => {
                let rabbit = Component::rabbit(BUS, &server.url()).set("enableDeadLetter", "true");
                // Without limits of its own, RabbitMQ's subscription works on all that it fetches.
                if at_a_time == 1 {
                    rabbit
                        .set("prefetchCount", "5")
                        .set("concurrencyMode", "single")
                } else {
                    rabbit.set("prefetchCount", &at_a_time.to_string())
                }
            }
            Self::Redis(server) => Component::redis_pubsub(BUS, &server.address())
                .set("concurrency", &at_a_time.to_string())
                .set("queueDepth", "5"),
        }
    }

    /// How many messages are neither done nor lost.
    async fn left(&self) -> usize {
        match self {
            Self::Rabbit(server) => {
                let listed = server.control(&["-q", "list_queues", "name", "messages"]);
                let listed = listed.await;
                let counts = listed.lines().filter_map(|line| line.split('\t').nth(1));
                counts
                    .filter_map(|count| count.trim().parse::<usize>().ok())
                    .sum()
            }
            Self::Redis(server) => {
                let pending = server.command(&["XPENDING", TOPIC, APP]).await;
                let pending = pending.unwrap_or_default();
                let count = pending
                    .lines()
                    .nth(1)
                    .and_then(|line| line.strip_prefix(':'));
                count
                    .and_then(|count| count.trim().parse().ok())
                    .unwrap_or(usize::MAX)
            }
        }
    }
}

struct Replica {
    number: usize,
    app: App,
    sidecar: Sidecar,
}

impl Replica {
    async fn app(port: u16, number: usize, work: Duration, book: &Arc<Book>) -> App {
        let book = Arc::clone(book);
        App::forgetful(port, move |asked| match asked.path.as_str() {
            "/on/jobs" => {
                let id = asked
                    .data()
                    .as_u64()
                    .and_then(|id| usize::try_from(id).ok());
                book.note(id.unwrap_or(usize::MAX), number);
                Reply::status(200).after(work)
            }
            _ => Reply::status(404),
        })
        .await
    }

    /// Ends sidecar and app as a platform does, and starts them again.
    async fn restart(&mut self, together: bool, plan: &Rolling, book: &Arc<Book>) -> Stopped {
        let at = book.began.elapsed();
        let port = self.app.port();
        let (ended, took) = if together {
            tokio::join!(self.sidecar.stop(plan.work + s(30)), self.app.finish()).0
        } else {
            let ended = self.sidecar.stop(plan.work + s(30)).await;
            self.app.finish().await;
            ended
        };
        self.app = Self::app(port, self.number, plan.work, book).await;
        self.sidecar.start_again();
        Stopped {
            replica: self.number,
            at,
            took,
            code: ended.code,
            together,
        }
    }
}

impl Rolling {
    /// Publishes all messages, and stops a random replica again and again until they are done.
    ///
    /// # Panics
    /// When a server or a sidecar does not start, or the messages are not done in twice the time that they need.
    pub async fn run(&self) -> Outcome {
        let server = Server::launch(self.broker).await;
        let component = server.component(self.at_a_time);
        let book = Arc::new(Book {
            began: Instant::now(),
            taken: Mutex::default(),
        });
        let graves = App::subscribed(&[(BUS, GRAVEYARD)]).await;
        let gravedigger = Plan::new("gravedigger").app(graves.port()).with(&component);
        let gravedigger = gravedigger.serving().await;
        gravedigger
            .until_topic(BUS, GRAVEYARD, "active", s(30))
            .await;
        let mut replicas = Vec::new();
        for number in 0..self.replicas {
            let app = Replica::app(ports::free(), number, self.work, &book).await;
            let sidecar = Plan::new(APP)
                .app(app.port())
                .with(&component)
                .file("jobs.yaml", with_dead_letters(BUS, TOPIC, GRAVEYARD))
                .flag(&format!("--drain-timeout={}s", self.work.as_secs() + 25))
                .start();
            replicas.push(Replica {
                number,
                app,
                sidecar,
            });
        }
        for replica in &replicas {
            replica.sidecar.serves(s(60)).await;
            let active = replica.sidecar.until_topic(BUS, TOPIC, "active", s(30));
            active.await;
        }

        let began = Instant::now();
        self.publish(gravedigger.ports.http).await;
        let done = || book.lock().len() == self.messages;
        let rounds = self.messages.div_ceil(self.replicas * self.at_a_time);
        let needed = self.work * u32::try_from(rounds).unwrap_or(u32::MAX);
        let end = Instant::now() + needed * 2 + s(60);
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut turns = interval_at((Instant::now() + self.every).into(), self.every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stops = Vec::new();
        while !done() && Instant::now() < end {
            tokio::select! {
                _ = turns.tick() => {}
                () = sleep_until(end.into()) => {}
                () = wait::until("everything", s(24 * 3600), async || done()) => continue,
            }
            if let Some(replica) = replicas.iter_mut().choose(&mut random) {
                let together = random.random();
                stops.push(replica.restart(together, self, &book).await);
            }
        }
        // Nothing comes again that the broker does not have any more.
        if done() {
            let left = self.work + s(90);
            wait::until("an empty broker", left, async || {
                let left = server.left().await;
                if left == 0 { Ok(()) } else { Err(left) }
            })
            .await;
        }
        let taken = book.lock().clone();
        let lost = (0..self.messages).filter(|id| !taken.contains_key(id));
        let twice = taken.iter().filter(|(_, taken)| taken.len() > 1);
        Outcome {
            lost: lost.collect(),
            duplicated: twice.map(|(id, _)| *id).collect(),
            dead: graves.count(&format!("/on/{GRAVEYARD}")),
            taken,
            stops,
            took: began.elapsed(),
        }
    }

    async fn publish(&self, port: u16) {
        let pool = Arc::new(Pool::to(port));
        let mut publishers = JoinSet::new();
        for first in 0..PUBLISHERS {
            let pool = Arc::clone(&pool);
            let ids = (first..self.messages).step_by(PUBLISHERS);
            publishers.spawn(async move {
                for id in ids {
                    let request =
                        Request::post(&format!("/v1.0/publish/{BUS}/{TOPIC}"), id.to_string());
                    let answer = pool.send(&request).await;
                    let answer = answer.unwrap_or_else(|error| panic!("publish: {error}"));
                    answer.assert(204, "");
                }
            });
        }
        publishers.join_all().await;
    }
}
