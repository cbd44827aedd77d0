//! The status of the sidecar in one document: phase, gate, drain, what is in hand, components, breakers, counters.
//!
//! Terminal and scripts read it; everything in it is what the machines say at that moment.

use std::time::Duration;

use outrigger_core::json::Value;
use outrigger_core::shown::shown;
use outrigger_telemetry::journal::Kind;

use crate::Blocks;
use crate::activity::label;
use crate::component::AnyHandle;
use crate::drain::Drain;
use crate::metadata::MetadataApi;
use crate::pubsub::subscription::Listed;

fn millis(duration: Duration) -> Value {
    Value::integer(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

fn count(count: u64) -> Value {
    Value::Number(count.to_string())
}

/// Members in order; what is absent is left out.
fn members<const N: usize>(all: [(&str, Option<Value>); N]) -> Value {
    let present = all
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

impl Blocks {
    /// The document.
    pub fn status(&self) -> Value {
        let metadata = &self.metadata;
        let phase = *self.health.phase.borrow();
        let gate = *metadata.gate.borrow();
        let journal = &self.metrics.journal;
        let uptime = metadata.clock.now().distance_from_start();
        let lasted = |kind| millis(journal.lasted(kind, "").unwrap_or(uptime));
        let drain = *self.drains.view.borrow();
        let in_hand = self.activity.in_hand();
        let in_flight = in_hand
            .iter()
            .map(|(kind, component, number)| (label(*kind, component), count(*number as u64)));
        let app = metadata.app.port.map(|port| {
            Value::object([
                ("port", Value::integer(port)),
                ("protocol", Value::string(metadata.app.protocol.as_str())),
            ])
        });
        members([
            ("appId", Some(Value::string(self.app_id.as_str()))),
            ("namespace", Some(Value::string(self.namespace.as_str()))),
            ("version", Some(Value::string(metadata.version.as_str()))),
            ("pid", Some(Value::integer(std::process::id()))),
            ("uptimeMs", Some(millis(uptime))),
            ("phase", Some(Value::string(phase.name()))),
            ("phaseSinceMs", Some(lasted(Kind::Phase))),
            ("gate", Some(Value::string(gate.name()))),
            ("gateSinceMs", Some(lasted(Kind::Gate))),
            (
                "app",
                Some(app.unwrap_or_else(|| Value::Object(Vec::new()))),
            ),
            ("drain", drain.map(|drain| self.drain_status(&drain))),
            ("inflight", Some(Value::Object(in_flight.collect()))),
            ("components", Some(metadata.component_status())),
            ("breakers", Some(self.breaker_status())),
            ("counters", Some(self.counters())),
        ])
    }

    fn drain_status(&self, drain: &Drain) -> Value {
        let now = self.metadata.clock.now();
        members([
            ("id", Some(Value::String(drain.id()))),
            ("cause", Some(Value::string(drain.cause.name()))),
            ("exits", Some(Value::Bool(drain.exits))),
            ("drained", Some(Value::Bool(drain.drained))),
            ("forMs", Some(millis(now.since(drain.since)))),
            (
                "deadlineMs",
                drain.deadline.map(|deadline| millis(deadline.since(now))),
            ),
            ("busy", drain.busy.map(Value::Bool)),
        ])
    }

    fn breaker_status(&self) -> Value {
        let view = self.invoke.resiliency.view();
        let all = view.targets.iter().flat_map(|target| {
            target.breakers.iter().map(|breaker| {
                members([
                    ("target", Some(Value::string(target.label.as_str()))),
                    ("breaker", Some(Value::string(breaker.name.as_str()))),
                    ("state", Some(Value::string(breaker.state.name()))),
                    ("forMs", Some(millis(breaker.for_so_long))),
                    ("nextProbeMs", breaker.next_probe.map(millis)),
                    (
                        "lastError",
                        breaker
                            .last_error
                            .as_deref()
                            .map(|error| Value::String(shown(error))),
                    ),
                ])
            })
        });
        Value::Array(all.collect())
    }

    fn counters(&self) -> Value {
        let metrics = &self.metrics;
        let every = |_: &[String]| true;
        let is = |place: usize, word: &'static str| {
            move |values: &[String]| values.get(place).is_some_and(|value| value == word)
        };
        let failed = |values: &[String]| values.get(2).is_some_and(|value| value != "success");
        let delivered = metrics.pubsub_ingress_count.total(is(2, "success"))
            + metrics.pubsub_bulk_ingress_events.total(is(2, "success"));
        let undelivered = metrics.pubsub_ingress_count.total(failed)
            + metrics.pubsub_bulk_ingress_events.total(failed);
        let published = metrics.pubsub_egress_count.total(is(2, "true"))
            + metrics.pubsub_bulk_egress_events.total(is(2, "true"));
        Value::object([
            (
                "httpRequests",
                count(metrics.http_server_request_count.total(every)),
            ),
            (
                "grpcRequests",
                count(metrics.grpc_server_completed.total(every)),
            ),
            ("published", count(published)),
            ("delivered", count(delivered)),
            ("failed", count(undelivered)),
            ("released", count(metrics.released_messages.total(every))),
            (
                "refused",
                count(metrics.component_rejected_calls.total(every)),
            ),
        ])
    }

    /// Puts what is in the app's hands, and who waits for a component, into the gauges that are read.
    pub fn refresh_gauges(&self) {
        for (kind, component, number) in self.activity.all() {
            self.metrics
                .inflight
                .set([kind.name(), &component], number as f64);
        }
        for handle in &self.registry.table().all {
            let waiters = handle.waiters() as f64;
            let gauge = &self.metrics.component_waiters;
            gauge.set([handle.name().as_str()], waiters);
            handle.count_downtime(&self.metrics);
        }
        if let Some(names) = self.invoke.resolver.handle() {
            names.count_downtime(&self.metrics);
        }
        self.registry.show_rejected(&self.metrics);
        self.invoke.resiliency.refresh();
    }
}

impl MetadataApi {
    /// Every component and rejected resource, by name.
    fn component_status(&self) -> Value {
        let table = self.registry.table();
        let subscriptions = self.subscriptions.list();
        let mut all: Vec<(String, Value)> = table
            .all
            .iter()
            .filter(|handle| !matches!(handle, AnyHandle::Names(_)))
            .map(|handle| {
                (
                    handle.info().name.to_string(),
                    self.one_component(handle, &subscriptions),
                )
            })
            .collect();
        all.extend(table.rejected.iter().map(|rejected| {
            let value = members([
                ("name", Some(Value::string(rejected.name.as_str()))),
                ("type", Some(Value::String(rejected.full_type()))),
                ("state", Some(Value::string("rejected"))),
                ("class", Some(Value::string("CONFIG"))),
                ("message", Some(Value::String(shown(&rejected.reason)))),
                ("optional", rejected.optional.then_some(Value::Bool(true))),
            ]);
            (rejected.name.clone(), value)
        }));
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        Value::Array(all.into_iter().map(|(_, value)| value).collect())
    }

    fn one_component(&self, handle: &AnyHandle, subscriptions: &[Listed]) -> Value {
        let now = self.clock.now();
        let (info, status) = (handle.info(), handle.told());
        let failure = status.failure.as_ref();
        let used =
            Some(handle.last_used()).filter(|used| *used > outrigger_lifecycle::Moment::START);
        let own: Vec<Value> = subscriptions
            .iter()
            .filter(|listed| listed.plan.pubsub == info.name.as_str())
            .map(|listed| {
                members([
                    ("topic", Some(Value::string(listed.plan.topic.as_str()))),
                    ("state", Some(Value::string(listed.status.state.name()))),
                    ("sinceMs", Some(millis(now.since(listed.status.since)))),
                    ("attempt", Some(Value::integer(listed.status.attempt))),
                    (
                        "error",
                        listed
                            .status
                            .error
                            .as_deref()
                            .map(|error| Value::String(shown(error))),
                    ),
                ])
            })
            .collect();
        members([
            ("name", Some(Value::string(info.name.as_str()))),
            ("type", Some(Value::String(info.full_type()))),
            ("state", Some(Value::string(status.state.name()))),
            ("sinceMs", Some(millis(now.since(status.since)))),
            ("reason", handle.reason().map(Value::String)),
            ("attempt", Some(Value::integer(status.attempt))),
            (
                "class",
                failure.map(|failure| Value::string(failure.class.name())),
            ),
            (
                "message",
                failure.map(|failure| Value::String(shown(&failure.message))),
            ),
            (
                "nextRetryMs",
                status.next_attempt.map(|at| millis(at.since(now))),
            ),
            (
                "lastOkMs",
                status.last_ok.max(used).map(|at| millis(now.since(at))),
            ),
            ("optional", info.optional.then_some(Value::Bool(true))),
            (
                "pendingRevision",
                handle.pending().map(|pending| {
                    let failure = pending.status.failure.as_ref();
                    members([
                        ("state", Some(Value::string(pending.status.state.name()))),
                        (
                            "class",
                            failure.map(|failure| Value::string(failure.class.name())),
                        ),
                        (
                            "message",
                            failure.map(|failure| Value::String(shown(&failure.message))),
                        ),
                        ("attempt", Some(Value::integer(pending.status.attempt))),
                        (
                            "nextRetryMs",
                            pending.status.next_attempt.map(|at| millis(at.since(now))),
                        ),
                    ])
                }),
            ),
            (
                "subscriptions",
                (!own.is_empty()).then_some(Value::Array(own)),
            ),
        ])
    }
}
