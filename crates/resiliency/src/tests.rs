//! Rows of `resiliency.md` §16 that take minutes or turn on exact moments, under virtual time.
//!
//! Resources are read as the sidecar reads them. Attempts take no time, unless a test says so: what is measured is the
//! pauses. Rows through the real binary are in `tests/e2e/tests/resiliency_*.rs`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::load::{Context, load};
use outrigger_config::{Loaded, Severity};
use outrigger_lifecycle::{Clock, Moment};
use outrigger_policy::breaker::State;
use outrigger_policy::trip::Trip;
use outrigger_telemetry::Metrics;
use outrigger_telemetry::metrics::Settings;

use crate::operation::{Ending, Judged, Key, Operation, Step, limited};
use crate::service::Resiliency;
use crate::target::Target;
use crate::{BreakerView, ComponentKind, Flow};

fn read(spec: &str) -> Loaded {
    let text = format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: policies\nspec: {spec}\n"
    );
    let context = Context {
        app_id: "shop".into(),
        namespace: None,
        kubernetes: false,
    };
    let compile = |text: &str| {
        Trip::compile(text)
            .map(|_| ())
            .map_err(|error| (error.to_string(), None))
    };
    load(&[("policies.yaml".to_owned(), text)], &context, &compile)
}

/// Policies in force; every resource is good.
#[track_caller]
fn policies(spec: &str) -> Resiliency {
    let loaded = read(spec);
    let errors: Vec<_> = loaded
        .diagnostics
        .iter()
        .filter(|told| told.severity == Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
    let metrics = Arc::new(Metrics::new(Settings::new("shop")));
    let resiliency = Resiliency::new("home", Clock::start(), metrics);
    resiliency.apply(&loaded.resiliencies);
    resiliency
}

/// The target of calls to the app, with its own dice if they are to be known.
fn app(resiliency: &Resiliency) -> Arc<Target> {
    resiliency.app("shop").choose("a", None).target.clone()
}

const KEY: Key<'static> = Key {
    prefix: "shop",
    joint: ":",
    within: "a",
};

static WHY: &str = "it does not work";

fn failed() -> Ending<'static> {
    Ending::Failed(Judged::plain(&WHY))
}

/// One attempt, over at once; `None` when the breaker rejects it.
fn attempt(operation: &mut Operation<'_>, works: bool) -> Option<Step> {
    let pass = operation.attempt().ok()?;
    let ending = if works { Ending::Success } else { failed() };
    Some(operation.conclude(pass, ending))
}

/// A whole call whose attempts fail until one works; when each began, counted from the start.
async fn call(target: &Arc<Target>, works_at: Option<usize>) -> Vec<Duration> {
    let began = target.now();
    let mut operation = Operation::begin(target, KEY, None);
    let mut times = Vec::new();
    loop {
        times.push(target.now().since(began));
        let works = works_at == Some(times.len());
        match attempt(&mut operation, works) {
            Some(Step::Retry(at)) => operation.pause(at).await,
            Some(Step::Deliver) => return times,
            None => {
                times.pop();
                return times;
            }
        }
    }
}

/// One attempt and no retry.
fn once(target: &Arc<Target>, works: bool) -> bool {
    let mut operation = Operation::begin(target, KEY, None);
    attempt(&mut operation, works).is_some()
}

fn breaker(resiliency: &Resiliency, name: &str) -> BreakerView {
    let view = resiliency.view();
    let mut all = view.targets.into_iter().flat_map(|target| target.breakers);
    all.find(|breaker| breaker.name == name).unwrap()
}

async fn until(moment: Duration, target: &Arc<Target>) {
    let at = Moment::START + moment;
    target.environment.clock.until(at).await;
}

fn gaps(times: &[Duration]) -> Vec<Duration> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Row 6.
#[tokio::test(start_paused = true)]
async fn a_retry_that_says_nothing_pauses_five_seconds_without_end() {
    let resiliency =
        policies("{policies: {retries: {r: {}}}, targets: {apps: {shop: {retry: r}}}}");
    let times = call(&app(&resiliency), Some(21)).await;
    assert_eq!(times.len(), 21);
    for gap in gaps(&times) {
        assert_eq!(gap.as_secs(), 5);
        assert!(gap < s(5) + ms(5), "{gap:?}");
    }
}

