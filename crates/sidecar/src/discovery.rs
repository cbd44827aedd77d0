//! What the app is asked when its gate opens: its configuration, and what it subscribes to.
//!
//! Owns: what has been answered in this opening, so that only the rest is asked again, and how often a question that goes
//! unanswered is told. Never: decides when the next round is; the gate's machine does.
//! Start at [`Round::ask`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use outrigger_blocks::app::{AppChannel, AppSubscription, Discovered};
use outrigger_lifecycle::{Clock, Moment};
use outrigger_policy::{Attempts, Failure, Next};
use outrigger_resiliency::RetryRule;
use tracing::warn;

const SCOPE: &str = "dapr.runtime";
/// An app that does not answer a question in this time is asked again.
const QUESTION_LIMIT: Duration = Duration::from_secs(30);
/// The same reason is told again after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// What discovery does with its answers.
pub(crate) trait Discovery: Send + Sync + 'static {
    /// Whether anybody wants to know the app's subscriptions.
    fn wants_subscriptions(&self) -> bool;

    fn subscriptions(&self, list: Vec<AppSubscription>);
}

/// What the app has answered since its gate last began to open.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// The list of subscriptions, for those who wait for one.
    topics: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    config: bool,
    /// The app was asked for its topics, as often as the retry says. From then on one question a round will do.
    has_retried: bool,
    config_told: Complaint,
    topics_told: Complaint,
}

/// A line for each new reason, and one a minute.
#[derive(Debug, Default)]
struct Complaint(Option<(String, Moment)>);

impl Complaint {
    fn is_due(&mut self, why: &str, now: Moment) -> bool {
        let is_known = self
            .0
            .as_ref()
            .is_some_and(|(told, at)| told == why && now.since(*at) < TELL_AGAIN);
        if !is_known {
            self.0 = Some((why.to_owned(), now));
        }
        !is_known
    }
}

impl Answers {
    /// `topics` shows whether the app has told its list.
    pub(crate) fn new(topics: Arc<AtomicBool>) -> Self {
        Self {
            topics,
            heard: Arc::default(),
        }
    }

    /// Everything is asked again.
    pub(crate) fn forget(&self) {
        self.topics.store(false, Ordering::Release);
        let mut heard = self.heard();
        (heard.config, heard.has_retried) = (false, false);
    }

    /// There is something new to subscribe through.
    pub(crate) fn ask_topics_anew(&self) {
        self.topics.store(false, Ordering::Release);
        self.heard().has_retried = false;
    }

