//! Deliveries under their policies.
//!
//! An open breaker says nothing of a message: it waits, and its subscription is paused, until the breaker lets somebody
//! try. Neither a rejection nor the end of the sidecar ever makes a dead letter.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use outrigger_lifecycle::Moment;
use outrigger_policy::Failure;
use outrigger_policy::breaker::Rejection;
use outrigger_resiliency::{
    ComponentKind, Ending, Flow, Judged, OnOpen, Operation, Refusal, Step, Target, limited,
};
use tokio::sync::watch;

use super::deliver::Desk;
use crate::app::Verdict;
use crate::errors::policy::TIMED_OUT;
use crate::guard::component_key;

/// Who waits for a probe looks this often.
const LOOK: Duration = Duration::from_millis(100);

/// Until when a subscription is to fetch nothing; its runner heeds it.
pub(super) type Hold = watch::Sender<Option<Moment>>;

/// What came of a delivery.
pub(super) enum Delivered<V> {
    Answer(V),
    /// The last answer, after which a retry policy gives up.
    GaveUp(V),
    /// The breaker rejected it, and the message is to go on its way without the app.
    Rejected {
        why: String,
        dead_letter: bool,
    },
    /// Nothing is to be handed to the app any more; why, in the words of the metrics.
    Halted(&'static str),
}

/// Whether anything may be handed out, for one subscription.
pub(super) struct Halt {
    /// The sidecar is on its way out.
    pub ending: watch::Receiver<bool>,
    /// False while the app is to get nothing.
    pub gate: watch::Receiver<bool>,
}

impl Halt {
    fn reason(&self) -> Option<&'static str> {
        if *self.ending.borrow() {
            Some("ending")
        } else if !*self.gate.borrow() {
            Some("gate")
        } else {
            None
        }
    }

    /// Waits until nothing is to be handed out.
    pub(super) async fn halted(&self) -> &'static str {
        tokio::select! {
            biased;
            () = becomes(&self.ending, true) => "ending",
            () = becomes(&self.gate, false) => "gate",
        }
    }

    /// Waits; nothing comes of it if handing out was halted first.
    pub(super) async fn unless<T>(&self, wait: impl Future<Output = T>) -> Result<T, &'static str> {
        tokio::select! {
            biased;
            why = self.halted() => Err(why),
            output = wait => Ok(output),
        }
    }
}

/// How policies take an answer of the app.
pub(super) trait Judge {
    /// `None` where the app is away, which says nothing of it.
    fn judged(&self) -> Option<Result<(), (Failure, String)>>;

    fn timed_out() -> Self;
}

impl Judge for Verdict {
    fn judged(&self) -> Option<Result<(), (Failure, String)>> {
        let failed = |code, why: &String| {
            let failure = Failure {
                code,
                ..Failure::default()
            };
            Some(Err((failure, why.clone())))
        };
        match self {
            Self::Success | Self::Drop(_) | Self::Forget(_) => Some(Ok(())),
            Self::Retry(why) => failed(None, why),
            Self::Refused(code, why) => failed(Some(*code), why),
            Self::Away(_) | Self::Crashed(_) => None,
        }
    }

    fn timed_out() -> Self {
        Self::Retry(TIMED_OUT.to_owned())
    }
}

/// The policies of what a component delivers; nothing where there are none.
fn inbound(desk: &Desk, pubsub: &str) -> Option<Arc<Target>> {
    desk.resiliency
        .component(pubsub, ComponentKind::Pubsub, Flow::Inbound)
}

