//! What lies in a real Redis while messages are published, handled, left pending and given back.

mod bench;

use std::sync::Arc;
use std::time::Duration;

use bench::{
    Decision, Recorder, SOON, StandIn, address, ask, broker, bulk, checked, message, pending,
    pending_becomes, pending_entries, publish, raw, resource, subscribe,
};
use outrigger_component_api::{
    Class, ErrorKind, Metadata, Outcome, PubSub, Publish, Source, Subscribe,
};
use outrigger_testkit::servers::{Redis, RedisServer, Server as _};
use outrigger_testkit::suites::open::Opened;
use outrigger_testkit::wait;

type Raw = redis::aio::MultiplexedConnection;

/// Short times, so that redelivery is seen in a test.
const QUICK: &[(&str, &str)] = &[
    ("consumerID", "g"),
    ("processingTimeout", "300ms"),
    ("redeliverInterval", "100ms"),
];

/// Long times: what comes again within a test was given back.
const SLOW: &[(&str, &str)] = &[("consumerID", "g")];

async fn shared(more: &[(&str, &str)]) -> (Opened<dyn PubSub>, Raw) {
    let server = RedisServer::shared().await;
    (broker(&address(server), more).await, raw(server).await)
}

#[tokio::test]
async fn a_publish_is_one_entry_on_real_redis() {
    let (broker, raw) = shared(SLOW).await;
    broker.publish(message("wire", "plain")).await.unwrap();
    let metadata = Metadata::from([("b".into(), "<2>".into()), ("a".into(), "1".into())]);
    broker
        .publish(Publish {
            metadata: Some(metadata),
            ..message("wire", "with")
        })
        .await
        .unwrap();
    let entries: Vec<(String, Vec<String>)> = ask(&raw, &["XRANGE", "wire", "-", "+"]).await;
    assert_eq!(entries[0].1, ["data", "plain"]);
    assert_eq!(
        entries[1].1,
        [
            "data",
            "with",
            "metadata",
            "{\"a\":\"1\",\"b\":\"\\u003c2\\u003e\"}"
        ]
    );
    let groups: Vec<redis::Value> = ask(&raw, &["XINFO", "GROUPS", "wire"]).await;
    assert_eq!(groups.len(), 0);
    let () = ask(&raw, &["SET", "text", "x"]).await;
    let error = broker.publish(message("text", "x")).await.unwrap_err();
    assert_eq!(
        error.message,
        "redis streams: error from publish: WRONGTYPE Operation against a key holding the wrong kind of value"
    );
    broker.close().await;
}

#[tokio::test]
async fn streams_are_trimmed_as_the_settings_say_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let raw = raw(&server).await;
    let () = ask(&raw, &["CONFIG", "SET", "stream-node-max-entries", "1"]).await;
    let by_length = broker(&address(&server), &[("maxLenApprox", "2")]).await;
    for n in 0..5 {
        publish(&by_length, "length", &n.to_string()).await;
    }
    assert_eq!(ask::<usize>(&raw, &["XLEN", "length"]).await, 2);
    by_length.close().await;
    let by_age = broker(&address(&server), &[("streamTTL", "1m")]).await;
    let () = ask(&raw, &["XADD", "age", "1000-1", "data", "old"]).await;
    publish(&by_age, "age", "new").await;
    assert_eq!(ask::<usize>(&raw, &["XLEN", "age"]).await, 1);
    by_age.close().await;
}

