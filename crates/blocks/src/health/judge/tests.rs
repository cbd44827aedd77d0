//! Every state and its code, the five cases, and properties over all mixtures of facts.

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Moment {
    Moment::from_start(Duration::from_secs(seconds))
}

const NOW: u64 = 1_000;

fn status(state: State) -> Status {
    Status {
        state,
        since: at(900),
        attempt: 1,
        failure: None,
        next_attempt: None,
        kicked_at: None,
        down_since: None,
        last_ready: None,
        last_ok: Some(at(NOW - 5)),
        ping_failures: 0,
        settled: true,
        was_ready: true,
    }
}

/// A component that is ready, was heard of five seconds ago, and has nothing against it.
fn facts() -> Facts {
    Facts {
        name: "orders".to_owned(),
        block: "pubsub".to_owned(),
        full_type: "pubsub.rabbitmq/v1".to_owned(),
        optional: false,
        status: status(State::Ready),
        last_used: Moment::START,
        waiters: 0,
        is_dormant: false,
        has_ping: true,
        missing_stores: Vec::new(),
        proof: None,
        asked_at: None,
        impediment: None,
        subscriptions: Vec::new(),
        pending: None,
    }
}

fn failed(class: Class) -> Failure {
    Failure::new(class, "amqp://u:hunter2@h:5672 said no")
}

fn down(state: State, class: Option<Class>) -> Facts {
    Facts {
        status: Status {
            failure: class.map(failed),
            ..status(state)
        },
        ..facts()
    }
}

fn proof(seconds: u64, outcome: Result<(), Failure>) -> Option<Proof> {
    Some(Proof {
        at: at(seconds),
        took: Duration::from_millis(3),
        outcome,
    })
}

fn subscription(topic: &str, state: subscription::State, error: Option<&str>) -> Subscription {
    Subscription {
        topic: topic.to_owned(),
        state,
        attempt: 3,
        error: error.map(str::to_owned),
    }
}

#[track_caller]
fn says(facts: &Facts, standing: Standing, code: Option<&str>) -> Item {
    let item = judge(facts, at(NOW));
    assert_eq!((item.standing, item.code), (standing, code), "{item:?}");
    item
}

#[track_caller]
fn bad(facts: &Facts, code: &str) -> Item {
    says(facts, Standing::NotOk, Some(code))
}

#[test]
fn every_state_has_its_code() {
    says(&facts(), Standing::Ok, None);
    for (state, class, code) in [
        (State::Connecting, None, CONNECTING),
        (State::Pending, None, CONNECTING),
        (State::Unavailable, Some(Class::Transient), UNAVAILABLE),
        (State::Unavailable, Some(Class::Timeout), UNAVAILABLE),
        (State::Connecting, Some(Class::Transient), UNAVAILABLE),
        (State::Unavailable, Some(Class::Panic), UNAVAILABLE),
        (State::Unavailable, Some(Class::Auth), AUTH),
        (State::Connecting, Some(Class::Auth), AUTH),
        (State::Unavailable, Some(Class::Secret), SECRET_NOT_FOUND),
        (State::Rejected, Some(Class::Config), REJECTED),
        (State::Closing, None, UNAVAILABLE),
    ] {
        let item = bad(&down(state, class), code);
        let detail = item.detail.unwrap();
        assert_eq!(
            (detail.state, detail.class),
            (state.name(), class.map(Class::name))
        );
        assert!(!item.message.unwrap().contains("hunter2"));
    }
}

#[test]
fn what_waits_for_a_store_names_it_and_what_nobody_needs_is_undefined() {
    let mut pending = down(State::Pending, None);
    pending.missing_stores = vec!["vault".to_owned()];
    let item = bad(&pending, STORE_NOT_READY);
    assert_eq!(
        item.message.as_deref(),
        Some("waiting for secret store vault")
    );
    pending.is_dormant = true;
    let item = says(&pending, Standing::Undefined, Some(NOT_INITIALIZED));
    assert_eq!(item.message, None);
}

#[test]
fn an_old_success_is_none_and_a_call_is_as_good_as_a_ping() {
    let mut old = facts();
    old.status.last_ok = Some(at(NOW - 15));
    says(&old, Standing::Ok, None);
    assert!(!is_stale(&old, at(NOW)));
    old.status.last_ok = Some(at(NOW - 16));
    assert!(is_stale(&old, at(NOW)));
    bad(&old, PING_TIMEOUT);
    old.last_used = at(NOW - 1);
    assert!(!is_stale(&old, at(NOW)));
    says(&old, Standing::Ok, None);
}

#[test]
fn what_is_asked_now_has_to_answer_now() {
    let mut asked = facts();
    asked.asked_at = Some(at(NOW - 3));
    bad(&asked, PING_TIMEOUT);
    asked.proof = proof(NOW - 1, Err(failed(Class::Transient)));
    bad(&asked, PING_FAILED);
    asked.proof = proof(NOW - 1, Err(failed(Class::Timeout)));
    bad(&asked, PING_TIMEOUT);
    asked.status.last_ok = Some(at(NOW));
    says(&asked, Standing::Ok, None);
}

