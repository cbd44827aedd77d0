//! `state.redis`.
//!
//! A value is a hash with the fields `data` and `version`; the version is the entity tag. Reads are pipelined with the
//! key's remaining life. Every write, be it one key or a transaction, is one run of `state/apply.lua`, which checks all
//! entity tags before it changes anything. With the JSON module a request may ask for a document instead of a hash.
//! Tests: below each module; on a real server in `tests/`.

mod keys;
mod read;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use outrigger_component_api::{
    Component, ComponentError, Consistency, Delete, Findings, Get, JsonForm, KeysPage, Metadata,
    Open, Opener, Operation, Reader, Set, Spec, StateFeatures, StateItem, StateStore, async_trait,
};
use redis::Value;
use tracing::warn;

use crate::client::{Client, Link, slot};
use crate::error::Failure;
use crate::settings::State as Settings;
use write::{Form, Mode, Script, Step, Verdict};

/// Turns properties into a store that can be opened.
pub(crate) fn check(spec: &Spec, findings: &mut Findings) -> Option<Opener<dyn StateStore>> {
    let mut reader = Reader::redis(&spec.properties);
    let settings = Arc::new(Settings::read(&mut reader));
    reader.finish(findings).then(|| -> Opener<dyn StateStore> {
        Arc::new(move |open| {
            let settings = settings.clone();
            Box::pin(async move {
                let store = Store::open(&settings, &open).await?;
                Ok(Arc::new(store) as Arc<dyn StateStore>)
            })
        })
    })
}

struct Store {
    client: Client,
    /// For writes that bring no expiry.
    ttl: Option<i64>,
    script: Script,
    has_json: bool,
    /// The warning about transactions over several slots was given.
    warned: AtomicBool,
}

impl Store {
    async fn open(settings: &Settings, open: &Open) -> Result<Self, ComponentError> {
        let client = Client::open(settings.connection.clone(), open).await?;
        let has_json = has_json(&client).await?;
        if settings.has_indexes && !has_json {
            return Err(ComponentError::config(
                "`queryIndexes` needs a server with the JSON and search modules",
            ));
        }
        let script = Script::load(&client).await;
        Ok(Self {
            client,
            ttl: settings.ttl,
            script,
            has_json,
            warned: AtomicBool::new(false),
        })
    }

    async fn write(&self, step: &Step) -> Result<Verdict, Failure> {
        self.script.run(&self.client, &[step], Mode::Write).await
    }

    /// Writes and waits for every replica. WAIT counts the writes of its own connection, and holds that up.
    async fn write_strongly(&self, step: &Step) -> Result<(), ComponentError> {
        let key = step.key.as_bytes();
        let failed = |failure: Failure| failure.during(failed_to_set(&step.key));
        let mut has_moved = false;
        loop {
            let owner = self.client.owner(key).map_err(failed)?;
            let replicas = owner.replicas();
            if replicas == 0 {
                return stored(step, self.write(step).await.map_err(failed)?);
            }
            let written = self.client.exclusively(&owner, |link| async move {
                self.write_and_wait(&link, step, replicas).await
            });
            match written.await? {
                Written::Refused => return stored(step, Verdict::Refused),
                Written::At(heard) if heard >= replicas => return Ok(()),
                Written::At(heard) => {
                    // A replica that was taken away is not waited for again.
                    owner.check(self.client.read_limit()).await.ok();
                    return Err(waiting(replicas, &format!("only {heard} did")));
                }
                Written::Elsewhere(failure) if has_moved => return Err(failed(failure)),
                Written::Elsewhere(_) => {
                    // A plain question follows the slot, and shows everybody where it is now.
                    has_moved = true;
                    let mut question = redis::cmd("EXISTS");
                    question.arg(key);
                    let limit = self.client.read_limit();
                    self.client
                        .call(key, &question, limit)
                        .await
                        .map_err(failed)?;
                }
            }
        }
    }

    async fn write_and_wait(
        &self,
        link: &Link,
        step: &Step,
        replicas: usize,
    ) -> Result<Written, ComponentError> {
        match self.script.run_on(link, step, &self.client).await {
            Ok(Verdict::Applied) => {}
            Ok(Verdict::Refused) => return Ok(Written::Refused),
            Err(failure) if failure.redirect().is_some() => {
                return Ok(Written::Elsewhere(failure));
            }
            Err(failure) => {
                let failure = self.client.noted(failure);
                return Err(failure.during(failed_to_set(&step.key)));
            }
        }
        let mut wait = redis::cmd("WAIT");
        wait.arg(replicas).arg(WAIT_MILLIS);
        let limit = self.client.write_limit().map(|limit| limit + WAIT);
        match link.send(&wait, limit).await {
            Ok(Value::Int(heard)) => Ok(Written::At(usize::try_from(heard).unwrap_or(0))),
            Ok(_) => Err(waiting(replicas, &Failure::odd("WAIT").to_string())),
            Err(failure) => Err(waiting(replicas, &failure.to_string())),
        }
    }

    /// A cluster runs a script on keys of one slot only. What belongs together stays together per slot; all entity tags
    /// are looked at before the first write, but others may write in between.
    async fn write_by_slot(&self, steps: &[Step]) -> Result<Verdict, Failure> {
        let mut slots: BTreeMap<u16, Vec<&Step>> = BTreeMap::new();
        for step in steps {
            slots
                .entry(slot(step.key.as_bytes()))
                .or_default()
                .push(step);
        }
        let modes: &[Mode] = match slots.len() {
            0 | 1 => &[Mode::Write],
            _ => {
                if !self.warned.swap(true, Ordering::Relaxed) {
                    warn!("a transaction spans several slots of the cluster and is not atomic");
                }
                &[Mode::Check, Mode::Write]
            }
        };
        for mode in modes {
            for steps in slots.values() {
                if self.script.run(&self.client, steps, *mode).await? == Verdict::Refused {
                    return Ok(Verdict::Refused);
                }
            }
        }
        Ok(Verdict::Applied)
    }
}