#[tokio::test]
async fn a_new_group_begins_with_the_oldest_entry_on_real_redis() {
    let (broker, raw) = shared(SLOW).await;
    publish(&broker, "oldest", "before").await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "oldest", &handler).await;
    publish(&broker, "oldest", "after").await;
    let seen = handler.wait_for(2).await;
    assert_eq!(handler.payloads(), ["before", "after"]);
    assert_eq!((seen[0].topic.as_str(), seen[0].delivery), ("oldest", 1));
    pending_becomes(&raw, "oldest", "g", 0).await;
    let groups: Vec<std::collections::BTreeMap<String, redis::Value>> =
        ask(&raw, &["XINFO", "GROUPS", "oldest"]).await;
    assert_eq!(groups[0]["name"], redis::Value::BulkString(b"g".to_vec()));
    assert_eq!(groups[0]["consumers"], redis::Value::Int(1));
    let consumers: Vec<std::collections::BTreeMap<String, redis::Value>> =
        ask(&raw, &["XINFO", "CONSUMERS", "oldest", "g"]).await;
    assert_eq!(
        consumers[0]["name"],
        redis::Value::BulkString(b"g".to_vec())
    );
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn a_group_has_no_consumer_before_its_first_message_on_real_redis() {
    let (broker, raw) = shared(SLOW).await;
    let source = subscribe(&broker, "quiet", &Recorder::always(Outcome::Done)).await;
    // Beyond the first look of the collector.
    wait::never("a consumer", Duration::from_millis(1500), async || {
        let groups: Vec<std::collections::BTreeMap<String, redis::Value>> =
            ask(&raw, &["XINFO", "GROUPS", "quiet"]).await;
        groups[0]["consumers"] != redis::Value::Int(0)
    })
    .await;
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn entries_of_others_are_handled_on_real_redis() {
    let (broker, raw) = shared(SLOW).await;
    for entry in [
        &["data", "a"][..],
        &["metadata", "{\"k\":\"v\",\"n\":1}", "data", "b"],
        &["data", "c", "metadata", "no object"],
        &["other", "field"],
    ] {
        let mut words = vec!["XADD", "foreign", "*"];
        words.extend(entry);
        let () = ask(&raw, &words).await;
    }
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "foreign", &handler).await;
    let mut seen = handler.wait_for(4).await;
    seen.sort_by(|a, b| a.data.cmp(&b.data));
    let shown: Vec<(String, Metadata)> = seen
        .into_iter()
        .map(|message| {
            let data = String::from_utf8_lossy(&message.data).into_owned();
            (data, message.metadata.unwrap_or_default())
        })
        .collect();
    let metadata = Metadata::from([("k".into(), "v".into()), ("n".into(), String::new())]);
    assert_eq!(
        shown,
        [
            (String::new(), Metadata::new()),
            ("a".into(), Metadata::new()),
            ("b".into(), metadata),
            ("c".into(), Metadata::new()),
        ]
    );
    pending_becomes(&raw, "foreign", "g", 0).await;
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn each_outcome_does_what_the_table_says_on_real_redis() {
    for (topic, outcome, left) in [
        ("out-done", Outcome::Done, 0),
        ("out-gave-up", Outcome::GaveUp("policy".into()), 0),
        ("out-retry", Outcome::Retry("no".into()), 1),
        ("out-released", Outcome::Released, 1),
    ] {
        let (broker, raw) = shared(SLOW).await;
        let handler = Recorder::always(outcome);
        let source = subscribe(&broker, topic, &handler).await;
        publish(&broker, topic, "x").await;
        handler.wait_for(1).await;
        wait::until("the end of the handler", SOON, async || {
            source.in_flight() == 0
        })
        .await;
        assert_eq!(pending(&raw, topic, "g").await, left, "{topic}");
        if left == 1 {
            let entries = pending_entries(&raw, topic, "g").await;
            assert_eq!(entries[0].2, 1, "{topic}: delivered once");
            assert!(entries[0].1 < 60_000, "{topic}: kept");
        }
        assert_eq!(handler.count(), 1);
        source.close().await;
        broker.close().await;
    }
}

#[tokio::test]
async fn a_failed_message_comes_again_until_it_succeeds_on_real_redis() {
    let (broker, raw) = shared(QUICK).await;
    let retry = || Outcome::Retry("not yet".into());
    let handler = Recorder::answering([retry(), retry()]);
    let source = subscribe(&broker, "again", &handler).await;
    publish(&broker, "again", "x").await;
    let seen = handler.wait_for(3).await;
    let deliveries: Vec<u32> = seen.iter().map(|message| message.delivery).collect();
    assert_eq!(deliveries, [1, 2, 3]);
    pending_becomes(&raw, "again", "g", 0).await;
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn redelivery_that_is_off_leaves_what_is_pending_on_real_redis() {
    for (topic, off) in [
        ("off-a", ("redeliverInterval", "0")),
        ("off-b", ("processingTimeout", "0")),
    ] {
        let (broker, raw) = shared(&[("consumerID", "g"), off]).await;
        let () = ask(&raw, &["XGROUP", "CREATE", topic, "g", "0", "MKSTREAM"]).await;
        let () = ask(&raw, &["XADD", topic, "*", "data", "x"]).await;
        let _: redis::Value = ask(
            &raw,
            &["XREADGROUP", "GROUP", "g", "g", "STREAMS", topic, ">"],
        )
        .await;
        let handler = Recorder::always(Outcome::Retry("no".into()));
        let source = subscribe(&broker, topic, &handler).await;
        publish(&broker, topic, "y").await;
        handler.wait_for(1).await;
        wait::never(
            "a second delivery",
            Duration::from_millis(1500),
            async || handler.count() > 1,
        )
        .await;
        assert_eq!(pending(&raw, topic, "g").await, 2);
        source.close().await;
        broker.close().await;
    }
}

#[tokio::test]
async fn a_slow_handler_is_not_overtaken_by_itself_or_a_peer_on_real_redis() {
    let (one, raw) = shared(QUICK).await;
    let (two, _) = shared(QUICK).await;
    let handler = Recorder::gated(Outcome::Done);
    let sources = [
        subscribe(&one, "slow", &handler).await,
        subscribe(&two, "slow", &handler).await,
    ];
    publish(&one, "slow", "x").await;
    handler.wait_for(1).await;
    wait::never(
        "a second delivery",
        Duration::from_millis(1500),
        async || handler.count() > 1,
    )
    .await;
    assert_eq!(pending_entries(&raw, "slow", "g").await[0].2, 1);
    handler.open_gate();
    pending_becomes(&raw, "slow", "g", 0).await;
    for source in sources {
        source.close().await;
    }
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn what_waits_in_line_is_not_taken_by_a_peer_on_real_redis() {
    let (one, raw) = shared(&[QUICK, &[("concurrency", "1")]].concat()).await;
    let (two, _) = shared(QUICK).await;
    let stuck = Recorder::gated(Outcome::Done);
    let source = subscribe(&one, "line", &stuck).await;
    for n in 0..5 {
        publish(&one, "line", &n.to_string()).await;
    }
    pending_becomes(&raw, "line", "g", 5).await;
    let free = Recorder::always(Outcome::Done);
    let peer = subscribe(&two, "line", &free).await;
    wait::never(
        "a message for the peer",
        Duration::from_secs(1),
        async || free.count() > 0,
    )
    .await;
    stuck.open_gate();
    stuck.wait_for(5).await;
    assert_eq!(stuck.payloads(), ["0", "1", "2", "3", "4"]);
    assert_eq!(stuck.most_at_once(), 1);
    source.close().await;
    peer.close().await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn the_line_is_as_long_as_the_settings_say_on_real_redis() {
    let settings = [SLOW, &[("queueDepth", "3"), ("concurrency", "2")]].concat();
    let (broker, raw) = shared(&settings).await;
    let handler = Recorder::gated(Outcome::Done);
    let source = subscribe(&broker, "depth", &handler).await;
    for n in 0..50 {
        publish(&broker, "depth", &n.to_string()).await;
    }
    handler.wait_for(2).await;
    pending_becomes(&raw, "depth", "g", 5).await;
    wait::never("a longer line", Duration::from_millis(300), async || {
        pending(&raw, "depth", "g").await > 5
    })
    .await;
    assert_eq!(source.in_flight(), 2);
    handler.open_gate();
    handler.wait_for(50).await;
    assert_eq!(handler.most_at_once(), 2);
    pending_becomes(&raw, "depth", "g", 0).await;
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn a_stopped_subscription_gives_back_what_it_has_not_handed_out_on_real_redis() {
    let settings = [SLOW, &[("concurrency", "1")]].concat();
    let (one, raw) = shared(&settings).await;
    let (two, _) = shared(SLOW).await;
    let busy = Recorder::gated(Outcome::Done);
    let source = subscribe(&one, "stop", &busy).await;
    for n in 0..50 {
        publish(&one, "stop", &n.to_string()).await;
    }
    busy.wait_for(1).await;
    pending_becomes(&raw, "stop", "g", 50).await;
    let peer_handler = Recorder::always(Outcome::Done);
    let peer = subscribe(&two, "stop", &peer_handler).await;
    let stopped = tokio::time::Instant::now();
    source.pause().await;
    source.release().await;
    let counts: Vec<u32> = pending_entries(&raw, "stop", "g")
        .await
        .into_iter()
        .map(|(_, _, count)| count)
        .collect();
    assert!(counts.iter().all(|count| *count == 1), "{counts:?}");
    let taken = peer_handler.wait_for(49).await;
    assert!(stopped.elapsed() < Duration::from_secs(2));
    assert!(taken.iter().all(|message| message.delivery == 1));
    // The one in work is not given to anybody.
    assert_eq!((source.in_flight(), peer_handler.count()), (1, 49));
    busy.open_gate();
    pending_becomes(&raw, "stop", "g", 0).await;
    assert_eq!(busy.count(), 1);
    publish(&one, "stop", "later").await;
    peer_handler.wait_for(50).await;
    assert_eq!(busy.count(), 1, "a stopped subscription takes nothing");
    source.close().await;
    peer.close().await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn what_comes_back_untouched_during_a_stop_is_given_back_on_real_redis() {
    let (one, raw) = shared(SLOW).await;
    let (two, _) = shared(SLOW).await;
    let leaving = Recorder::new(|message| match message.data.as_ref() {
        b"early" => Decision::Now(Outcome::Released),
        _ => Decision::Later(Outcome::Released),
    });
    let source = subscribe(&one, "untouched", &leaving).await;
    publish(&one, "untouched", "early").await;
    publish(&one, "untouched", "late").await;
    leaving.wait_for(2).await;
    wait::until("the early one's return", SOON, async || {
        source.in_flight() == 1
    })
    .await;
    source.pause().await;
    source.release().await;
    let handler = Recorder::gated(Outcome::Done);
    let peer = subscribe(&two, "untouched", &handler).await;
    handler.wait_for(1).await;
    assert_eq!(handler.payloads(), ["early"]);
    leaving.open_gate();
    let seen = handler.wait_for(2).await;
    assert!(seen.iter().all(|message| message.delivery == 1));
    let entries = pending_entries(&raw, "untouched", "g").await;
    assert!(entries.iter().all(|(_, _, count)| *count == 1));
    handler.open_gate();
    pending_becomes(&raw, "untouched", "g", 0).await;
    source.close().await;
    peer.close().await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_pause_stops_fetching_at_once_and_a_resume_goes_on_on_real_redis() {
    let settings = [SLOW, &[("readTimeout", "5s")]].concat();
    let (broker, raw) = shared(&settings).await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "pause", &handler).await;
    publish(&broker, "pause", "1").await;
    handler.wait_for(1).await;
    let asked = tokio::time::Instant::now();
    source.pause().await;
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "the blocked read was interrupted"
    );
    publish(&broker, "pause", "2").await;
    wait::never("a message", Duration::from_millis(300), async || {
        handler.count() > 1 || pending(&raw, "pause", "g").await > 0
    })
    .await;
    source.resume().await;
    handler.wait_for(2).await;
    source.close().await;
    source.close().await;
    publish(&broker, "pause", "3").await;
    wait::never("a message", Duration::from_millis(300), async || {
        handler.count() > 2
    })
    .await;
    broker.close().await;
}

#[tokio::test]
async fn a_pause_works_where_the_read_may_not_be_woken_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let raw = raw(&server).await;
    let () = ask(
        &raw,
        &[
            "ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-client",
        ],
    )
    .await;
    let login = [("redisUsername", "app"), ("redisPassword", "pw")];
    let broker = broker(&address(&server), &[SLOW, &login].concat()).await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "unwoken", &handler).await;
    source.pause().await;
    publish(&broker, "unwoken", "x").await;
    wait::never("a read", Duration::from_millis(1200), async || {
        pending(&raw, "unwoken", "g").await > 0
    })
    .await;
    source.resume().await;
    handler.wait_for(1).await;
    source.close().await;
    broker.close().await;
}

/// Two instances of one application share group and consumer; they are stopped in turn while messages flow.
#[tokio::test]
async fn no_message_is_lost_when_either_of_two_instances_is_stopped_on_real_redis() {
    let (publisher, raw) = shared(SLOW).await;
    let handler = Recorder::new(|_| Decision::Now(Outcome::Done));
    let mut published = 0;
    let mut staying = {
        let (broker, _) = shared(SLOW).await;
        let source = subscribe(&broker, "turns", &handler).await;
        (broker, source)
    };
    for _ in 0..6 {
        let (broker, _) = shared(SLOW).await;
        let source = subscribe(&broker, "turns", &handler).await;
        for _ in 0..40 {
            publish(&publisher, "turns", &published.to_string()).await;
            published += 1;
        }
        let leaving = std::mem::replace(&mut staying, (broker, source));
        leaving.1.close().await;
        for _ in 0..10 {
            publish(&publisher, "turns", &published.to_string()).await;
            published += 1;
        }
        leaving.0.close().await;
    }
    handler.wait_for(published).await;
    pending_becomes(&raw, "turns", "g", 0).await;
    let mut payloads: Vec<u32> = handler
        .payloads()
        .iter()
        .map(|payload| payload.parse().unwrap())
        .collect();
    payloads.sort_unstable();
    let expected: Vec<u32> = (0..300).collect();
    assert_eq!(payloads, expected, "each once");
    staying.1.close().await;
    staying.0.close().await;
    publisher.close().await;
}

#[tokio::test]
async fn a_killed_instance_leaves_its_messages_to_the_next_on_real_redis() {
    let (one, raw) = shared(QUICK).await;
    let stuck = Recorder::gated(Outcome::Done);
    let source = subscribe(&one, "crash", &stuck).await;
    publish(&one, "crash", "x").await;
    stuck.wait_for(1).await;
    drop(source);
    drop(one);
    let (two, _) = shared(QUICK).await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&two, "crash", &handler).await;
    let seen = handler.wait_for(1).await;
    assert_eq!(seen[0].delivery, 2);
    pending_becomes(&raw, "crash", "g", 0).await;
    source.close().await;
    two.close().await;
}

#[tokio::test]
async fn many_overdue_messages_are_collected_in_one_round_on_real_redis() {
    let (broker, raw) = shared(&[SLOW, &[("queueDepth", "7")]].concat()).await;
    let () = ask(&raw, &["XGROUP", "CREATE", "overdue", "g", "0", "MKSTREAM"]).await;
    for n in 0..100 {
        let () = ask(&raw, &["XADD", "overdue", "*", "data", &n.to_string()]).await;
    }
    let _: redis::Value = ask(
        &raw,
        &["XREADGROUP", "GROUP", "g", "g", "STREAMS", "overdue", ">"],
    )
    .await;
    // The first of them are in somebody's hands, and must not hide the others.
    let entries = pending_entries(&raw, "overdue", "g").await;
    let mut claim = vec!["XCLAIM", "overdue", "g", "g", "0"];
    claim.extend(entries[10..].iter().map(|(id, ..)| id.as_str()));
    claim.extend(["IDLE", "100000", "JUSTID"]);
    let _: Vec<String> = ask(&raw, &claim).await;
    let mut held = vec!["XCLAIM", "overdue", "g", "g", "0"];
    held.extend(entries[..10].iter().map(|(id, ..)| id.as_str()));
    held.extend(["TIME", "99999999999999", "JUSTID"]);
    let _: Vec<String> = ask(&raw, &held).await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "overdue", &handler).await;
    handler.wait_for(90).await;
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn entries_that_were_deleted_are_acknowledged_away_on_real_redis() {
    let (broker, raw) = shared(QUICK).await;
    let handler = Recorder::always(Outcome::Retry("no".into()));
    let source = subscribe(&broker, "deleted", &handler).await;
    publish(&broker, "deleted", "x").await;
    handler.wait_for(1).await;
    let id = pending_entries(&raw, "deleted", "g").await.remove(0).0;
    let () = ask(&raw, &["XDEL", "deleted", &id]).await;
    pending_becomes(&raw, "deleted", "g", 0).await;
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn a_lost_group_goes_on_where_it_was_on_real_redis() {
    let (broker, raw) = shared(SLOW).await;
    let handler = Recorder::new(|message| match message.data.as_ref() {
        b"kept" => Decision::Later(Outcome::Done),
        _ => Decision::Now(Outcome::Done),
    });
    let source = subscribe(&broker, "lost-group", &handler).await;
    for n in 0..5 {
        publish(&broker, "lost-group", &n.to_string()).await;
    }
    handler.wait_for(5).await;
    pending_becomes(&raw, "lost-group", "g", 0).await;
    publish(&broker, "lost-group", "kept").await;
    handler.wait_for(6).await;
    let () = ask(&raw, &["XGROUP", "DESTROY", "lost-group", "g"]).await;
    publish(&broker, "lost-group", "after").await;
    handler.wait_for(7).await;
    // The one in work is pending again, is not handed out twice, and is acknowledged in the new group.
    pending_becomes(&raw, "lost-group", "g", 1).await;
    handler.open_gate();
    pending_becomes(&raw, "lost-group", "g", 0).await;
    assert_eq!(
        handler.payloads(),
        ["0", "1", "2", "3", "4", "kept", "after"]
    );
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn a_stream_that_begins_anew_is_read_from_its_beginning_on_real_redis() {
    let (broker, raw) = shared(SLOW).await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "new-stream", &handler).await;
    publish(&broker, "new-stream", "old").await;
    handler.wait_for(1).await;
    pending_becomes(&raw, "new-stream", "g", 0).await;
    // As after a failover to a server whose clock is behind.
    let swap = "redis.call('DEL', KEYS[1]) redis.call('XADD', KEYS[1], '1000-1', 'data', 'young')";
    let () = ask(&raw, &["EVAL", swap, "1", "new-stream"]).await;
    handler.wait_for(2).await;
    assert_eq!(handler.payloads(), ["old", "young"]);
    assert!(
        tokio::time::timeout(Duration::ZERO, source.ended())
            .await
            .is_err()
    );
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn progress_is_remembered_by_the_next_instance_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let raw = raw(&server).await;
    let opener = checked(resource("pubsub.redis", &address(&server), SLOW).pubsub());
    let handler = Recorder::always(Outcome::Done);
    let first = Opened::ready(&opener).await;
    let source = subscribe(&first, "memory", &handler).await;
    publish(&first, "memory", "1").await;
    handler.wait_for(1).await;
    pending_becomes(&raw, "memory", "g", 0).await;
    source.close().await;
    first.close().await;
    let () = ask(&raw, &["XGROUP", "DESTROY", "memory", "g"]).await;
    let second = Opened::ready(&opener).await;
    let source = subscribe(&second, "memory", &handler).await;
    publish(&second, "memory", "2").await;
    handler.wait_for(2).await;
    assert_eq!(handler.payloads(), ["1", "2"]);
    source.close().await;
    second.close().await;
}

#[tokio::test]
async fn a_subscription_that_dies_alone_says_why_on_real_redis() {
    let (broker, raw) = shared(SLOW).await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "dies", &handler).await;
    let () = ask(&raw, &["DEL", "dies"]).await;
    let () = ask(&raw, &["SET", "dies", "text"]).await;
    let error = wait::within("the end of the source", SOON, source.ended()).await;
    assert!(error.message.contains("WRONGTYPE"), "{error}");
    source.close().await;
    let request = Subscribe {
        topic: "dies".into(),
        metadata: Metadata::new(),
    };
    let refused = broker
        .subscribe(request, handler.clone())
        .await
        .err()
        .map(|error| error.kind);
    assert_eq!(refused, Some(ErrorKind::Failed));
    broker.ping().await.unwrap();
    broker.close().await;
}

#[tokio::test]
async fn a_reader_whose_connection_is_cut_ends_alone_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let raw = raw(&server).await;
    let broker = broker(&address(&server), SLOW).await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "cut", &handler).await;
    let reader = wait::until("a blocked reader", SOON, async || {
        let clients: String = ask(&raw, &["CLIENT", "LIST"]).await;
        clients
            .lines()
            .find(|line| line.contains("cmd=xreadgroup"))
            .and_then(|line| line.strip_prefix("id="))
            .and_then(|line| line.split(' ').next())
            .map(str::to_owned)
    })
    .await;
    let () = ask(&raw, &["CLIENT", "KILL", "ID", &reader]).await;
    let error = wait::within("the end of the source", SOON, source.ended()).await;
    assert_eq!(error.kind, ErrorKind::Connection(Class::Transient));
    source.close().await;
    let again = subscribe(&broker, "cut", &handler).await;
    publish(&broker, "cut", "x").await;
    handler.wait_for(1).await;
    again.close().await;
    broker.close().await;
}