/// The un-jittered pauses of an exponential back-off, in the words of §5.1.
fn bases(initial: f64, max: f64, count: usize) -> Vec<f64> {
    let mut bases = vec![initial];
    while bases.len() < count {
        let last = bases[bases.len() - 1];
        bases.push(if last >= max / 1.5 { max } else { last * 1.5 });
    }
    bases
}

/// Row 7 and the first half of row 8, with dice that nobody has loaded: what holds for any seed.
#[tokio::test(start_paused = true)]
async fn an_exponential_back_off_stays_within_its_jitter_and_its_quarter_of_an_hour() {
    for (given, max) in [("", 60.0), ("maxInterval: 15s,", 15.0)] {
        let spec = format!(
            "{{policies: {{retries: {{r: {{policy: exponential, {given} maxRetries: -1}}}}}}, targets: {{apps: {{shop: {{retry: r}}}}}}}}"
        );
        let resiliency = policies(&spec);
        for _ in 0..20 {
            let times = call(&app(&resiliency), None).await;
            let last = *times.last().unwrap();
            assert!(last <= s(900), "{last:?}");
            // One more pause, of one and a half times the longest base at most, would have been too much.
            assert!(last.as_secs_f64() + 1.5 * max > 900.0, "{last:?}");
            let gaps = gaps(&times);
            for (gap, base) in gaps.iter().zip(bases(0.5, max, gaps.len())) {
                let gap = gap.as_secs_f64();
                assert!(gap >= base * 0.5 - 0.001, "{gap} of {base}");
                assert!(gap <= base * 1.5 + 0.005, "{gap} of {base}");
            }
        }
    }
}

/// Rows 7 and 8 without chance, which is what they write down: how many attempts, and when the last one is.
#[tokio::test(start_paused = true)]
async fn an_exponential_back_off_makes_as_many_attempts_as_there_is_time_for() {
    for (given, attempts, last) in [("", 25, 848.7), ("maxInterval: 15s,", 67, 892.4)] {
        let spec = format!(
            "{{policies: {{retries: {{r: {{policy: exponential, {given} randomizationFactor: 0}}}}}}, targets: {{apps: {{shop: {{retry: r}}}}}}}}"
        );
        let resiliency = policies(&spec);
        let times = call(&app(&resiliency), None).await;
        assert_eq!(times.len(), attempts, "{given}");
        let end = times.last().unwrap().as_secs_f64();
        assert!((end - last).abs() < 0.3, "{end} of {last}");
    }
    let resiliency = policies(
        "{policies: {retries: {r: {policy: exponential, randomizationFactor: 0}}}, targets: {apps: {shop: {retry: r}}}}",
    );
    let gaps = gaps(&call(&app(&resiliency), None).await);
    for (gap, base) in gaps.iter().zip([0.5, 0.75, 1.125, 1.6875, 2.531_25]) {
        assert!(
            (gap.as_secs_f64() - base).abs() < 0.005,
            "{gap:?} of {base}"
        );
    }
    assert_eq!(gaps.last().unwrap().as_secs(), 60);
}

/// Row 8, second half: the first pause is not capped.
#[tokio::test(start_paused = true)]
async fn a_cap_below_the_first_pause_holds_from_the_second_on() {
    let resiliency = policies(
        "{policies: {retries: {r: {policy: exponential, maxInterval: 100ms, maxRetries: 3, randomizationFactor: 0}}}, targets: {apps: {shop: {retry: r}}}}",
    );
    let gaps = gaps(&call(&app(&resiliency), None).await);
    assert_eq!(gaps.len(), 3);
    for (gap, base) in gaps.iter().zip([500, 100, 100]) {
        assert!(
            *gap >= ms(base) && *gap < ms(base + 5),
            "{gap:?} of {base} ms"
        );
    }
}