/// What became of a strongly consistent write.
enum Written {
    Refused,
    /// At so many replicas.
    At(usize),
    /// The key is another node's.
    Elsewhere(Failure),
}

const WAIT_MILLIS: u64 = 1000;
const WAIT: std::time::Duration = std::time::Duration::from_millis(WAIT_MILLIS);

// Dapr: state/redis/redis.go; clients match on these texts.
fn failed_to_set(key: &str) -> String {
    format!("failed to set key {key}")
}

fn waiting(replicas: usize, why: &str) -> ComponentError {
    ComponentError::failed(format!(
        "redis waiting for {replicas} replicas to acknowledge write, err: {why}"
    ))
}

/// What a write came to. Without an etag it is refused only after a first write.
/// Dapr then calls nothing a mismatch; to us another first write is one, for it asked for what it did not get.
fn stored(step: &Step, verdict: Verdict) -> Result<(), ComponentError> {
    match verdict {
        Verdict::Refused if step.etag == write::ANY && !step.is_first_write() => {
            Err(ComponentError::failed(failed_to_set(&step.key)))
        }
        verdict => applied(verdict),
    }
}

fn applied(verdict: Verdict) -> Result<(), ComponentError> {
    match verdict {
        Verdict::Applied => Ok(()),
        Verdict::Refused => Err(ComponentError::etag_mismatch()),
    }
}

/// The module answers its command without arguments otherwise than with "never heard of it".
async fn has_json(client: &Client) -> Result<bool, ComponentError> {
    match client
        .call(b"", &redis::cmd("JSON.GET"), client.read_limit())
        .await
    {
        Ok(_) => Ok(true),
        Err(Failure::Refused(line)) => Ok(line.starts_with("ERR wrong number of arguments")),
        Err(failure) => Err(failure.into_error()),
    }
}

#[async_trait]
impl Component for Store {
    async fn ping(&self) -> Result<(), ComponentError> {
        self.client.ping().await
    }

    async fn close(&self) {
        self.client.close();
    }
}

#[async_trait]
impl StateStore for Store {
    fn features(&self) -> StateFeatures {
        StateFeatures {
            etag: true,
            transactional: true,
            ttl: true,
            query: false,
            delete_with_prefix: false,
            keys_like: true,
        }
    }

    fn json_form(&self) -> JsonForm {
        JsonForm::Fast
    }

    async fn get(&self, request: &Get) -> Result<Option<StateItem>, ComponentError> {
        read::read(&self.client, std::slice::from_ref(request), self.has_json)
            .await
            .pop()
            .unwrap_or(Ok(None))
    }

    async fn set(&self, request: &Set) -> Result<(), ComponentError> {
        let form = Form::of(&request.metadata, self.has_json);
        let step = Step::set(request, form, self.ttl, true)?;
        if request.consistency == Consistency::Strong {
            return self.write_strongly(&step).await;
        }
        let written = self.write(&step).await;
        let written = written.map_err(|failure| failure.during(failed_to_set(&step.key)))?;
        stored(&step, written)
    }

    async fn delete(&self, request: &Delete) -> Result<(), ComponentError> {
        let form = Form::of(&request.metadata, self.has_json);
        let step = Step::delete(request, form);
        let written = self.write(&step).await;
        applied(
            written.map_err(|failure| {
                failure.during(format_args!("failed to delete key {}", step.key))
            })?,
        )
    }

    async fn bulk_get(
        &self,
        requests: &[Get],
        _parallelism: usize,
    ) -> Result<Vec<(String, Result<Option<StateItem>, ComponentError>)>, ComponentError> {
        let found = read::read(&self.client, requests, self.has_json).await;
        let keys = requests.iter().map(|request| request.key.clone());
        Ok(keys.zip(found).collect())
    }

    async fn transact(
        &self,
        operations: &[Operation],
        metadata: &Metadata,
    ) -> Result<(), ComponentError> {
        let all_json = Form::of(metadata, self.has_json) == Form::Json;
        let form = |metadata: &Metadata| {
            if all_json {
                Form::Json
            } else {
                Form::of(metadata, self.has_json)
            }
        };
        let steps: Vec<Step> = operations
            .iter()
            .map(|operation| match operation {
                Operation::Set(set) => Step::set(set, form(&set.metadata), self.ttl, false),
                Operation::Delete(delete) => Ok(Step::delete(delete, form(&delete.metadata))),
            })
            .collect::<Result<_, _>>()?;
        let written = if self.client.is_cluster() {
            self.write_by_slot(&steps).await
        } else {
            let steps: Vec<&Step> = steps.iter().collect();
            self.script.run(&self.client, &steps, Mode::Write).await
        };
        applied(written.map_err(Failure::into_error)?)
    }

    fn query_needs(&self) -> Option<&'static str> {
        Some("redis-json server support is required for query capability")
    }

    async fn keys_like(
        &self,
        pattern: &str,
        page_size: Option<u32>,
        token: Option<&str>,
    ) -> Result<KeysPage, ComponentError> {
        keys::like(&self.client, pattern, page_size, token).await
    }
}
