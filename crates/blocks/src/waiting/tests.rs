//! What is waited for, for how long, and what is told, under virtual time.

use super::*;
use crate::component::{Control, Handle, Info};
use outrigger_component_api::{ComponentName, Kind, StateStore};
use outrigger_core::error::Detail;
use outrigger_lifecycle::Clock;
use outrigger_lifecycle::connection::{Class, Failure, Machine, Timing};
use std::sync::Arc;

fn at(millis: u64) -> Moment {
    Moment::from_start(Duration::from_millis(millis))
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn status(state: State) -> Status {
    Status {
        state,
        ..Machine::new(Timing::default(), at(0)).status().clone()
    }
}

/// Down, with the next attempt then.
fn down(class: Class, next: Moment) -> Status {
    Status {
        failure: Some(Failure::new(class, "connection refused")),
        next_attempt: Some(next),
        attempt: 3,
        ..status(State::Unavailable)
    }
}

#[test]
fn a_call_waits_only_for_what_is_tried_before_its_time_is_over() {
    let kicked = |at| Status {
        kicked_at: Some(at),
        ..down(Class::Transient, self::at(9_000))
    };
    for (what, status, expected) in [
        ("being connected", status(State::Connecting), true),
        ("rejected", status(State::Rejected), false),
        ("closing", status(State::Closing), false),
        ("due soon", down(Class::Timeout, at(2_999)), true),
        (
            "due late, and this call brings it forward",
            down(Class::Transient, at(9_000)),
            true,
        ),
        (
            "due late, brought forward a moment ago",
            kicked(at(500)),
            false,
        ),
        ("due late, brought forward a while ago", kicked(at(0)), true),
        (
            "due soon, of a kind that takes long to mend",
            down(Class::Auth, at(1_500)),
            false,
        ),
    ] {
        let seen = may_come(&status, Obstacle::None, at(1_000), at(3_000));
        assert_eq!(seen, expected, "{what}");
    }
}

#[test]
fn who_waits_for_a_store_is_waited_for_while_the_store_is_tried() {
    let pending = status(State::Pending);
    for (what, store, expected) in [
        ("no such store", None, false),
        ("connecting", Some(status(State::Connecting)), true),
        ("has just come", Some(status(State::Ready)), true),
        ("due soon", Some(down(Class::Transient, at(1_500))), true),
        (
            "refused to let us in",
            Some(down(Class::Auth, at(1_500))),
            false,
        ),
        ("waits itself", Some(status(State::Pending)), false),
    ] {
        let obstacle = Obstacle::Store(store.as_ref());
        let seen = may_come(&pending, obstacle, at(1_000), at(3_000));
        assert_eq!(seen, expected, "{what}");
    }
    assert!(may_come(&pending, Obstacle::None, at(0), at(1)));
}

fn control() -> (Control<dyn StateStore>, Clock) {
    let clock = Clock::start();
    let info = Info {
        name: ComponentName::from("store"),
        type_name: "state.fake".to_owned(),
        version: "v1".to_owned(),
        kind: Kind::State,
        optional: false,
    };
    (Control::new(info, clock, status(State::Pending)), clock)
}

/// How long a call waits, at most, and what it is told.
async fn refused(handle: &Arc<Handle<dyn StateStore>>, patience: Patience) -> (Duration, String) {
    let began = Instant::now();
    let told = handle.ready(patience).await.err().expect("it is not ready");
    (began.elapsed(), told.message)
}

const PATIENCE: Patience = Patience { wait: ms(2_000) };

#[tokio::test(start_paused = true)]
async fn a_call_leaves_when_the_attempt_that_it_asked_for_has_failed() {
    let (control, clock) = control();
    let handle = control.handle;
    handle.show(down(Class::Transient, clock.now() + ms(9_000)));
    let attempt = async {
        tokio::time::sleep(ms(10)).await;
        let now = clock.now();
        handle.show(Status {
            kicked_at: Some(now),
            ..status(State::Connecting)
        });
        tokio::time::sleep(ms(300)).await;
        handle.show(Status {
            kicked_at: Some(now),
            ..down(Class::Transient, clock.now() + ms(9_000))
        });
    };
    let ((waited, told), ()) = tokio::join!(refused(&handle, PATIENCE), attempt);
    assert!(waited < ms(400), "{waited:?}");
    assert!(told.contains("next try in 9s"), "{told}");
    assert_eq!(handle.waiters(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_leaves_when_the_store_behind_its_component_is_given_up_for_now() {
    let (control, clock) = control();
    let handle = control.handle;
    let (store, seen) = watch::channel(status(State::Connecting));
    let need = Need {
        store: "vault".to_owned(),
        status: Some(seen),
    };
    handle.needs().send_replace(Some(need));
    let attempt = async {
        tokio::time::sleep(ms(300)).await;
        store.send_replace(down(Class::Auth, clock.now() + ms(5_000)));
    };
    let ((waited, told), ()) = tokio::join!(refused(&handle, PATIENCE), attempt);
    assert!(waited < ms(400), "{waited:?}");
    let expected = "component store (state.fake/v1) is pending: waiting for secret store vault, next try in 5s";
    assert_eq!(told, expected);
    let details = handle.not_ready().details;
    let Some(Detail::ErrorInfo {
        metadata: Some(metadata),
        ..
    }) = details.first()
    else {
        panic!("{details:?}");
    };
    assert_eq!(metadata["class"], "SECRET");
    assert_eq!(metadata["nextRetryMs"], "5000");
    assert_eq!(handle.reason().as_deref(), Some("secretstore:vault"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_little_time_is_answered_before_it_is_over() {
    let (control, _) = control();
    let handle = control.handle;
    handle.show(status(State::Connecting));
    let (all, _) = refused(&handle, PATIENCE.of_caller()).await;
    assert_eq!(all, ms(2_000));
    for (limit, expected) in [(1_000, 900), (5_000, 2_000), (50, 0)] {
        let call = async { refused(&handle, PATIENCE.of_caller()).await };
        let (waited, _) = within(ms(limit), call).await;
        assert!(
            waited.abs_diff(ms(expected)) <= ms(1),
            "{limit}: {waited:?}"
        );
    }
}