/// Row 8: the warning, and that a limit of one's own silences it.
#[test]
fn an_end_that_nobody_asked_for_is_told_at_load() {
    let warnings = |retry: &str| {
        let loaded = read(&format!("{{policies: {{retries: {{r: {retry}}}}}}}"));
        let told = loaded.diagnostics.iter();
        told.filter(|told| told.code == "CFG-RETRY-ELAPSED").count()
    };
    assert_eq!(
        warnings("{policy: exponential, maxInterval: 15s, maxRetries: -1}"),
        1
    );
    assert_eq!(warnings("{policy: exponential, maxElapsedTime: 0s}"), 0);
    assert_eq!(warnings("{policy: exponential, maxRetries: 4}"), 0);
    assert_eq!(warnings("{maxRetries: -1}"), 0);
}

/// X4.
#[tokio::test(start_paused = true)]
async fn without_a_limit_of_time_an_exponential_back_off_goes_on() {
    let resiliency = policies(
        "{policies: {retries: {r: {policy: exponential, maxElapsedTime: 0s}}}, targets: {apps: {shop: {retry: r}}}}",
    );
    let times = call(&app(&resiliency), Some(200)).await;
    assert_eq!(times.len(), 200);
    assert!(times.last().unwrap().as_secs() > 3_600);
}

/// Row 12, under virtual time: the pause follows the end of an attempt.
#[tokio::test(start_paused = true)]
async fn the_pause_follows_the_end_of_an_attempt() {
    let resiliency = policies(
        "{policies: {timeouts: {t: 500ms}, retries: {r: {duration: 10ms, maxRetries: 2}}}, targets: {apps: {shop: {timeout: t, retry: r}}}}",
    );
    let target = app(&resiliency);
    let mut operation = Operation::begin(&target, KEY, None);
    let mut begins = Vec::new();
    loop {
        begins.push(target.now().distance_from_start().as_millis() as u64);
        let pass = operation.attempt().unwrap();
        let late = limited(Some(&pass), pin!(tokio::time::sleep(s(1)))).await;
        assert!(late.is_none());
        match operation.conclude(pass, Ending::TimedOut) {
            Step::Retry(at) => operation.pause(at).await,
            Step::Deliver => break,
        }
    }
    assert_eq!(begins.len(), 3);
    for (begin, expected) in begins.iter().zip([0, 510, 1_020]) {
        assert!((expected..expected + 6).contains(begin), "{begins:?}");
    }
    let end = target.now().distance_from_start();
    assert!(end >= ms(1_520) && end < ms(1_530), "{end:?}");
}

/// Row 15, to the moment.
#[tokio::test(start_paused = true)]
async fn a_breaker_stays_open_for_its_time_and_not_longer() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {b: {trip: consecutiveFailures >= 3, timeout: 5s}}}, targets: {apps: {shop: {circuitBreaker: b}}}}",
    );
    let target = app(&resiliency);
    for _ in 0..3 {
        assert!(once(&target, false));
    }
    let refusal = Operation::begin(&target, KEY, None)
        .attempt()
        .err()
        .unwrap();
    assert_eq!(refusal.to_string(), "circuit breaker is open");
    assert_eq!(refusal.retry_after_seconds(), 5);
    assert_eq!(refusal.last.as_deref(), Some(WHY));
    until(ms(4_900), &target).await;
    assert!(!once(&target, true));
    until(ms(5_100), &target).await;
    assert_eq!(breaker(&resiliency, "shop:a").state, State::HalfOpen);
    assert!(once(&target, true));
    assert_eq!(breaker(&resiliency, "shop:a").state, State::Closed);
}

/// What time alone has changed, both gauges tell, the first time they are read and ever after.
#[tokio::test(start_paused = true)]
async fn the_gauges_follow_a_breaker_that_nobody_calls() {
    let metrics = Arc::new(Metrics::new(Settings::new("shop")));
    let resiliency = Resiliency::new("home", Clock::start(), metrics.clone());
    let loaded = read(
        "{policies: {circuitBreakers: {b: {trip: consecutiveFailures >= 1, timeout: 5s}}}, targets: {apps: {shop: {circuitBreaker: b}}}}",
    );
    resiliency.apply(&loaded.resiliencies);
    let target = app(&resiliency);
    assert!(once(&target, false));
    let told = || {
        resiliency.refresh();
        let text = metrics.text();
        let of = |name: &str, state: &str| -> String {
            let shows = |line: &&str| line.starts_with(name) && line.contains(state);
            let line = text.lines().find(shows).unwrap_or_default();
            line.rsplit(' ').next().unwrap_or_default().to_owned()
        };
        [r#"="open""#, r#"="half-open""#].map(|state| {
            let both = [
                "outrigger_resiliency_breakers{",
                "dapr_resiliency_cb_state{",
            ];
            both.map(|name| of(name, state))
        })
    };
    let [none, one] = [["0", "0"], ["1", "1"]].map(|both| both.map(str::to_owned));
    assert_eq!(told(), [one.clone(), none.clone()]);
    until(ms(5_100), &target).await;
    assert_eq!(told(), [none.clone(), one.clone()]);
    assert_eq!(told(), [none, one]);
}

