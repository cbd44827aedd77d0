//! One connected instance.
//!
//! Owns: the links to the server or to the primaries of a cluster, where a key goes, when a command is sent again.
//! Never: reconnects. A link that ends is reported, and every later call fails until the supervisor has opened a new
//! instance, which looks names, sentinels and slots up anew.
//! Start at [`Client::call`].

mod discover;
mod link;
mod race;
mod slots;
mod tls;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use outrigger_component_api::{ComponentError, Loss, Open};
use redis::{Cmd, Pipeline, Value};
use tokio::sync::Semaphore;

use crate::error::{Failure, Redirect};
use crate::settings::{Server, Settings};
use discover::View;
pub(crate) use link::Link;
use link::{Dialer, Purpose};
pub(crate) use slots::slot;

/// Handles are clones.
#[derive(Clone)]
pub(crate) struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    dialer: Dialer,
    loss: Loss,
    view: Mutex<Arc<View>>,
    /// Held while the slots are looked up anew.
    renewing: tokio::sync::Mutex<()>,
    /// Connections for writes that wait for replicas, which would hold all others up.
    writers: Mutex<Vec<Link>>,
    writing: Semaphore,
}

impl Client {
    /// Connects to whatever the settings describe.
    ///
    /// # Cancel safety
    /// Dropped midway, it closes what it has opened.
    pub(crate) async fn open(settings: Arc<Settings>, open: &Open) -> Result<Self, ComponentError> {
        let pool_size = settings.pool_size.min(Semaphore::MAX_PERMITS);
        let mut dialer = Dialer::new(settings, open.scope.clone())?;
        let view = discover::open(&dialer).await?;
        dialer.greeting = dialer.settings.read_timeout;
        for link in &view.links {
            link.watch(&open.loss);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                dialer,
                loss: open.loss.clone(),
                view: Mutex::new(Arc::new(view)),
                renewing: tokio::sync::Mutex::new(()),
                writers: Mutex::default(),
                writing: Semaphore::new(pool_size),
            }),
        })
    }

    /// Asks every primary for an authenticated round trip, and whether it still is one.
    pub(crate) async fn ping(&self) -> Result<(), ComponentError> {
        if self.is_closed() {
            return Err(closed().into_error());
        }
        let view = self.view();
        try_join_all(view.links.iter().map(|link| link.check(None)))
            .await
            .map(|_| ())
    }

    /// Ends every connection. Calls under way and later ones fail.
    pub(crate) fn close(&self) {
        self.shared.dialer.life.cancel();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.dialer.life.is_cancelled()
    }

    pub(crate) fn is_cluster(&self) -> bool {
        !self.view().ranges.is_empty()
    }

    pub(crate) fn read_limit(&self) -> Option<Duration> {
        self.shared.dialer.settings.read_timeout
    }

    pub(crate) fn write_limit(&self) -> Option<Duration> {
        self.shared.dialer.settings.write_timeout
    }

    /// Every primary.
    pub(crate) fn primaries(&self) -> Vec<Link> {
        self.view().links.clone()
    }

    /// The link to the primary that has the key.
    pub(crate) fn owner(&self, key: &[u8]) -> Result<Link, Failure> {
        if self.is_closed() {
            return Err(closed());
        }
        self.view().link(key).cloned().ok_or_else(|| {
            Failure::Refused("CLUSTERDOWN no node of the cluster serves the slot".into())
        })
    }

    /// A connection of one's own to the server that `link` leads to, for commands that block. Its end is not reported.
    pub(crate) async fn dedicated(&self, link: &Link) -> Result<Link, ComponentError> {
        let dialer = &self.shared.dialer;
        dialer
            .connect_to(link.server(), link.address(), Purpose::Primary)
            .await
    }

    /// Sends a command to the owner of `key`, follows redirections, and repeats what was refused for the moment.
    pub(crate) async fn call(
        &self,
        key: &[u8],
        command: &Cmd,
        limit: Option<Duration>,
    ) -> Result<Value, Failure> {
        self.within(limit, self.route(key, command, None)).await
    }

    /// Sends commands in as few round trips as there are owners. One outcome per command, in order.
    pub(crate) async fn batch(
        &self,
        commands: Vec<(&[u8], Cmd)>,
        limit: Option<Duration>,
    ) -> Vec<Result<Value, Failure>> {
        let count = commands.len();
        let sent = self.within(limit, async { Ok(self.spread(commands).await) });
        match sent.await {
            Ok(outcomes) => outcomes,
            Err(failure) => vec![Err(failure); count],
        }
    }

    /// Runs a write that waits for replicas, on a connection that nobody else uses.
    pub(crate) async fn exclusively<T, F>(
        &self,
        owner: &Link,
        work: impl FnOnce(Link) -> F,
    ) -> Result<T, ComponentError>
    where
        F: Future<Output = Result<T, ComponentError>>,
    {
        let shared = &self.shared;
        let turn = self.within(self.write_limit(), async {
            Ok(shared.writing.acquire().await)
        });
        let _permit = turn.await.map_err(Failure::into_error)?;
        let idle = {
            let mut writers = lock(&shared.writers);
            writers.retain(Link::is_alive);
            let at = writers
                .iter()
                .position(|link| link.address() == owner.address());
            at.map(|at| writers.swap_remove(at))
        };
        let link = match idle {
            Some(link) => link,
            None => self.dedicated(owner).await?,
        };
        let done = work(link.clone()).await?;
        lock(&shared.writers).push(link);
        Ok(done)
    }

    fn view(&self) -> Arc<View> {
        lock(&self.shared.view).clone()
    }

    async fn within<T>(
        &self,
        limit: Option<Duration>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let Some(limit) = limit else {
            return work.await;
        };
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => {
                let view = self.view();
                let server = match view.links.as_slice() {
                    [link] => link.server().to_string(),
                    _ => "the cluster".to_owned(),
                };
                Err(Failure::late(server, limit))
            }
        }
    }

    /// `refused` is what a first attempt, made elsewhere, came to, and what was known then.
    async fn route(
        &self,
        key: &[u8],
        command: &Cmd,
        mut refused: Option<(Failure, Arc<View>)>,
    ) -> Result<Value, Failure> {
        let retry = self.shared.dialer.settings.retry;
        let (mut retries, mut hops) = (0, 0);
        let mut asking: Option<Server> = None;
        loop {
            let (failure, view) = match refused.take() {
                Some(refused) => refused,
                None => {
                    let view = self.view();
                    let outcome = match (asking.take(), self.owner(key)) {
                        (Some(server), _) => self.ask(&server, command).await,
                        (None, Ok(owner)) => owner.send(command, None).await,
                        (None, Err(failure)) => Err(failure),
                    };
                    match outcome {
                        Ok(value) => return Ok(value),
                        Err(failure) => (failure, view),
                    }
                }
            };
            match failure.redirect() {
                Some(to) if !view.ranges.is_empty() && hops < MOST_HOPS => {
                    hops += 1;
                    match to {
                        Redirect::Moved => self.renew(&view).await?,
                        Redirect::Ask(to) => {
                            let asked = self.owner(key)?;
                            asking = slots::target(&to, asked.server());
                        }
                    }
                }
                _ if failure.is_passing() && retries < retry.times => {
                    tokio::time::sleep(retry.pause(retries, rand::random())).await;
                    retries += 1;
                    if failure.is("CLUSTERDOWN") && !view.ranges.is_empty() {
                        // The slot may have an owner by now.
                        self.renew(&view).await?;
                    }
                }
                _ => return Err(self.noted(failure)),
            }
        }
    }

    async fn spread(&self, commands: Vec<(&[u8], Cmd)>) -> Vec<Result<Value, Failure>> {
        let view = self.view();
        let mut outcomes: Vec<Option<Result<Value, Failure>>> = vec![None; commands.len()];
        let mut shares: Vec<Share<'_>> = Vec::new();
        for (at, (key, command)) in commands.into_iter().enumerate() {
            let link = match self.owner(key) {
                Ok(link) => link,
                Err(failure) => {
                    let refused = Some((failure, view.clone()));
                    let outcome = self.route(key, &command, refused).await;
                    set(&mut outcomes, at, outcome);
                    continue;
                }
            };
            match shares
                .iter_mut()
                .find(|share| share.link.address() == link.address())
            {
                Some(share) => share.add(at, key, command),
                None => {
                    let mut share = Share {
                        link,
                        pipeline: redis::pipe(),
                        keys: Vec::new(),
                    };
                    share.add(at, key, command);
                    shares.push(share);
                }
            }
        }
        let sent = shares
            .iter()
            .map(|share| share.link.send_all(&share.pipeline, None));
        let answers = join_all(sent).await;
        for (Share { pipeline, keys, .. }, answers) in shares.iter().zip(answers) {
            let answers = answers
                .unwrap_or_else(|failure| keys.iter().map(|_| Err(failure.clone())).collect());
            for ((answer, (at, key)), command) in
                answers.into_iter().zip(keys).zip(pipeline.cmd_iter())
            {
                let outcome = match answer {
                    Err(failure)
                        if failure.is_passing()
                            || (failure.redirect().is_some() && !view.ranges.is_empty()) =>
                    {
                        let refused = Some((failure, view.clone()));
                        self.route(key, command, refused).await
                    }
                    Err(failure) => Err(self.noted(failure)),
                    Ok(value) => Ok(value),
                };
                set(&mut outcomes, *at, outcome);
            }
        }
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Err(Failure::odd("a pipeline"))))
            .collect()
    }

    /// A connection that cannot serve any more is reported as lost.
    pub(crate) fn noted(&self, failure: Failure) -> Failure {
        if failure.ends_connection() {
            self.shared.loss.report(failure.clone().into_error());
        }
        failure
    }

    async fn ask(&self, server: &Server, command: &Cmd) -> Result<Value, Failure> {
        let known = self
            .primaries()
            .into_iter()
            .find(|link| link.server() == server);
        let link = match known {
            Some(link) => link,
            None => self
                .shared
                .dialer
                .connect(server, Purpose::Guide)
                .await
                .map_err(|error| Failure::Lost(error.message))?,
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").add_command(command.clone());
        let mut answers = link.send_all(&pipeline, None).await?.into_iter();
        answers.next().transpose()?;
        answers
            .next()
            .unwrap_or_else(|| Err(Failure::odd("ASKING")))
    }

    /// Looks the slots up again, unless somebody else has since `seen`.
    async fn renew(&self, seen: &Arc<View>) -> Result<(), Failure> {
        let _turn = self.shared.renewing.lock().await;
        let present = self.view();
        if !Arc::ptr_eq(&present, seen) {
            return Ok(());
        }
        let dialer = &self.shared.dialer;
        let asked = present
            .links
            .iter()
            .map(|link| -> race::Attempt<'_, View> {
                Box::pin(discover::layout(dialer, link, &present.links))
            })
            .collect();
        let view = match race::first(asked).await {
            Some(outcome) => outcome.map_err(|error| Failure::Lost(error.message))?,
            None => return Err(closed()),
        };
        for link in &view.links {
            link.watch(&self.shared.loss);
        }
        *lock(&self.shared.view) = Arc::new(view);
        Ok(())
    }
}

/// The commands of a batch that go to one server.
struct Share<'a> {
    link: Link,
    pipeline: Pipeline,
    /// Of each command: its place in the batch, and its key.
    keys: Vec<(usize, &'a [u8])>,
}

impl<'a> Share<'a> {
    fn add(&mut self, at: usize, key: &'a [u8], command: Cmd) {
        self.pipeline.add_command(command);
        self.keys.push((at, key));
    }
}

/// So many redirections for one command mean that the cluster does not agree with itself.
const MOST_HOPS: u32 = 5;

/// Whoever still holds this instance may try again with the next one.
pub(crate) fn closed() -> Failure {
    Failure::Lost("component is closed".to_owned())
}

fn set<T>(items: &mut [Option<T>], at: usize, item: T) {
    if let Some(place) = items.get_mut(at) {
        *place = Some(item);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
