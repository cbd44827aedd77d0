//! Subscriptions: from a queue to a handler.
//!
//! Owns: registering, and the handle that the supervisor holds. Each subscription has a channel of its own, so that what
//! the broker refuses to one concerns no other.
//! Never: decides whether a message succeeded, or starts again after its end; the supervisor does.
//! Start at [`subscribe`]; then `feed.rs` fetches, and `handle.rs` deals with one message.
//! Tests: tests/broker/subscribe.rs.

use std::sync::Arc;

use lapin::{Channel, Consumer};
use outrigger_component_api::{
    ComponentError, Handler, Scope, Source, Stop, Subscribe, async_trait,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::feed::{Command, Feed, Order};
use crate::handle::Desk;
use crate::link::Link;
use crate::settings::Settings;
use crate::topology::Plan;

/// Declares what the subscription needs and registers its consumer.
///
/// # Errors
/// When the metadata cannot be served, the broker refuses, or the connection is gone.
///
/// # Cancel safety
/// When the future is dropped, the consumer is taken back as soon as it is there.
pub(crate) async fn subscribe(
    settings: Arc<Settings>,
    link: Arc<Link>,
    scope: &Scope,
    request: Subscribe,
    handler: Arc<dyn Handler>,
) -> Result<Subscription, ComponentError> {
    let plan = Plan::new(&request, &settings)?;
    let (commands, inbox) = mpsc::channel(1);
    let (ended, end) = watch::channel(None);
    let (registered, answer) = oneshot::channel();
    let stop = Stop::new();
    let own = stop.clone();
    let tasks = scope.clone();
    // Registering is not left half done: lapin takes the broker's answer to an abandoned request for a fault of the
    // whole connection.
    scope.spawn("pubsub.rabbitmq/subscription", |all| async move {
        let consuming = register(&link, &plan, &request.topic).await;
        let (channel, consumer) = match consuming {
            Ok(consuming) => consuming,
            Err(error) => {
                registered.send(Err(error)).ok();
                return;
            }
        };
        let desk = Arc::new(Desk::new(
            settings,
            link.clone(),
            channel,
            handler,
            request.topic,
        ));
        let mut feed = Feed::new(plan, desk.clone(), link, tasks, consumer, ended);
        match registered.send(Ok(desk)) {
            Ok(()) => feed.run(inbox, all, own).await,
            Err(_) => feed.leave().await,
        }
    });
    let stopped = || ComponentError::transient("stopped while subscribing");
    let desk = answer.await.unwrap_or_else(|_| Err(stopped()))?;
    Ok(Subscription {
        commands,
        desk,
        end,
        stop,
    })
}

async fn register(
    link: &Link,
    plan: &Plan,
    topic: &str,
) -> Result<(Channel, Consumer), ComponentError> {
    let channel = link.channel().await?;
    let registering = async {
        plan.declare(&channel).await?;
        plan.consume(&channel).await
    };
    match link.answer(registering).await {
        Ok(consumer) => Ok((channel, consumer)),
        Err(cause) => {
            let doing = format!("subscribing queue `{}` to topic `{topic}`", plan.queue.name);
            Err(link.blame(&cause, &doing))
        }
    }
}

/// A running subscription.
pub(crate) struct Subscription {
    commands: mpsc::Sender<Order>,
    desk: Arc<Desk>,
    end: watch::Receiver<Option<ComponentError>>,
    stop: Stop,
}

impl Subscription {
    /// Returns when the command was carried out, or when there is nobody left to do so.
    async fn ask(&self, command: Command) {
        let (done, carried_out) = oneshot::channel();
        if self.commands.send(Order { command, done }).await.is_ok() {
            carried_out.await.ok();
        }
    }
}

#[async_trait]
impl Source for Subscription {
    async fn pause(&self) {
        self.ask(Command::Pause).await;
    }

    async fn resume(&self) {
        self.ask(Command::Resume).await;
    }

    async fn release(&self) {
        self.ask(Command::Release).await;
    }

    async fn ended(&self) -> ComponentError {
        let mut end = self.end.clone();
        let reason = match end.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        match reason {
            Some(reason) => reason,
            // It was closed, and will not die any more.
            None => std::future::pending().await,
        }
    }

    async fn close(&self) {
        self.ask(Command::Close).await;
        self.stop.cancel();
    }

    fn in_flight(&self) -> usize {
        self.desk.in_work()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