/// Row 16.
#[tokio::test(start_paused = true)]
async fn the_default_expression_opens_after_six_failures() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {b: {}}}, targets: {apps: {shop: {circuitBreaker: b}}}}",
    );
    let target = app(&resiliency);
    for _ in 0..5 {
        assert!(once(&target, false));
    }
    assert_eq!(breaker(&resiliency, "shop:a").state, State::Closed);
    assert!(once(&target, false));
    assert_eq!(breaker(&resiliency, "shop:a").state, State::Open);
    until(ms(59_900), &target).await;
    assert!(!once(&target, true));
    until(ms(60_100), &target).await;
    assert!(once(&target, true));
}

/// Row 17.
#[tokio::test(start_paused = true)]
async fn a_breaker_that_opens_ends_the_retries_in_the_middle() {
    let resiliency = policies(
        "{policies: {retries: {r: {duration: 10ms, maxRetries: 5}}, circuitBreakers: {b: {trip: consecutiveFailures > 15}}}, targets: {apps: {shop: {retry: r, circuitBreaker: b}}}}",
    );
    let target = app(&resiliency);
    let mut attempts = Vec::new();
    for _ in 0..4 {
        attempts.push(call(&target, None).await.len());
    }
    assert_eq!(attempts, [6, 6, 4, 0]);
}

/// Row 19.
#[tokio::test(start_paused = true)]
async fn a_probe_that_nobody_hears_of_fails_after_the_breakers_own_time() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {b: {trip: consecutiveFailures >= 1, timeout: 5s}}}, targets: {apps: {shop: {circuitBreaker: b}}}}",
    );
    let target = app(&resiliency);
    assert!(once(&target, false));
    until(ms(5_100), &target).await;
    let mut lost = Operation::begin(&target, KEY, None);
    let probe = lost.attempt().ok().unwrap();
    let refusal = Operation::begin(&target, KEY, None)
        .attempt()
        .err()
        .unwrap();
    assert_eq!(refusal.to_string(), "too many requests");
    until(ms(10_300), &target).await;
    let refusal = Operation::begin(&target, KEY, None)
        .attempt()
        .err()
        .unwrap();
    assert_eq!(refusal.to_string(), "circuit breaker is open");
    // What it says afterwards counts for nothing.
    lost.conclude(probe, Ending::Success);
    assert_eq!(breaker(&resiliency, "shop:a").state, State::Open);
    until(ms(15_400), &target).await;
    assert!(once(&target, true));
    assert_eq!(breaker(&resiliency, "shop:a").state, State::Closed);
}

/// Row 20.
#[tokio::test(start_paused = true)]
async fn a_window_of_the_closed_state_begins_with_the_access_after_the_last() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {b: {interval: 8s, trip: consecutiveFailures >= 3}}}, targets: {apps: {shop: {circuitBreaker: b}}}}",
    );
    let target = app(&resiliency);
    let consecutive = || breaker(&resiliency, "shop:a").counts.consecutive_failures;
    for (at, expected) in [(0, 1), (1_000, 2), (9_000, 1), (16_900, 2), (17_100, 1)] {
        until(ms(at), &target).await;
        assert!(once(&target, false));
        assert_eq!(consecutive(), expected, "at {at} ms");
        assert_eq!(breaker(&resiliency, "shop:a").state, State::Closed);
    }
}

