//! Attempts against real peers in memory: what commits, what is sent again, what is passed on.

use std::cell::Cell;

use bytes::Bytes;
use outrigger_core::error::{Detail, GrpcCode};
use outrigger_lifecycle::Scope;
use proptest::prelude::*;

use super::super::scene::{
    Caller, LIMIT, Scene, cancelled, headers, hear, map, read_to_end, soon, stays,
};
use super::super::{Call, Ended, Reply, Status, framed, relay};
use super::{Attempt, Committed, Failure, Replayed};

/// A scene with a call to us under way.
struct Play {
    scene: Scene,
    caller: Caller,
    replayed: Replayed,
    reply: Reply,
}

impl Play {
    async fn new() -> Self {
        Self::keeping(LIMIT).await
    }

    async fn keeping(replay_limit: usize) -> Self {
        let mut scene = Scene::new().await;
        let (caller, messages, reply) = scene.caller().await;
        Self {
            scene,
            caller,
            replayed: Replayed::new(messages, LIMIT, replay_limit),
            reply,
        }
    }

    async fn attempt(&mut self, call: Call) -> Attempt {
        soon(self.replayed.attempt(&mut self.reply, call)).await
    }

    /// Makes an attempt of which the other side refuses to hear more after `wanted` bytes.
    async fn refused_after(&mut self, wanted: usize) -> Vec<u8> {
        let (call, mut other) = self.scene.call().await;
        let (attempt, heard) = tokio::join!(self.attempt(call), async {
            let heard = other.read(wanted).await;
            other.end(&refusal());
            heard
        });
        assert_eq!(failed(attempt).status.code, GrpcCode::Unavailable);
        heard
    }

    /// Relays the rest, and says how it ended and how often an answer was told.
    async fn finish(&mut self, committed: Committed) -> (Ended, usize) {
        let told = Cell::new(0);
        let tell = || told.set(told.get() + 1);
        let ended = soon(committed.finish(&mut self.replayed, &mut self.reply, tell)).await;
        (ended, told.get())
    }
}

#[track_caller]
fn committed(attempt: Attempt) -> Committed {
    match attempt {
        Attempt::Committed(committed) => committed,
        Attempt::Failed(failure) => panic!("failed: {failure:?}"),
        Attempt::Gone => panic!("the caller is gone"),
    }
}

#[track_caller]
fn failed(attempt: Attempt) -> Failure {
    match attempt {
        Attempt::Failed(failure) => failure,
        Attempt::Committed(_) => panic!("committed"),
        Attempt::Gone => panic!("the caller is gone"),
    }
}

#[track_caller]
fn passed(ended: &Ended) -> GrpcCode {
    match ended {
        Ended::Passed(code) => *code,
        other => panic!("{other:?}"),
    }
}

fn refusal() -> http::HeaderMap {
    map(&[
        ("content-type", "application/grpc"),
        ("grpc-status", "14"),
        ("grpc-message", "not%20now"),
        ("grpc-retry-pushback-ms", "250"),
    ])
}

fn ok() -> http::HeaderMap {
    map(&[("grpc-status", "0"), ("x-last", "word")])
}