#[test]
fn a_ping_that_is_shared_is_an_answer_whatever_the_status_shows_yet() {
    let mut asked = facts();
    asked.asked_at = Some(at(NOW));
    asked.proof = proof(NOW, Ok(()));
    says(&asked, Standing::Ok, None);
}

#[test]
fn one_failed_ping_in_the_background_is_not_enough() {
    let mut doubted = facts();
    doubted.status.ping_failures = 1;
    says(&doubted, Standing::Ok, None);
}

#[test]
fn a_connection_that_takes_no_messages_is_not_ok() {
    let mut blocked = facts();
    blocked.impediment = Some(Failure::new(Class::Transient, "short of memory"));
    let item = bad(&blocked, PING_FAILED);
    assert_eq!(item.message.as_deref(), Some("short of memory"));
}

#[test]
fn subscriptions_that_should_run_and_do_not_are_named_and_paused_ones_are_not() {
    use subscription::State::{Active, Idle, Retrying, Starting};
    let mut some = facts();
    some.subscriptions = vec![
        subscription("b", Active, None),
        subscription("c", Idle, None),
    ];
    says(&some, Standing::Ok, None);
    some.subscriptions
        .push(subscription("a", Retrying, Some("ACCESS_REFUSED")));
    some.subscriptions.push(subscription("d", Starting, None));
    let item = bad(&some, SUBSCRIPTION_NOT_ACTIVE);
    assert_eq!(
        item.message.as_deref(),
        Some(
            "subscription to topic a is retrying: ACCESS_REFUSED; subscription to topic d is starting"
        )
    );
}

#[test]
fn without_a_ping_a_component_is_undefined_unless_something_else_is_wrong() {
    let mut mute = facts();
    mute.has_ping = false;
    mute.status.last_ok = None;
    mute.asked_at = Some(at(NOW));
    says(&mute, Standing::Undefined, Some(NO_PING));
    mute.status.state = State::Unavailable;
    bad(&mute, UNAVAILABLE);
}

#[test]
fn a_changed_definition_that_cannot_be_used_is_told_and_no_obstacle_while_the_old_one_serves() {
    let pending = Pending {
        full_type: "pubsub.redis/v1".to_owned(),
        status: Status {
            attempt: 4,
            next_attempt: Some(at(NOW + 3)),
            down_since: Some(at(NOW - 20)),
            ..down(State::Unavailable, Some(Class::Auth)).status
        },
    };
    let item = says(
        &Facts {
            pending: Some(pending),
            ..facts()
        },
        Standing::Ok,
        None,
    );
    let told = item.detail.unwrap().pending.unwrap();
    assert_eq!((told.state, told.class), ("unavailable", Some("AUTH")));
    assert_eq!(told.full_type, "pubsub.redis/v1");
    assert_eq!(
        (told.attempt, told.next_retry),
        (4, Some(Duration::from_secs(3)))
    );
    assert_eq!(told.since, Duration::from_secs(20));
    assert_eq!(told.message.as_deref(), Some("amqp://u:***@h:5672 said no"));
}

#[test]
fn times_are_those_of_the_outage() {
    let mut out = down(State::Unavailable, Some(Class::Transient));
    out.status.since = at(NOW - 2);
    out.status.down_since = Some(at(NOW - 60));
    out.status.next_attempt = Some(at(NOW + 4));
    let detail = judge(&out, at(NOW)).detail.unwrap();
    let seconds = Duration::from_secs;
    assert_eq!(
        (detail.since, detail.checked, detail.next_retry),
        (seconds(60), Some(seconds(2)), Some(seconds(4)))
    );
}

fn item(name: &str, standing: Standing) -> Item {
    Item::plain(name, "state", standing, None, None)
}

fn components(standings: &[Standing]) -> Vec<(Subject, Vec<Item>)> {
    let items = standings.iter().enumerate();
    let items = items.map(|(place, standing)| item(&format!("{}", 9 - place), *standing));
    vec![(Subject::Components, items.collect())]
}

#[test]
fn the_five_cases() {
    use Standing::{NotOk as F, Ok as H, Undefined as U};
    for (standings, verdict, listed) in [
        (&[][..], Verdict::Fine, 0),
        (&[H, H], Verdict::Fine, 0),
        (&[H, F], Verdict::Failed, 1),
        (&[H, F, U], Verdict::Failed, 2),
        (&[F, U], Verdict::Failed, 2),
        (&[U, U], Verdict::Unverified, 2),
        (&[H, U], Verdict::Fine, 1),
    ] {
        let report = report(components(standings), Reading::default());
        let count: usize = report.groups.iter().map(|(_, items)| items.len()).sum();
        assert_eq!((report.verdict, count), (verdict, listed), "{standings:?}");
    }
}

#[test]
fn failures_come_first_and_each_by_name() {
    use Standing::{NotOk as F, Ok as H, Undefined as U};
    let reading = Reading {
        verbose: true,
        ignore_optional: false,
    };
    let report = report(components(&[H, U, F, U, F, H]), reading);
    let names: Vec<&str> = report.groups[0]
        .1
        .iter()
        .map(|item| item.name.as_str())
        .collect();
    assert_eq!(names, ["5", "7", "6", "8", "4", "9"]);
}