/// Row 35.
#[tokio::test(start_paused = true)]
async fn the_scope_of_an_actors_breaker_says_who_shares_it() {
    for (scope, other_is_reached) in [("type", false), ("id", true), ("both", false)] {
        let resiliency = policies(&format!(
            "{{policies: {{circuitBreakers: {{b: {{trip: consecutiveFailures >= 2}}}}}}, targets: {{actors: {{cat: {{circuitBreaker: b, circuitBreakerScope: {scope}}}}}}}}}"
        ));
        let actor = resiliency.actor("cat");
        let call = |key| attempt(&mut actor.begin("cat", key, None), false).is_some();
        assert!(call("cat-1") && call("cat-1"), "{scope}");
        assert!(!call("cat-1"), "{scope}");
        assert_eq!(call("cat-2"), other_is_reached, "{scope}");
    }
}

/// Row 35, F21: with both, the one of an id opens as well.
#[tokio::test(start_paused = true)]
async fn both_breakers_of_an_actor_are_asked_and_told() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {b: {trip: consecutiveFailures >= 2, timeout: 5s}}}, targets: {actors: {cat: {circuitBreaker: b, circuitBreakerScope: both}}}}",
    );
    let actor = resiliency.actor("cat");
    let call = |key, works| attempt(&mut actor.begin("cat", key, None), works).is_some();
    assert!(call("cat-1", false));
    // The type's failures are not in a row any more, those of the id are.
    assert!(call("cat-2", true));
    assert!(call("cat-1", false));
    assert_eq!(breaker(&resiliency, "cat").state, State::Closed);
    assert_eq!(breaker(&resiliency, "cat-1").state, State::Open);
    assert!(!call("cat-1", true));
    assert!(call("cat-2", true));
}

/// F21: what one of the two rejects is no probe of the other.
#[tokio::test(start_paused = true)]
async fn a_rejection_by_one_breaker_leaves_the_others_probe_to_somebody_else() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {b: {trip: consecutiveFailures >= 2, timeout: 5s}}}, targets: {actors: {cat: {circuitBreaker: b, circuitBreakerScope: both}}}}",
    );
    let actor = resiliency.actor("cat");
    let call = |key, works| attempt(&mut actor.begin("cat", key, None), works).is_some();
    // Both are open; the one of the id a second longer.
    assert!(call("cat-1", false) && call("cat-2", false));
    let target = actor.target().clone();
    assert_eq!(breaker(&resiliency, "cat").state, State::Open);
    until(ms(5_100), &target).await;
    assert!(
        call("cat-1", false),
        "the probe of the type, and the second failure of the id"
    );
    until(ms(10_000), &target).await;
    assert!(!call("cat-2", true), "the type is open");
    until(ms(10_150), &target).await;
    assert_eq!(breaker(&resiliency, "cat").state, State::HalfOpen);
    let mut lost = actor.begin("cat", "cat-1", None);
    let probe = lost.attempt().ok().unwrap();
    assert!(!call("cat-1", true), "both have a probe under way");
    drop(probe);
    assert!(
        call("cat-2", true),
        "a probe whose caller left is given to the next"
    );
    assert_eq!(breaker(&resiliency, "cat").state, State::Closed);
}

/// F21: without an entry the type has one breaker, and as many types are remembered as with one.
#[tokio::test(start_paused = true)]
async fn by_default_actors_of_a_type_share_a_breaker() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {DefaultActorCircuitBreakerPolicy: {trip: consecutiveFailures >= 2}}}}",
    );
    let actor = resiliency.actor("cat");
    let call = |key| attempt(&mut actor.begin("cat", key, None), false).is_some();
    assert!(call("cat-1") && call("cat-2"));
    assert!(!call("cat-3"));
    let dog = resiliency.actor("dog");
    assert!(attempt(&mut dog.begin("dog", "dog-1", None), false).is_some());
}

/// F22.
#[tokio::test(start_paused = true)]
async fn the_two_directions_of_a_component_have_breakers_of_their_own() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {b: {trip: consecutiveFailures >= 1}}}, targets: {components: {bus: {inbound: {circuitBreaker: b}, outbound: {circuitBreaker: b}}}}}",
    );
    let of = |flow| {
        resiliency
            .component("bus", ComponentKind::Pubsub, flow)
            .unwrap()
    };
    let key = Key {
        prefix: "b",
        joint: "-",
        within: "bus",
    };
    let call =
        |target: &Arc<Target>| attempt(&mut Operation::begin(target, key, None), false).is_some();
    let (inbound, outbound) = (of(Flow::Inbound), of(Flow::Outbound));
    assert!(call(&inbound));
    assert!(!call(&inbound));
    assert!(call(&outbound));
}