#[tokio::test(start_paused = true)]
async fn a_unary_call_costs_one_frame_each_way() {
    let mut play = Play::new().await;
    play.caller.send(framed(b"question"), true);
    let (call, mut other) = play.scene.call().await;
    let (attempt, ()) = tokio::join!(play.attempt(call), async {
        assert_eq!(other.frame().await, (framed(b"question"), true));
        let mut back = other.begin();
        back.send_data(framed(b"answer"), false).unwrap();
        back.send_trailers(ok()).unwrap();
    });
    let committed = committed(attempt);
    assert!(committed.answered());
    assert!(!play.replayed.can_repeat());
    stays(&mut play.caller.response).await;
    let (ended, told) = play.finish(committed).await;
    assert_eq!((passed(&ended), told), (GrpcCode::Ok, 0));
    let heard = soon(hear(play.caller.response)).await;
    assert_eq!(heard.headers, headers());
    assert_eq!(heard.bytes, framed(b"answer"));
    assert_eq!(heard.trailers, Some(ok()));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_headers_of_its_own_passes_on_as_it_is() {
    let mut play = Play::new().await;
    play.caller.send(framed(b"question"), true);
    let (call, mut other) = play.scene.call().await;
    other.end(&refusal());
    let failure = failed(play.attempt(call).await);
    assert!(!failure.by_caller);
    assert_eq!(failure.status.code, GrpcCode::Unavailable);
    assert_eq!(failure.status.message, "not now");
    assert!(
        failure
            .status
            .metadata
            .contains_key("grpc-retry-pushback-ms")
    );
    assert!(play.replayed.can_repeat());
    stays(&mut play.caller.response).await;
    assert_eq!(failure.pass_on(&mut play.reply), GrpcCode::Unavailable);
    let heard = soon(hear(play.caller.response)).await;
    assert_eq!((heard.headers, heard.trailers), (refusal(), None));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_behind_headers_passes_on_with_both() {
    let mut play = Play::new().await;
    play.caller.send(framed(b"question"), true);
    let detail = Detail::RetryInfo { seconds: 4 };
    let status = Status::new(GrpcCode::Unavailable, "größer".to_owned()).with_details(&[detail]);
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    // A frame without bytes is no message.
    back.send_data(Bytes::new(), false).unwrap();
    back.send_trailers(status.to_trailers()).unwrap();
    let failure = failed(play.attempt(call).await);
    assert_eq!(failure.status, status);
    assert!(play.replayed.can_repeat());
    stays(&mut play.caller.response).await;
    assert_eq!(failure.pass_on(&mut play.reply), GrpcCode::Unavailable);
    let heard = soon(hear(play.caller.response)).await;
    assert_eq!(heard.headers, headers());
    assert_eq!(heard.trailers, Some(status.to_trailers()));
}

#[tokio::test(start_paused = true)]
async fn ok_without_a_message_commits() {
    for in_headers in [false, true] {
        let mut play = Play::new().await;
        let (call, mut other) = play.scene.call().await;
        let mut last = headers();
        last.extend(ok());
        if in_headers {
            other.end(&last);
        } else {
            other.begin().send_trailers(ok()).unwrap();
        }
        let committed = committed(play.attempt(call).await);
        assert!(committed.answered());
        let (ended, told) = play.finish(committed).await;
        assert_eq!((passed(&ended), told), (GrpcCode::Ok, 0));
        let heard = soon(hear(play.caller.response)).await;
        let expected = if in_headers {
            (last, None)
        } else {
            (headers(), Some(ok()))
        };
        assert_eq!((heard.headers, heard.trailers), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_without_a_status_fails_with_what_go_says_of_it() {
    let cases = [(true, GrpcCode::Unknown), (false, GrpcCode::Internal)];
    for (in_headers, code) in cases {
        let mut play = Play::new().await;
        let (call, mut other) = play.scene.call().await;
        if in_headers {
            other.end(&headers());
        } else {
            other.begin().send_data(Bytes::new(), true).unwrap();
        }
        let failure = failed(play.attempt(call).await);
        assert_eq!(failure.status.code, code);
        assert_eq!(failure.pass_on(&mut play.reply), code);
        let heard = soon(hear(play.caller.response)).await;
        assert_eq!(heard.headers, headers());
        assert_eq!(heard.trailers.is_none(), in_headers);
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_does_not_speak_grpc_fails_the_attempt() {
    let mut play = Play::new().await;
    let (call, mut other) = play.scene.call().await;
    other.end(&map(&[("content-type", "text/html")]));
    let failure = failed(play.attempt(call).await);
    assert_eq!(failure.status.code, GrpcCode::Unknown);
    assert_eq!(failure.pass_on(&mut play.reply), GrpcCode::Unknown);
    let heard = soon(hear(play.caller.response)).await;
    assert_eq!(heard.headers["content-type"], "application/grpc");
}

#[tokio::test(start_paused = true)]
async fn a_line_that_breaks_fails_the_attempt() {
    let mut play = Play::new().await;
    let (call, _other) = play.scene.call().await;
    play.scene.cut_other();
    assert_eq!(
        failed(play.attempt(call).await).status.code,
        GrpcCode::Unavailable
    );
    assert!(play.replayed.can_repeat());
}

#[tokio::test(start_paused = true)]
async fn another_attempt_sends_the_same_message_with_its_end() {
    let mut play = Play::new().await;
    play.caller.send(framed(b"question"), true);
    for _ in 0..2 {
        assert_eq!(play.refused_after(13).await, framed(b"question"));
    }
    let (call, mut other) = play.scene.call().await;
    let (attempt, ()) = tokio::join!(play.attempt(call), async {
        assert_eq!(other.frame().await, (framed(b"question"), true));
        other.begin().send_trailers(ok()).unwrap();
    });
    assert!(committed(attempt).answered());
}

#[tokio::test(start_paused = true)]
async fn another_attempt_sends_the_part_that_came_and_goes_on() {
    let mut play = Play::new().await;
    let wire = framed(&[7; 100]);
    for piece in [0..3, 3..30, 30..31] {
        play.caller.send(wire.slice(piece), false);
    }
    assert_eq!(play.refused_after(31).await, wire[..31]);
    play.caller.send(wire.slice(31..60), false);
    assert_eq!(play.refused_after(60).await, wire[..60]);
    play.caller.send(wire.slice(60..), true);
    let (call, mut other) = play.scene.call().await;
    let (attempt, ()) = tokio::join!(play.attempt(call), async {
        assert_eq!(other.read_to_end().await, wire);
        other.begin().send_trailers(ok()).unwrap();
    });
    assert!(committed(attempt).answered());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_is_sent_too() {
    let mut scene = Scene::new().await;
    let (mut caller, mut messages, mut reply) = scene.caller().await;
    let [first, second] = [framed(b"first"), framed(b"second")];
    caller.send([&first[..], &second[..4]].concat(), false);
    soon(messages.next()).await.unwrap();
    let mut replayed = Replayed::new(messages, LIMIT, LIMIT);
    caller.send(second.slice(4..), true);
    for _ in 0..2 {
        let (call, mut other) = scene.call().await;
        let (attempt, ()) = tokio::join!(replayed.attempt(&mut reply, call), async {
            assert_eq!(soon(other.read_to_end()).await, second);
            other.end(&refusal());
        });
        failed(attempt);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_a_message_ends_every_attempt() {
    let mut play = Play::new().await;
    play.caller.send(Bytes::new(), true);
    for _ in 0..2 {
        let (call, mut other) = play.scene.call().await;
        let (attempt, ()) = tokio::join!(play.attempt(call), async {
            assert_eq!(other.read_to_end().await, b"");
            other.end(&refusal());
        });
        failed(attempt);
        assert!(play.replayed.can_repeat());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_attempt_cancels_and_can_be_made_again() {
    let mut play = Play::new().await;
    play.caller.send(framed(b"question"), true);
    let (call, mut other) = play.scene.call().await;
    // The other side has begun, but has not said a message.
    let back = other.begin();
    stays(play.replayed.attempt(&mut play.reply, call)).await;
    soon(cancelled(back)).await;
    let (call, mut other) = play.scene.call().await;
    assert!(play.replayed.can_repeat());
    stays(&mut play.caller.response).await;
    let (attempt, ()) = tokio::join!(play.attempt(call), async {
        assert_eq!(other.frame().await, (framed(b"question"), true));
        other.begin().send_trailers(ok()).unwrap();
    });
    assert!(committed(attempt).answered());
}

#[tokio::test(start_paused = true)]
async fn a_message_half_sent_into_a_full_window_is_sent_whole_the_next_time() {
    let mut play = Play::new().await;
    let wire = framed(&[7; 200_000]);
    play.caller.send(wire.clone(), true);
    let (call, other) = play.scene.call().await;
    stays(play.replayed.attempt(&mut play.reply, call)).await;
    soon(other.cancelled()).await;
    let (call, mut other) = play.scene.call().await;
    let (attempt, ()) = tokio::join!(play.attempt(call), async {
        assert_eq!(other.read_to_end().await, wire);
        other.begin().send_trailers(ok()).unwrap();
    });
    assert!(committed(attempt).answered());
}

#[tokio::test(start_paused = true)]
async fn an_answer_into_a_half_sent_message_loses_nothing_of_it() {
    let mut play = Play::new().await;
    let wire = framed(&[7; 200_000]);
    play.caller.send(wire.clone(), true);
    let (call, mut other) = play.scene.call().await;
    let (attempt, mut back) = tokio::join!(play.attempt(call), async {
        let mut back = other.begin();
        back.send_data(framed(b"early"), false).unwrap();
        back
    });
    let committed = committed(attempt);
    assert!(!play.replayed.can_repeat());
    let ((ended, _), ()) = tokio::join!(play.finish(committed), async {
        assert_eq!(other.read_to_end().await, wire);
        back.send_trailers(ok()).unwrap();
    });
    assert_eq!(passed(&ended), GrpcCode::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_second_message_commits_ahead_of_the_answer() {
    let mut play = Play::new().await;
    let (first, second) = (framed(b"first"), framed(b"second"));
    play.caller.send(first.clone(), false);
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    let Play {
        caller,
        replayed,
        reply,
        ..
    } = &mut play;
    let (attempt, ()) = tokio::join!(soon(replayed.attempt(reply, call)), async {
        assert_eq!(other.read(first.len()).await, first);
        stays(&mut caller.response).await;
        caller.send(second.slice(..1), false);
    });
    let committed = committed(attempt);
    assert!(!committed.answered());
    assert!(!replayed.can_repeat());
    let told = Cell::new(0);
    let tell = || told.set(told.get() + 1);
    let (ended, ()) = tokio::join!(soon(committed.finish(replayed, reply, tell)), async {
        // The headers are released before there is an answer.
        let head = (&mut caller.response).await.unwrap();
        assert_eq!(*head.headers(), headers());
        caller.send(second.slice(1..), true);
        assert_eq!(other.read_to_end().await, second);
        assert_eq!(told.get(), 0);
        for _ in 0..2 {
            back.send_data(framed(b"answer"), false).unwrap();
        }
        back.send_trailers(refusal()).unwrap();
    });
    assert_eq!((passed(&ended), told.get()), (GrpcCode::Unavailable, 1));
    let (call, _other) = play.scene.call().await;
    assert_eq!(
        failed(play.attempt(call).await).status.code,
        GrpcCode::Internal
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_behind_the_first_message_commits() {
    for message in [&b"first"[..], b""] {
        let mut play = Play::new().await;
        play.caller
            .send([&framed(message)[..], &[0]].concat(), false);
        let (call, _other) = play.scene.call().await;
        assert!(!committed(play.attempt(call).await).answered());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_refused_after_its_commit_leaves_the_status_to_be_told() {
    let mut play = Play::new().await;
    play.caller
        .send([framed(b"1"), framed(b"2")].concat(), false);
    let (call, mut other) = play.scene.call().await;
    let committed = committed(play.attempt(call).await);
    other.respond.send_reset(h2::Reason::REFUSED_STREAM);
    let (ended, told) = play.finish(committed).await;
    assert!(matches!(&ended, Ended::Failed(_)), "{ended:?}");
    assert_eq!((ended.code(), told), (GrpcCode::Unavailable, 0));
}

#[tokio::test(start_paused = true)]
async fn ok_behind_a_commit_is_told_once() {
    let mut play = Play::new().await;
    play.caller
        .send([framed(b"1"), framed(b"2")].concat(), true);
    let (call, mut other) = play.scene.call().await;
    let committed = committed(play.attempt(call).await);
    other.begin().send_trailers(ok()).unwrap();
    let (ended, told) = play.finish(committed).await;
    assert_eq!((passed(&ended), told), (GrpcCode::Ok, 1));
}

#[tokio::test(start_paused = true)]
async fn a_side_that_speaks_first_commits_and_hears_the_rest() {
    let mut play = Play::new().await;
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    back.send_data(framed(b"hello"), false).unwrap();
    let committed = committed(play.attempt(call).await);
    assert!(committed.answered());
    play.caller.send(framed(b"1"), false);
    play.caller.send(framed(b"2"), true);
    let ((ended, _), ()) = tokio::join!(play.finish(committed), async {
        assert_eq!(
            other.read_to_end().await,
            [framed(b"1"), framed(b"2")].concat()
        );
        back.send_data(framed(b"bye"), false).unwrap();
        back.send_trailers(ok()).unwrap();
    });
    assert_eq!(passed(&ended), GrpcCode::Ok);
    let heard = soon(hear(play.caller.response)).await;
    assert_eq!(heard.bytes, [framed(b"hello"), framed(b"bye")].concat());
}

#[tokio::test(start_paused = true)]
async fn a_message_behind_the_headers_of_the_other_side_still_goes() {
    let mut play = Play::new().await;
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    let Play {
        caller,
        replayed,
        reply,
        ..
    } = &mut play;
    let (attempt, ()) = tokio::join!(soon(replayed.attempt(reply, call)), async {
        stays(&mut caller.response).await;
        caller.send(framed(b"late"), true);
        assert_eq!(other.frame().await, (framed(b"late"), true));
        stays(&mut caller.response).await;
        back.send_trailers(refusal()).unwrap();
    });
    failed(attempt);
    assert!(play.replayed.can_repeat());
    assert_eq!(play.refused_after(9).await, framed(b"late"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_resets_is_gone_and_cancels_the_call() {
    for half_closed in [false, true] {
        let mut play = Play::new().await;
        play.caller.send(framed(b"question"), half_closed);
        let (call, mut other) = play.scene.call().await;
        let Play {
            caller,
            replayed,
            reply,
            ..
        } = &mut play;
        let (attempt, ()) = tokio::join!(soon(replayed.attempt(reply, call)), async {
            other.read(13).await;
            caller.to.send_reset(h2::Reason::CANCEL);
        });
        assert!(matches!(attempt, Attempt::Gone));
        soon(other.cancelled()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_line_breaks_is_gone() {
    for half_closed in [false, true] {
        let mut play = Play::new().await;
        play.caller.send(framed(b"question"), half_closed);
        let (call, mut other) = play.scene.call().await;
        let Play {
            scene,
            replayed,
            reply,
            ..
        } = &mut play;
        let (attempt, ()) = tokio::join!(soon(replayed.attempt(reply, call)), async {
            other.read(13).await;
            scene.cut_caller();
        });
        assert!(matches!(attempt, Attempt::Gone));
        soon(other.cancelled()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_after_the_commit_cancels_the_call() {
    let mut play = Play::new().await;
    play.caller.send(framed(b"question"), true);
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    back.send_data(framed(b"answer"), false).unwrap();
    let committed = committed(play.attempt(call).await);
    let Play {
        caller,
        replayed,
        reply,
        ..
    } = &mut play;
    let finish = soon(committed.finish(replayed, reply, || panic!("answered before")));
    let (ended, ()) = tokio::join!(finish, async {
        (&mut caller.response).await.unwrap();
        caller.to.send_reset(h2::Reason::CANCEL);
    });
    assert!(matches!(ended, Ended::Gone));
    soon(cancelled(back)).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_longer_than_may_be_kept_is_sent_once() {
    for (length, can_repeat) in [(30, true), (31, false), (100_000, false)] {
        let mut play = Play::keeping(30).await;
        let wire = framed(&vec![7; length]);
        play.caller.send(wire.slice(..4), false);
        play.caller.send(wire.slice(4..7), false);
        play.caller.send(wire.slice(7..), true);
        assert_eq!(play.refused_after(wire.len()).await, wire);
        assert_eq!(play.replayed.can_repeat(), can_repeat, "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_of_the_caller_beyond_the_limit_fails_for_good() {
    let mut play = Play::new().await;
    let announced = u32::try_from(LIMIT + 1).unwrap().to_be_bytes();
    play.caller.send([&[0][..], &announced].concat(), false);
    let (call, mut other) = play.scene.call().await;
    let back = other.begin();
    let failure = failed(play.attempt(call).await);
    assert!(failure.by_caller);
    assert!(!play.replayed.can_repeat());
    soon(cancelled(back)).await;
    let code = failure.pass_on(&mut play.reply);
    assert_eq!(code, GrpcCode::ResourceExhausted);
    let heard = soon(hear(play.caller.response)).await;
    assert_eq!(
        heard.headers["grpc-message"],
        "grpc: received message larger than max (4194305 vs. 4194304)"
    );
}

#[tokio::test(start_paused = true)]
async fn a_later_message_beyond_the_limit_ends_the_call() {
    let mut play = Play::new().await;
    let announced = u32::try_from(LIMIT + 1).unwrap().to_be_bytes();
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    back.send_data(framed(b"answer"), false).unwrap();
    let committed = committed(play.attempt(call).await);
    play.caller.send([&[0][..], &announced].concat(), false);
    let (ended, _) = play.finish(committed).await;
    assert_eq!(passed(&ended), GrpcCode::ResourceExhausted);
    soon(cancelled(back)).await;
    let trailers = soon(hear(play.caller.response)).await.trailers.unwrap();
    assert_eq!(trailers["grpc-status"], "8");
}

#[tokio::test(start_paused = true)]
async fn an_answer_beyond_the_limit_fails_the_attempt() {
    let mut play = Play::new().await;
    let announced = u32::try_from(LIMIT + 1).unwrap().to_be_bytes();
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    back.send_data([&[0][..], &announced].concat().into(), false)
        .unwrap();
    let failure = failed(play.attempt(call).await);
    assert_eq!(failure.status.code, GrpcCode::ResourceExhausted);
    assert!(!failure.by_caller);
    soon(cancelled(back)).await;
    failure.pass_on(&mut play.reply);
    let heard = soon(hear(play.caller.response)).await;
    assert_eq!(heard.headers, headers());
    assert_eq!(heard.trailers.unwrap()["grpc-status"], "8");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_breaks_midway_ends_with_a_known_code() {
    let mut play = Play::new().await;
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    back.send_data(framed(b"answer"), false).unwrap();
    let committed = committed(play.attempt(call).await);
    back.send_reset(h2::Reason::INTERNAL_ERROR);
    let (ended, _) = play.finish(committed).await;
    assert_eq!(passed(&ended), GrpcCode::Internal);
    let heard = soon(hear(play.caller.response)).await;
    assert_eq!(heard.bytes, framed(b"answer"));
    assert_eq!(heard.trailers.unwrap()["grpc-status"], "13");
}

#[tokio::test(start_paused = true)]
async fn a_side_that_reads_nothing_holds_the_caller_back() {
    /// What fits between two peers that do not read: the window towards us, the one towards the other side, and a piece.
    const MOST: usize = 256 * 1024 + 65_535 + 16_384;
    let mut play = Play::new().await;
    let wire: Bytes = vec![framed(&[7; 1000]); 2000].concat().into();
    let (call, mut other) = play.scene.call().await;
    let mut rest = wire.clone();
    let to = &mut play.caller.to;
    let sent = Cell::new(0);
    let mut pour = Box::pin(async {
        while !rest.is_empty() {
            to.reserve_capacity(1000);
            let granted = std::future::poll_fn(|context| to.poll_capacity(context)).await;
            let piece = rest.split_to(granted.unwrap().unwrap().min(rest.len()));
            to.send_data(piece, rest.is_empty()).unwrap();
            sent.set(wire.len() - rest.len());
        }
    });
    let (replayed, reply) = (&mut play.replayed, &mut play.reply);
    let (attempt, ()) = tokio::join!(soon(replayed.attempt(reply, call)), async {
        stays(&mut pour).await;
    });
    let committed = committed(attempt);
    let mut finish = Box::pin(committed.finish(replayed, reply, || ()));
    stays(async { tokio::join!(&mut finish, &mut pour) }).await;
    let sent = sent.get();
    assert!((65_535..=MOST).contains(&sent), "{sent}");
    let (ended, (), ()) = soon(async {
        tokio::join!(finish, pour, async {
            assert_eq!(other.read_to_end().await, wire);
            other.begin().send_trailers(ok()).unwrap();
        })
    })
    .await;
    assert_eq!(passed(&ended), GrpcCode::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_nothing_holds_the_other_side_back() {
    let mut play = Play::new().await;
    let wire: Bytes = vec![framed(&[7; 1000]); 2000].concat().into();
    let (call, mut other) = play.scene.call().await;
    let mut back = other.begin();
    let mut pour = Box::pin(async {
        crate::http2::send(&mut back, wire.clone(), false)
            .await
            .unwrap();
        back.send_trailers(ok()).unwrap();
    });
    let (replayed, reply) = (&mut play.replayed, &mut play.reply);
    let (attempt, ()) = tokio::join!(soon(replayed.attempt(reply, call)), async {
        stays(&mut pour).await;
    });
    let mut finish = Box::pin(committed(attempt).finish(replayed, reply, || ()));
    stays(async { tokio::join!(&mut finish, &mut pour) }).await;
    // Requests flow on meanwhile.
    play.caller.send(framed(b"more"), true);
    let heard = soon(async {
        stays(&mut finish).await;
        assert_eq!(other.read_to_end().await, framed(b"more"));
        tokio::join!(finish, pour, hear(&mut play.caller.response)).2
    });
    assert_eq!(heard.await.bytes, wire);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_attempts_is_passed_on_as_it_is() {
    let mut scene = Scene::new().await;
    let (mut caller, messages, mut reply) = scene.caller().await;
    caller.send(framed(b"question"), true);
    let (call, mut other) = scene.call().await;
    let relayed = relay(messages, &mut reply, call, LIMIT);
    let (ended, ()) = tokio::join!(soon(relayed), async {
        assert_eq!(other.frame().await, (framed(b"question"), true));
        let mut back = other.begin();
        // Nothing is held back here.
        let head = (&mut caller.response).await.unwrap();
        assert_eq!(*head.headers(), headers());
        back.send_data(framed(b"answer"), false).unwrap();
        back.send_trailers(ok()).unwrap();
    });
    assert_eq!(passed(&ended), GrpcCode::Ok);
}

#[tokio::test(start_paused = true)]
async fn attempts_run_on_any_thread() {
    fn sendable<T: Send>(future: T) -> T {
        future
    }
    let mut play = Play::new().await;
    let (call, mut other) = play.scene.call().await;
    other.begin().send_trailers(ok()).unwrap();
    let committed = committed(sendable(play.replayed.attempt(&mut play.reply, call)).await);
    let finish = committed.finish(&mut play.replayed, &mut play.reply, || ());
    assert_eq!(passed(&sendable(finish).await), GrpcCode::Ok);
}

/// A stream of messages, and where it is cut into frames.
fn wire() -> impl Strategy<Value = (Bytes, Vec<usize>)> {
    let messages = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4);
    let big = (0_usize..150_000).prop_map(|length| vec![vec![5; length]]);
    let cuts = prop::collection::vec(1_usize..60, 1..40);
    (prop_oneof![9 => messages.boxed(), 1 => big.boxed()], cuts).prop_map(|(messages, cuts)| {
        let framed: Vec<Bytes> = messages.iter().map(|message| framed(message)).collect();
        (framed.concat().into(), cuts)
    })
}

/// Sends in frames of these lengths; the rest, if any, in one.
async fn send_cut(to: &mut h2::SendStream<Bytes>, mut bytes: Bytes, cuts: &[usize], end: bool) {
    for cut in cuts {
        if *cut >= bytes.len() {
            break;
        }
        crate::http2::send(to, bytes.split_to(*cut), false)
            .await
            .unwrap();
        // So that it is read by itself at times.
        tokio::task::yield_now().await;
    }
    crate::http2::send(to, bytes, end).await.unwrap();
}

/// How an attempt before the last goes wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Refused,
    RefusedBehindHeaders,
    Reset,
    TimedOut,
}

/// After how many bytes which.
fn troubles() -> impl Strategy<Value = Vec<(usize, Trouble)>> {
    use Trouble::{Refused, RefusedBehindHeaders, Reset, TimedOut};
    let trouble = prop::sample::select(vec![Refused, RefusedBehindHeaders, Reset, TimedOut]);
    prop::collection::vec((0_usize..60, trouble), 0..4)
}

/// Makes attempts in trouble as long as the call can be repeated, then one that goes through.
async fn story(
    (up, up_cuts): (Bytes, Vec<usize>),
    (down, down_cuts): (Bytes, Vec<usize>),
    troubles: Vec<(usize, Trouble)>,
) {
    let Play {
        mut scene,
        caller,
        mut replayed,
        mut reply,
    } = Play::new().await;
    let first = up.get(1..5).map_or(0, |length| {
        5 + u32::from_be_bytes(length.try_into().unwrap()) as usize
    });
    // Until the troubles are over the caller sends no more than the first message.
    let mut rest = up.clone();
    let opening = rest.split_to(first);
    let alone = rest.is_empty();
    let (go_on, gone_on) = tokio::sync::oneshot::channel();
    let (mut to, cuts) = (caller.to, up_cuts);
    let scope = Scope::root();
    scope.spawn_future("caller", async move {
        send_cut(&mut to, opening, &cuts, alone).await;
        gone_on.await.unwrap();
        if !alone {
            send_cut(&mut to, rest, &cuts, true).await;
        }
    });
    for (after, trouble) in troubles {
        let (call, mut other) = scene.call().await;
        let (gave_up, given_up) = tokio::sync::oneshot::channel();
        let attempt = async {
            tokio::select! {
                attempt = replayed.attempt(&mut reply, call) => Some(attempt),
                Ok(()) = given_up => None,
            }
        };
        let play = async {
            let heard = other.read(after.min(first)).await;
            assert!(up.starts_with(&heard));
            match trouble {
                Trouble::Refused => other.end(&refusal()),
                Trouble::RefusedBehindHeaders => other.begin().send_trailers(refusal()).unwrap(),
                Trouble::Reset => other.respond.send_reset(h2::Reason::INTERNAL_ERROR),
                Trouble::TimedOut => gave_up.send(()).unwrap(),
            }
            other
        };
        let (attempt, other) = soon(async { tokio::join!(attempt, play) }).await;
        match attempt {
            Some(attempt) => drop(failed(attempt)),
            None => soon(other.cancelled()).await,
        }
        assert!(replayed.can_repeat());
    }
    let (call, mut other) = scene.call().await;
    let through = async {
        match replayed.attempt(&mut reply, call).await {
            Attempt::Committed(committed) => {
                committed.finish(&mut replayed, &mut reply, || ()).await
            }
            Attempt::Failed(failure) => panic!("{failure:?}"),
            Attempt::Gone => panic!("gone"),
        }
    };
    let answer = async {
        let mut back = other.begin();
        let (heard, ()) = tokio::join!(read_to_end(&mut other.requests), async {
            send_cut(&mut back, down.clone(), &down_cuts, false).await;
        });
        back.send_trailers(ok()).unwrap();
        heard
    };
    go_on.send(()).unwrap();
    let hear = hear(caller.response);
    let (ended, heard, answered) = soon(async { tokio::join!(through, answer, hear) }).await;
    assert_eq!(passed(&ended), GrpcCode::Ok);
    assert_eq!(heard, up);
    assert_eq!(answered.headers, headers());
    assert_eq!(answered.bytes, down);
    assert_eq!(answered.trailers, Some(ok()));
}

proptest! {
    #[test]
    fn bytes_arrive_as_they_were_sent(up in wire(), down in wire(), troubles in troubles()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(story(up, down, troubles));
    }
}