#[test]
fn what_is_optional_may_be_left_out_of_the_count() {
    let optional = Item {
        optional: true,
        ..item("cache", Standing::NotOk)
    };
    let groups = vec![(
        Subject::Components,
        vec![optional, item("store", Standing::Ok)],
    )];
    let counted = report(groups.clone(), Reading::default());
    assert_eq!(counted.verdict, Verdict::Failed);
    let reading = Reading {
        verbose: false,
        ignore_optional: true,
    };
    let ignored = report(groups, reading);
    assert_eq!(ignored.verdict, Verdict::Fine);
    assert!(!ignored.is_empty(), "it is listed");
}

#[test]
fn the_worst_of_all_subjects_wins() {
    let groups = |app| {
        vec![
            (Subject::Components, vec![item("a", Standing::Undefined)]),
            (Subject::App, vec![item("shop", app)]),
        ]
    };
    let verdict = |app| report(groups(app), Reading::default()).verdict;
    assert_eq!(verdict(Standing::Ok), Verdict::Fine);
    assert_eq!(verdict(Standing::NotOk), Verdict::Failed);
    assert_eq!(verdict(Standing::Undefined), Verdict::Unverified);
}

fn any_class() -> impl Strategy<Value = Class> {
    proptest::sample::select(vec![
        Class::Transient,
        Class::Timeout,
        Class::Auth,
        Class::Secret,
        Class::Panic,
        Class::Config,
    ])
}

fn any_failure() -> impl Strategy<Value = Option<Failure>> {
    proptest::option::of(any_class().prop_map(failed))
}

prop_compose! {
    fn any_facts()(
        name in "[a-z]{1,3}",
        state in proptest::sample::select(State::ALL.to_vec()),
        failure in any_failure(),
        last_ok in proptest::option::of(970_u64..=NOW),
        last_used in proptest::sample::select(vec![0, 980, 990, NOW]),
        (optional, is_dormant, has_ping, is_asked) in any::<(bool, bool, bool, bool)>(),
        proof in proptest::option::of((970_u64..=NOW, any_failure())),
        impediment in any_failure(),
        topics in proptest::collection::vec(proptest::sample::select(subscription::State::ALL.to_vec()), 0..3),
        stores in proptest::collection::vec("[a-z]{1,3}", 0..2),
    ) -> Facts {
        Facts {
            name,
            optional,
            is_dormant,
            has_ping,
            missing_stores: stores,
            proof: proof.and_then(|(at, failure)| self::proof(at, failure.map_or(Ok(()), Err))),
            asked_at: is_asked.then(|| at(NOW - 3)),
            impediment,
            last_used: at(last_used),
            status: Status {
                failure,
                last_ok: last_ok.map(at),
                ..status(state)
            },
            subscriptions: topics.into_iter().map(|state| subscription("t", state, Some("no"))).collect(),
            ..facts()
        }
    }
}

proptest! {
    #[test]
    fn ok_means_what_it_says_and_nothing_bad_is_without_a_code(facts in any_facts()) {
        let now = at(NOW);
        let item = judge(&facts, now);
        match item.standing {
            Standing::Ok => {
                prop_assert_eq!(facts.status.state, State::Ready);
                prop_assert!(facts.has_ping && facts.impediment.is_none());
                prop_assert!(!is_stale(&facts, now), "nothing old is OK");
                prop_assert!(!facts.subscriptions.iter().any(Subscription::is_failing));
                prop_assert_eq!((item.code, &item.message), (None, &None));
            }
            Standing::NotOk => prop_assert!(item.code.is_some() && item.message.is_some()),
            Standing::Undefined => {
                prop_assert!(item.code == Some(NO_PING) || item.code == Some(NOT_INITIALIZED));
                prop_assert!(item.message.is_none());
            }
        }
        let told = format!("{item:?}");
        prop_assert!(!told.contains("hunter2"), "{}", told);
        let bare = item.bare();
        prop_assert!(bare.message.is_none() && bare.detail.is_none());
    }

    #[test]
    fn every_mixture_is_one_of_the_five_cases(all in proptest::collection::vec(any_facts(), 0..6)) {
        let items: Vec<Item> = all.iter().map(|facts| judge(facts, at(NOW))).collect();
        let count = |standing| items.iter().filter(|item| item.standing == standing).count();
        let (failed, undefined, well) = (count(Standing::NotOk), count(Standing::Undefined), count(Standing::Ok));
        let report = report(vec![(Subject::Components, items)], Reading::default());
        let listed = &report.groups[0].1;
        prop_assert_eq!(listed.len(), failed + undefined);
        let expected = match (failed, undefined, well) {
            (1.., _, _) => Verdict::Failed,
            (0, 1.., 0) => Verdict::Unverified,
            _ => Verdict::Fine,
        };
        prop_assert_eq!(report.verdict, expected);
        let places: Vec<_> = listed.iter().map(|item| (item.standing.rank(), item.name.clone())).collect();
        prop_assert!(places.is_sorted());
    }
}