/// Row 42 and §7.2, looked up: the first name that is defined, for each kind of policy by itself.
#[tokio::test(start_paused = true)]
async fn defaults_are_found_for_each_kind_of_policy_by_itself() {
    let resiliency = policies(
        "{policies: {timeouts: {DefaultTimeoutPolicy: 70s, DefaultPubsubComponentInboundTimeoutPolicy: 3s}, retries: {DefaultRetryPolicy: {maxRetries: 3}, DefaultComponentRetryPolicy: {maxRetries: 2}, DefaultAppRetryPolicy: {maxRetries: 1}}, circuitBreakers: {DefaultStatestoreComponentCircuitBreakerPolicy: {}}}}",
    );
    let names = |target: &Target| {
        let plan = target.plan();
        let (timeout, retry) = (plan.timeout.as_ref(), plan.retry.as_ref());
        (
            timeout
                .map(|slot| slot.name.to_string())
                .unwrap_or_default(),
            retry.map(|slot| slot.name.to_string()).unwrap_or_default(),
            plan.breaker.is_some(),
        )
    };
    let of = |timeout: &str, retry: &str| (timeout.to_owned(), retry.to_owned(), false);
    let component = |kind, flow| names(&resiliency.component("x", kind, flow).unwrap());
    assert_eq!(
        names(&app(&resiliency)),
        of("DefaultTimeoutPolicy", "DefaultAppRetryPolicy")
    );
    assert_eq!(
        names(resiliency.actor("cat").target()),
        of("DefaultTimeoutPolicy", "DefaultRetryPolicy")
    );
    assert_eq!(
        component(ComponentKind::Pubsub, Flow::Inbound),
        of(
            "DefaultPubsubComponentInboundTimeoutPolicy",
            "DefaultComponentRetryPolicy"
        )
    );
    // A name without its direction is never looked up.
    assert_eq!(
        component(ComponentKind::Statestore, Flow::Outbound),
        of("DefaultTimeoutPolicy", "DefaultComponentRetryPolicy")
    );
}

/// Row 45, without a sidecar around it.
#[tokio::test(start_paused = true)]
async fn a_breaker_goes_on_over_a_change_that_is_not_its_own() {
    let spec = |trip: &str, other: &str| {
        format!(
            "{{policies: {{timeouts: {{t: {other}}}, circuitBreakers: {{b: {{trip: {trip}}}}}}}, targets: {{apps: {{shop: {{circuitBreaker: b}}}}}}}}"
        )
    };
    let resiliency = policies(&spec("consecutiveFailures >= 2", "1s"));
    let old = app(&resiliency);
    assert!(once(&old, false) && once(&old, false) && !once(&old, false));
    resiliency.apply(&read(&spec("consecutiveFailures >= 2", "2s")).resiliencies);
    assert!(!once(&app(&resiliency), true));
    resiliency.apply(&read(&spec("consecutiveFailures >= 3", "2s")).resiliencies);
    assert!(once(&app(&resiliency), true));
    assert!(!once(&old, true), "who began before ends as it began");
}

/// Row 46, looked up.
#[tokio::test(start_paused = true)]
async fn an_app_is_found_with_and_without_the_own_namespace() {
    let resiliency = policies(
        "{policies: {retries: {r: {maxRetries: 0}}}, targets: {apps: {bare: {retry: r}, full.home: {retry: r}}}}",
    );
    for (written, found) in [
        ("bare", true),
        ("bare.home", true),
        ("bare.away", false),
        ("full", true),
        ("full.home", true),
        ("full.away", false),
    ] {
        let app = resiliency.app(written);
        assert_eq!(
            app.choose("a", None).target.plan().is_named,
            found,
            "{written}"
        );
        assert_eq!(app.built_in.is_none(), found, "{written}");
    }
}