    /// What is still to be answered.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        match (self.heard().config, self.topics()) {
            (true, true) => None,
            (false, true) => Some("its configuration"),
            (true, false) => Some("its subscriptions"),
            (false, false) => Some("its configuration and its subscriptions"),
        }
    }

    fn topics(&self) -> bool {
        self.topics.load(Ordering::Acquire)
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One round of questions.
pub(crate) struct Round {
    pub app: Arc<dyn AppChannel>,
    pub discovery: Arc<dyn Discovery>,
    pub answers: Answers,
    pub reads_config: bool,
    /// For the list of subscriptions, in the first round of an opening; after it the gate asks on at its own pace.
    pub retry: Option<RetryRule>,
    pub clock: Clock,
}

impl Round {
    /// Asks the app what it has not answered yet; true when everything has been.
    pub(crate) async fn ask(&self) -> bool {
        tokio::join!(self.config(), self.topics());
        self.answers.heard().config && self.answers.topics()
    }

    async fn config(&self) {
        if self.answers.heard().config {
            return;
        }
        let is_answered = !self.reads_config
            || match in_time(self.app.config()).await {
                Discovered::Answer(()) | Discovered::None => true,
                Discovered::Failed(why) => {
                    let is_due = self
                        .answers
                        .heard()
                        .config_told
                        .is_due(&why, self.clock.now());
                    if is_due {
                        warn!(target: SCOPE, err = why, "the application did not tell its configuration, asking again");
                    }
                    false
                }
            };
        self.answers.heard().config = is_answered;
    }

    async fn topics(&self) {
        if self.answers.topics() {
            return;
        }
        let is_answered = !self.discovery.wants_subscriptions() || self.list().await;
        self.answers.heard().has_retried = true;
        // After the list was applied: who finds this true finds its subscriptions.
        self.answers.topics.store(is_answered, Ordering::Release);
    }

    async fn list(&self) -> bool {
        let retry = self.retry.as_ref();
        let retry = retry.filter(|_| !self.answers.heard().has_retried);
        let mut attempts = Attempts::new(self.clock.now(), None);
        loop {
            let why = match in_time(self.app.subscriptions()).await {
                Discovered::Answer(list) => {
                    self.discovery.subscriptions(list);
                    return true;
                }
                Discovered::None => {
                    self.discovery.subscriptions(Vec::new());
                    return true;
                }
                Discovered::Failed(why) => why,
            };
            let now = self.clock.now();
            let is_due = self.answers.heard().topics_told.is_due(&why, now);
            if is_due {
                warn!(target: SCOPE, err = why, "the application did not tell its subscriptions, asking again");
            }
            let Some(rule) = retry else {
                return false;
            };
            match attempts.after(&rule.retry, None, &Failure::default(), now, rand::random()) {
                Next::Retry { at, .. } => self.clock.until(at).await,
                Next::GiveUp(_) => return false,
            }
        }
    }
}

async fn in_time<T>(asking: impl Future<Output = Discovered<T>>) -> Discovered<T> {
    tokio::time::timeout(QUESTION_LIMIT, asking)
        .await
        .unwrap_or_else(|_| {
            let seconds = QUESTION_LIMIT.as_secs();
            Discovered::Failed(format!("no answer within {seconds} seconds"))
        })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use async_trait::async_trait;
    use outrigger_blocks::app::{BulkDelivery, BulkVerdict, Delivery, Probe, Verdict};
    use outrigger_blocks::invoke::{Call, CallFailure, Reply};
    use outrigger_policy::Retry;

    use super::*;

    /// An app that answers what it is told to, and counts.
    #[derive(Default)]
    struct FakeApp {
        /// So many questions find no answer at all.
        hangs: AtomicUsize,
        tells_config: AtomicBool,
        tells_topics: AtomicBool,
        config: AtomicUsize,
        topics: AtomicUsize,
    }

    fn answer<T>(asked: &AtomicUsize, tells: &AtomicBool, answer: T) -> Discovered<T> {
        asked.fetch_add(1, Ordering::SeqCst);
        if tells.load(Ordering::SeqCst) {
            Discovered::Answer(answer)
        } else {
            Discovered::Failed("status 503".to_owned())
        }
    }

    #[async_trait]
    impl AppChannel for FakeApp {
        async fn invoke(&self, _call: Call) -> Result<Reply, CallFailure> {
            Err(CallFailure::plain("nobody calls".to_owned()))
        }

        async fn deliver(&self, _delivery: &Delivery) -> Verdict {
            Verdict::Success
        }

        async fn deliver_bulk(&self, _delivery: &BulkDelivery) -> BulkVerdict {
            BulkVerdict::All(Verdict::Success)
        }

        async fn subscriptions(&self) -> Discovered<Vec<AppSubscription>> {
            if self.hangs.load(Ordering::SeqCst) > 0 {
                self.hangs.fetch_sub(1, Ordering::SeqCst);
                self.topics.fetch_add(1, Ordering::SeqCst);
                return std::future::pending().await;
            }
            answer(&self.topics, &self.tells_topics, Vec::new())
        }

        async fn config(&self) -> Discovered<()> {
            answer(&self.config, &self.tells_config, ())
        }

        async fn probe(&self) -> Probe {
            Probe::Healthy
        }

        async fn readiness(&self) -> Result<(), String> {
            Ok(())
        }

        async fn accepts(&self) -> bool {
            true
        }
    }

    #[derive(Default)]
    struct Lists(AtomicUsize);

    impl Discovery for Lists {
        fn wants_subscriptions(&self) -> bool {
            true
        }

        fn subscriptions(&self, _list: Vec<AppSubscription>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct Bench {
        app: Arc<FakeApp>,
        lists: Arc<Lists>,
        topics: Arc<AtomicBool>,
        round: Round,
    }

    fn bench() -> Bench {
        let (app, lists): (Arc<FakeApp>, Arc<Lists>) = Default::default();
        let topics = Arc::new(AtomicBool::new(false));
        let round = Round {
            app: app.clone(),
            discovery: lists.clone(),
            answers: Answers::new(topics.clone()),
            reads_config: true,
            retry: Some(RetryRule {
                retry: Retry::BUILT_IN_INVOCATION,
                total: None,
                budget: None,
                marks: false,
            }),
            clock: Clock::start(),
        };
        Bench {
            app,
            lists,
            topics,
            round,
        }
    }

    impl Bench {
        /// How often each was asked since this was last called.
        fn asked(&self) -> (usize, usize) {
            let take = |count: &AtomicUsize| count.swap(0, Ordering::SeqCst);
            (take(&self.app.config), take(&self.app.topics))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_was_not_answered_is_asked_again() {
        let bench = bench();
        bench.app.tells_config.store(true, Ordering::SeqCst);
        assert!(!bench.round.ask().await);
        assert_eq!(bench.asked(), (1, 4), "as often as the retry says");
        assert!(!bench.round.ask().await);
        assert_eq!(bench.asked(), (0, 1), "then once a round");
        assert!(!bench.topics.load(Ordering::SeqCst));
        bench.app.tells_topics.store(true, Ordering::SeqCst);
        assert!(bench.round.ask().await);
        assert!(bench.topics.load(Ordering::SeqCst));
        assert!(bench.round.ask().await);
        assert_eq!(
            (bench.asked(), bench.lists.0.load(Ordering::SeqCst)),
            ((0, 1), 1)
        );
        bench.round.answers.ask_topics_anew();
        assert!(!bench.topics.load(Ordering::SeqCst));
        assert!(bench.round.ask().await);
        assert_eq!(
            bench.asked(),
            (0, 1),
            "there is something to subscribe through"
        );
        bench.round.answers.forget();
        assert!(bench.round.ask().await);
        assert_eq!(bench.asked(), (1, 1), "the gate opens again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_is_asked_again_and_holds_up_no_other() {
        let bench = bench();
        bench.app.tells_config.store(true, Ordering::SeqCst);
        bench.app.tells_topics.store(true, Ordering::SeqCst);
        bench.app.hangs.store(1, Ordering::SeqCst);
        let began = bench.round.clock.now();
        assert!(bench.round.ask().await);
        assert_eq!(bench.asked(), (1, 2));
        let took = bench.round.clock.now().since(began);
        assert!(
            took >= QUESTION_LIMIT && took < QUESTION_LIMIT * 2,
            "{took:?}"
        );
        assert_eq!(bench.round.answers.missing(), None);
    }

    #[test]
    fn a_complaint_is_told_when_it_is_new_and_once_a_minute() {
        let mut complaint = Complaint::default();
        let at = |second| Moment::from_start(Duration::from_secs(second));
        let told: Vec<u64> = (0..130)
            .filter(|second| complaint.is_due("status 503", at(*second)))
            .collect();
        assert_eq!(told, [0, 60, 120]);
        assert!(complaint.is_due("status 500", at(130)));
        assert!(complaint.is_due("status 503", at(131)));
    }
}
