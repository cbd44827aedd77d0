//! One instance of `pubsub.rabbitmq`: a connection for publishing, one for consuming.
//!
//! Owns: opening, pinging, reporting the loss of either connection, closing.
//! Never: connects again. An instance that lost a connection is done for; the supervisor opens another one.
//! Start at [`open`]. Tests: tests/broker/connection.rs, tests/broker/faults.rs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outrigger_component_api::{
    Component, ComponentError, Handler, Loss, Open, PubSub, PubSubFeatures, Publish, Scope, Source,
    Subscribe, async_trait,
};
use tokio::sync::OnceCell;
use tracing::warn;

use crate::dial::Dialer;
use crate::link::Link;
use crate::publish::{Publisher, blocked};
use crate::settings::Settings;
use crate::subscribe;

/// Bounds the opening of the second connection, which no attempt of the supervisor does.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// What outlives single instances.
pub(crate) struct Opening {
    settings: Arc<Settings>,
    dialer: Dialer,
    has_warned: AtomicBool,
}

impl Opening {
    pub(crate) fn new(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        Self {
            dialer: Dialer::new(settings.clone()),
            settings,
            has_warned: AtomicBool::new(false),
        }
    }

    fn warn_once(&self) {
        if self.has_warned.swap(true, Ordering::Relaxed) {
            return;
        }
        let component = &self.settings.component;
        if let Some(risk) = self.settings.loss_risk() {
            warn!(%component, risk, "the settings allow messages to be lost");
        }
        if self.settings.uses_host {
            warn!(%component, "`host` is deprecated, use `connectionString`");
        }
    }
}

/// Connects.
///
/// # Errors
/// With the class that decides when to try again.
///
/// # Cancel safety
/// Dropping the future ends the attempt.
pub(crate) async fn open(
    opening: Arc<Opening>,
    open: Open,
) -> Result<Arc<dyn PubSub>, ComponentError> {
    opening.warn_once();
    let link = Arc::new(opening.dialer.open().await?);
    let pubsub = Arc::new(RabbitMq {
        publisher: Publisher::new(opening.settings.clone(), link.clone(), open.scope.clone()),
        publishing: link,
        consuming: OnceCell::new(),
        opening,
        scope: open.scope,
        loss: open.loss,
        is_closed: Arc::default(),
    });
    pubsub.watch(pubsub.publishing.clone());
    Ok(pubsub)
}

struct RabbitMq {
    opening: Arc<Opening>,
    publisher: Publisher,
    publishing: Arc<Link>,
    /// Opened for the first subscription: a broker that blocks publishers goes on feeding consumers.
    consuming: OnceCell<Arc<Link>>,
    scope: Scope,
    loss: Loss,
    is_closed: Arc<AtomicBool>,
}

impl RabbitMq {
    /// Reports the end of a connection that nobody asked for, and takes leave when the instance is stopped.
    fn watch(&self, link: Arc<Link>) {
        let (loss, is_closed) = (self.loss.clone(), self.is_closed.clone());
        self.scope
            .spawn("pubsub.rabbitmq/connection", |stop| async move {
                let ended = tokio::select! {
                    biased;
                    () = stop.cancelled() => None,
                    reason = link.ended() => Some(reason),
                };
                match ended {
                    Some(reason) if !is_closed.load(Ordering::Acquire) => loss.report(reason),
                    Some(_) => {}
                    None => link.close().await,
                }
            });
    }

    async fn consuming(&self) -> Result<Arc<Link>, ComponentError> {
        let open = || async {
            let link = tokio::time::timeout(OPEN_WITHIN, self.opening.dialer.open())
                .await
                .unwrap_or_else(|_| {
                    Err(ComponentError::timeout(format!(
                        "no connection for consuming within {OPEN_WITHIN:?}"
                    )))
                })?;
            let link = Arc::new(link);
            self.watch(link.clone());
            Ok(link)
        };
        self.consuming.get_or_try_init(open).await.cloned()
    }

    fn refuse_if_closed(&self) -> Result<(), ComponentError> {
        if self.is_closed.load(Ordering::Acquire) {
            // Whoever holds a closed driver is about to get another one.
            return Err(ComponentError::transient("component is closed"));
        }
        Ok(())
    }
}

#[async_trait]
impl Component for RabbitMq {
    async fn ping(&self) -> Result<(), ComponentError> {
        self.refuse_if_closed()?;
        match self.consuming.get() {
            Some(consuming) => {
                let (publishing, consuming) =
                    tokio::join!(self.publishing.ping(), consuming.ping());
                publishing.and(consuming)
            }
            None => self.publishing.ping().await,
        }
    }

    /// Consumers of a blocked broker are fed, and another connection would be blocked too.
    fn impediment(&self) -> Option<ComponentError> {
        self.publishing.is_blocked().then(blocked)
    }

    async fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        let consuming = async {
            if let Some(consuming) = self.consuming.get() {
                consuming.close().await;
            }
        };
        tokio::join!(self.publishing.close(), consuming);
    }
}

#[async_trait]
impl PubSub for RabbitMq {
    fn features(&self) -> PubSubFeatures {
        PubSubFeatures {
            message_ttl: true,
            subscribe_wildcards: false,
            consumer_groups: true,
        }
    }

    async fn publish(&self, request: Publish) -> Result<(), ComponentError> {
        self.refuse_if_closed()?;
        self.publisher.publish(request).await
    }

    async fn subscribe(
        &self,
        request: Subscribe,
        handler: Arc<dyn Handler>,
    ) -> Result<Box<dyn Source>, ComponentError> {
        self.refuse_if_closed()?;
        let link = self.consuming().await?;
        let settings = self.opening.settings.clone();
        let subscription =
            subscribe::subscribe(settings, link, &self.scope, request, handler).await?;
        Ok(Box::new(subscription))
    }
}