#[tokio::test]
async fn one_topic_does_not_hold_another_up_on_real_redis() {
    let (broker, _) = shared(&[SLOW, &[("concurrency", "1")]].concat()).await;
    let stuck = Recorder::gated(Outcome::Done);
    let free = Recorder::always(Outcome::Done);
    let sources = [
        subscribe(&broker, "busy-topic", &stuck).await,
        subscribe(&broker, "free-topic", &free).await,
    ];
    for n in 0..5 {
        publish(&broker, "busy-topic", &n.to_string()).await;
        publish(&broker, "free-topic", &n.to_string()).await;
    }
    stuck.wait_for(1).await;
    free.wait_for(5).await;
    assert_eq!(stuck.count(), 1);
    stuck.open_gate();
    for source in sources {
        source.close().await;
    }
    broker.close().await;
}

#[tokio::test]
async fn a_closed_component_refuses_work_on_real_redis() {
    let (broker, _) = shared(SLOW).await;
    outrigger_component_api::Component::close(&*broker).await;
    let error = broker.publish(message("closed", "x")).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (
            ErrorKind::Connection(Class::Transient),
            "component is closed"
        )
    );
    broker.close().await;
}

#[tokio::test]
async fn a_handler_that_panics_frees_its_place_on_real_redis() {
    struct Clumsy(Arc<Recorder>);
    #[outrigger_component_api::async_trait]
    impl outrigger_component_api::Handler for Clumsy {
        async fn handle(&self, message: outrigger_component_api::Message) -> Outcome {
            let outcome = self.0.handle(message).await;
            assert!(self.0.count() > 1, "the first one drops its message");
            outcome
        }
    }
    let (broker, raw) = shared(&[QUICK, &[("concurrency", "1")]].concat()).await;
    let recorder = Recorder::always(Outcome::Done);
    let request = Subscribe {
        topic: "panic".into(),
        metadata: Metadata::new(),
    };
    let handler = Arc::new(Clumsy(recorder.clone()));
    let source = broker.subscribe(request, handler).await.unwrap();
    publish(&broker, "panic", "x").await;
    recorder.wait_for(2).await;
    pending_becomes(&raw, "panic", "g", 0).await;
    source.close().await;
    broker.close().await;
}