/// Row 48, second half.
#[tokio::test(start_paused = true)]
async fn a_budget_bounds_the_retries_of_all_calls_together() {
    let resiliency = policies(
        "{policies: {retries: {r: {duration: 1ms, maxRetries: 3, budget: {ratio: 0.2, minPerSecond: 0}}}}, targets: {apps: {shop: {retry: r}}}}",
    );
    let target = app(&resiliency);
    let mut attempts = 0;
    for _ in 0..100 {
        attempts += call(&target, None).await.len();
    }
    assert!(attempts > 110 && attempts <= 120, "{attempts}");
}

/// F9.
#[tokio::test(start_paused = true)]
async fn no_pause_is_begun_that_the_caller_would_not_live_to_see() {
    let resiliency =
        policies("{policies: {retries: {r: {duration: 2s}}}, targets: {apps: {shop: {retry: r}}}}");
    let target = app(&resiliency);
    let deadline = target.now() + s(5);
    let mut operation = Operation::begin(&target, KEY, Some(deadline));
    let mut attempts = 1;
    while let Some(Step::Retry(at)) = attempt(&mut operation, false) {
        operation.pause(at).await;
        attempts += 1;
    }
    assert_eq!(attempts, 3);
    assert!(
        target.now() < Moment::START + ms(4_100),
        "{:?}",
        target.now()
    );
}

/// X14.
#[tokio::test(start_paused = true)]
async fn a_total_time_bounds_attempts_and_pauses() {
    let resiliency = policies(
        "{policies: {timeouts: {t: 2s}, retries: {r: {duration: 1s}}}, targets: {apps: {shop: {timeout: t, retry: r, totalTimeout: 4500ms}}}}",
    );
    let target = app(&resiliency);
    let mut operation = Operation::begin(&target, KEY, None);
    let mut attempts = 0;
    loop {
        attempts += 1;
        let pass = operation.attempt().ok().unwrap();
        assert!(
            limited(Some(&pass), pin!(tokio::time::sleep(s(10))))
                .await
                .is_none()
        );
        match operation.conclude(pass, Ending::TimedOut) {
            Step::Retry(at) => operation.pause(at).await,
            Step::Deliver => break,
        }
    }
    // 0 to 2 s, 3 to 4.5 s.
    assert_eq!(attempts, 2);
    let end = target.now().distance_from_start();
    assert!(end >= ms(4_500) && end < ms(4_510), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_invents_names_takes_nothing_from_the_targets_that_entries_name() {
    let resiliency = policies(
        "{policies: {circuitBreakers: {b: {trip: consecutiveFailures >= 1}, DefaultCircuitBreakerPolicy: {}}}, \
         targets: {apps: {shop: {circuitBreaker: b}}}}",
    );
    for number in 0..10_001 {
        let name = format!("invented{number}");
        drop(resiliency.app(&name));
    }
    let target = app(&resiliency);
    assert_eq!(target.label(), "app_shop");
    assert!(Arc::ptr_eq(&target, &app(&resiliency)));
    let last = resiliency
        .app("invented10000")
        .choose("a", None)
        .target
        .clone();
    assert_eq!(last.label(), "app_other");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_that_goes_on_is_seen_and_reset_before_anybody_calls_again() {
    let spec = |timeout: &str| {
        format!(
            "{{policies: {{timeouts: {{t: {timeout}}}, circuitBreakers: {{DefaultCircuitBreakerPolicy: {{trip: consecutiveFailures >= 1}}}}}}}}"
        )
    };
    let resiliency = policies(&spec("1s"));
    let ghost = resiliency.app("ghost").choose("a", None).target.clone();
    let key = Key {
        prefix: "ghost",
        joint: ":",
        within: "a",
    };
    let mut operation = Operation::begin(&ghost, key, None);
    let pass = operation.attempt().unwrap();
    operation.conclude(pass, Ending::Failed(Judged::plain(&"no")));
    let changes = resiliency.changes();
    resiliency.apply(&read(&spec("2s")).resiliencies);
    assert!(changes.has_changed().unwrap());
    assert_eq!(resiliency.census(), [0, 0, 1]);
    assert_eq!(resiliency.reset(Some("app_ghost"), None), 1);
    assert_eq!(resiliency.census(), [1, 0, 0]);
}