/// Never completes where nobody can tell any more.
async fn becomes(watched: &watch::Receiver<bool>, value: bool) {
    let mut watched = watched.clone();
    if watched.wait_for(|now| *now == value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Delivers under the policies of what the component delivers: as often, and as long, as they say.
pub(super) async fn deliver<V, F, A>(
    desk: &Desk,
    pubsub: &str,
    hold: &Hold,
    halt: &Halt,
    mut deliver: F,
) -> Delivered<V>
where
    V: Judge,
    F: FnMut() -> A,
    A: Future<Output = V>,
{
    loop {
        if let Some(why) = halt.reason() {
            return Delivered::Halted(why);
        }
        let Some(target) = inbound(desk, pubsub) else {
            return Delivered::Answer(deliver().await);
        };
        // Policies that have changed meanwhile begin anew with what was held under the old ones.
        if let Some(delivered) = under(desk, &target, pubsub, hold, halt, &mut deliver).await {
            return delivered;
        }
        hold.send_replace(None);
    }
}

/// `None`: policies have changed, or a breaker was closed by hand, while it was held.
async fn under<V, F, A>(
    desk: &Desk,
    target: &Arc<Target>,
    pubsub: &str,
    hold: &Hold,
    halt: &Halt,
    deliver: &mut F,
) -> Option<Delivered<V>>
where
    V: Judge,
    F: FnMut() -> A,
    A: Future<Output = V>,
{
    let mut changes = desk.resiliency.changes();
    let mut operation = Operation::begin(target, component_key(target, pubsub), None);
    loop {
        let pass = match operation.attempt() {
            Ok(pass) => pass,
            Err(refusal) => match target.plan().on_open.unwrap_or(OnOpen::Hold) {
                OnOpen::Hold => {
                    let until = hold_until(desk, &refusal, hold);
                    let wait = async {
                        tokio::select! {
                            () = desk.clock.until(until) => false,
                            changed = changes.changed() => changed.is_ok(),
                        }
                    };
                    // Behind a closed gate a held message is released like any other.
                    match halt.unless(wait).await {
                        Err(why) => return Some(Delivered::Halted(why)),
                        Ok(true) => return None,
                        Ok(false) => continue,
                    }
                }
                chosen @ (OnOpen::Nack | OnOpen::DeadLetter) => {
                    return Some(Delivered::Rejected {
                        why: refusal.to_string(),
                        dead_letter: chosen == OnOpen::DeadLetter,
                    });
                }
            },
        };
        let mut gave_up = target.plan().retry.is_some();
        let (answer, step) = match limited(Some(&pass), pin!(deliver())).await {
            None => {
                let step = operation.conclude(pass, Ending::TimedOut);
                (V::timed_out(), step)
            }
            Some(answer) => {
                let step = match answer.judged() {
                    // Its pass is dropped: this was no attempt that says anything.
                    None => return Some(Delivered::Answer(answer)),
                    Some(Ok(())) => {
                        gave_up = false;
                        operation.conclude(pass, Ending::Success)
                    }
                    Some(Err((failure, why))) => {
                        let judged = Judged {
                            failure,
                            neutral: false,
                            why: &why,
                        };
                        operation.conclude(pass, Ending::Failed(judged))
                    }
                };
                (answer, step)
            }
        };
        match step {
            Step::Deliver if gave_up => return Some(Delivered::GaveUp(answer)),
            Step::Deliver => return Some(Delivered::Answer(answer)),
            Step::Retry(at) => {
                if let Err(why) = halt.unless(operation.pause(at)).await {
                    return Some(Delivered::Halted(why));
                }
            }
        }
    }
}

/// Pauses the subscription for as long as nothing will get through; when to try again.
fn hold_until(desk: &Desk, refusal: &Refusal, hold: &Hold) -> Moment {
    let now = desk.clock.now();
    match refusal.rejection {
        Rejection::Open => {
            // Strictly after the breaker's own moment.
            let until = now + refusal.retry_after + Duration::from_millis(1);
            hold.send_if_modified(|held| {
                let later = held.is_none_or(|held| held < until);
                if later {
                    *held = Some(until);
                }
                later
            });
            until
        }
        Rejection::TooMany => now + refusal.retry_after.min(LOOK).max(Duration::from_millis(1)),
    }
}