#[tokio::test]
async fn a_server_that_falls_silent_ends_the_source_on_real_redis() {
    let server = RedisServer::launch(Redis::default()).await;
    let broker = broker(
        &address(&server),
        &[SLOW, &[("readTimeout", "500ms")]].concat(),
    )
    .await;
    let source: Box<dyn Source> =
        subscribe(&broker, "silent", &Recorder::always(Outcome::Done)).await;
    server.pause();
    let error = wait::within("the end of the source", SOON, source.ended()).await;
    assert_eq!(error.kind, ErrorKind::Connection(Class::Timeout));
    let failed = broker.publish(message("silent", "x")).await.unwrap_err();
    assert_eq!(failed.kind, ErrorKind::Connection(Class::Timeout));
    assert!(
        failed
            .message
            .starts_with("redis streams: error from publish: no answer from redis at"),
        "{failed}"
    );
    server.resume();
    source.close().await;
    broker.close().await;
}

/// Before 6.2 there is no filter by idle time, before 7 a claim answers nothing for an entry that was deleted.
#[tokio::test]
async fn an_older_server_is_asked_in_its_own_way() {
    let entry = |id: &str, idle: u32| format!("*4\r\n{}{}:{idle}\r\n:1\r\n", bulk(id), bulk("g"));
    let server = StandIn::launch(move |words| match words {
        ["CLIENT", "ID"] => ":7\r\n".to_owned(),
        ["XGROUP", ..] => "+OK\r\n".to_owned(),
        ["XPENDING", "old", "g"] => "*4\r\n:3\r\n$-1\r\n$-1\r\n*-1\r\n".to_owned(),
        ["XPENDING", _, _, "IDLE", ..] => "-ERR syntax error\r\n".to_owned(),
        ["XPENDING", _, _, "-", ..] => {
            let entries = [entry("1-1", 90_000), entry("1-2", 90_000), entry("1-3", 5)];
            format!("*3\r\n{}", entries.concat())
        }
        ["XCLAIM", ..] => {
            let claimed = ["*2\r\n", &bulk("1-1"), "*2\r\n", &bulk("data"), &bulk("x")].concat();
            format!("*2\r\n{claimed}*-1\r\n")
        }
        ["XRANGE", ..] => "*0\r\n".to_owned(),
        ["XACK", ..] => ":1\r\n".to_owned(),
        _ => "*-1\r\n".to_owned(),
    })
    .await;
    let broker = broker(&server.address, SLOW).await;
    let handler = Recorder::always(Outcome::Done);
    let source = subscribe(&broker, "old", &handler).await;
    let seen = handler.wait_for(1).await;
    assert_eq!((seen[0].data.as_ref(), seen[0].delivery), (&b"x"[..], 2));
    wait::until("both acknowledgements", SOON, async || {
        let mut acknowledged = server.commands("XACK");
        acknowledged.sort();
        let expected = [["old", "g", "1-1"], ["old", "g", "1-2"]];
        if acknowledged == expected {
            Ok(())
        } else {
            Err(acknowledged)
        }
    })
    .await;
    let claim = server.commands("XCLAIM").remove(0);
    assert_eq!(claim, ["old", "g", "g", "60000", "1-1", "1-2"]);
    // A server that answers at once although it was told to wait is not run down.
    assert!(server.commands("XREADGROUP").len() < 100);
    source.close().await;
    broker.close().await;
}
