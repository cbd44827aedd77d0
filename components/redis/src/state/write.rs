//! Writes, as the script takes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outrigger_component_api::{
    Bytes, ComponentError, Concurrency, Delete, Metadata, Set, Value, json, ttl_in_seconds,
};
use redis::Cmd;

use crate::client::{Client, Link};
use crate::error::Failure;

/// One write to one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub key: String,
    pub form: Form,
    pub verb: Verb,
    /// The version that has to be there; "0" for any.
    pub etag: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Set {
        data: Bytes,
        /// Records that later writes must bring a version.
        mark: bool,
        expiry: Expiry,
    },
    Delete,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expiry {
    Leave,
    Never,
    Seconds(i64),
}

/// How a value lies in Redis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Hash,
    /// A document of the JSON module.
    Json,
}

impl Form {
    /// Dapr: state/redis/redis.go; the request asks for a document by its content type, and gets it if there is a module.
    pub(super) fn of(metadata: &Metadata, has_json: bool) -> Self {
        let wanted = metadata
            .get("contentType")
            .is_some_and(|kind| kind == "application/json");
        if wanted && has_json {
            Self::Json
        } else {
            Self::Hash
        }
    }
}

impl Step {
    pub(super) fn is_first_write(&self) -> bool {
        matches!(self.verb, Verb::Set { mark: true, .. })
    }

    /// `mark` is false inside of transactions.
    pub(super) fn set(
        request: &Set,
        form: Form,
        default_ttl: Option<i64>,
        may_mark: bool,
    ) -> Result<Self, ComponentError> {
        let etag = version(request)?;
        let expiry = match ttl_in_seconds(&request.metadata)?.or(default_ttl) {
            None => Expiry::Leave,
            Some(..=0) => Expiry::Never,
            Some(seconds @ 1..=LONGEST_TTL) => Expiry::Seconds(seconds),
            Some(_) => {
                return Err(ComponentError::failed(format!(
                    "failed to set key {} ttl: ERR invalid expire time in 'expire' command",
                    request.key
                )));
            }
        };
        let data = match form {
            Form::Hash => request.value.bytes().clone(),
            Form::Json => document(&request.value)?,
        };
        Ok(Self {
            key: request.key.clone(),
            form,
            verb: Verb::Set {
                data,
                mark: may_mark && request.concurrency == Concurrency::FirstWrite,
                expiry,
            },
            etag,
        })
    }

    pub(super) fn delete(request: &Delete, form: Form) -> Self {
        Self {
            key: request.key.clone(),
            form,
            verb: Verb::Delete,
            etag: match &request.etag {
                Some(etag) if !etag.is_empty() => etag.clone(),
                _ => ANY.to_owned(),
            },
        }
    }

    fn arguments(&self, command: &mut Cmd) {
        command.arg(match self.form {
            Form::Hash => "hash",
            Form::Json => "json",
        });
        match &self.verb {
            Verb::Set { data, mark, expiry } => {
                command.arg("set").arg(&self.etag).arg(i32::from(*mark));
                match expiry {
                    Expiry::Leave => command.arg(""),
                    Expiry::Never => command.arg("none"),
                    Expiry::Seconds(seconds) => command.arg(*seconds),
                };
                command.arg(data.as_ref());
            }
            Verb::Delete => {
                command.arg("delete").arg(&self.etag).arg(&["", "", ""]);
            }
        }
    }
}

/// In place of an etag: any will do.
pub(super) const ANY: &str = "0";

/// Redis keeps the moment of expiry in milliseconds in 64 bits.
const LONGEST_TTL: i64 = 9_223_000_000_000_000;

/// The version that a set asks for.
fn version(request: &Set) -> Result<String, ComponentError> {
    let etag = request.etag.as_deref().unwrap_or_default();
    if etag.is_empty() || request.concurrency == Concurrency::LastWrite {
        return Ok(ANY.to_owned());
    }
    etag.parse::<i64>()
        .map(|version| version.to_string())
        .map_err(|error| {
            use std::num::IntErrorKind::{NegOverflow, PosOverflow};
            let why = match error.kind() {
                PosOverflow | NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            ComponentError::etag_invalid(format!("strconv.Atoi: parsing {etag:?}: {why}"))
        })
}

/// The value as a document; the script adds the version.
fn document(value: &Value) -> Result<Bytes, ComponentError> {
    let mut text = String::from("{\"data\":");
    match value {
        Value::Json(json) => {
            // A text that the module refuses would fail after the writes before it.
            json::parse_all(json).map_err(|error| ComponentError::invalid(error.to_string()))?;
            text.push_str(&String::from_utf8_lossy(json));
        }
        Value::Bytes(bytes) => {
            text.push('"');
            STANDARD.encode_string(bytes, &mut text);
            text.push('"');
        }
    }
    text.push('}');
    Ok(Bytes::from(text))
}

/// The script that applies writes.
pub(super) struct Script {
    /// Its name at the server; absent where the server does not let us load it.
    digest: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Write,
    /// Looks at the etags only.
    Check,
}

/// What the script said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Applied,
    /// An etag did not fit, and nothing was changed.
    Refused,
}

impl Script {
    const TEXT: &str = include_str!("apply.lua");

    /// Loads the script into every primary.
    pub(super) async fn load(client: &Client) -> Self {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(Self::TEXT);
        let mut digest = None;
        for link in client.primaries() {
            if let Ok(redis::Value::BulkString(name)) = link.send(&load, client.write_limit()).await
            {
                digest = String::from_utf8(name).ok();
            }
        }
        Self { digest }
    }

    /// Applies steps whose keys have the same owner.
    pub(super) async fn run(
        &self,
        client: &Client,
        steps: &[&Step],
        mode: Mode,
    ) -> Result<Verdict, Failure> {
        let Some(first) = steps.first() else {
            return Ok(Verdict::Applied);
        };
        let key = first.key.as_bytes();
        let limit = client.write_limit();
        if let Some(digest) = &self.digest {
            let command = Self::command("EVALSHA", digest, steps, mode);
            match client.call(key, &command, limit).await {
                Err(failure) if failure.is("NOSCRIPT") => {}
                outcome => return verdict(outcome?),
            }
        }
        let command = Self::command("EVAL", Self::TEXT, steps, mode);
        verdict(client.call(key, &command, limit).await?)
    }

    /// Applies one step on a given connection.
    pub(super) async fn run_on(
        &self,
        link: &Link,
        step: &Step,
        client: &Client,
    ) -> Result<Verdict, Failure> {
        let limit = client.write_limit();
        if let Some(digest) = &self.digest {
            let command = Self::command("EVALSHA", digest, &[step], Mode::Write);
            match link.send(&command, limit).await {
                Err(failure) if failure.is("NOSCRIPT") => {}
                outcome => return verdict(outcome?),
            }
        }
        let command = Self::command("EVAL", Self::TEXT, &[step], Mode::Write);
        verdict(link.send(&command, limit).await?)
    }

    fn command(verb: &str, script: &str, steps: &[&Step], mode: Mode) -> Cmd {
        let mut command = redis::cmd(verb);
        command.arg(script).arg(steps.len());
        for step in steps {
            command.arg(&step.key);
        }
        command.arg(match mode {
            Mode::Write => "write",
            Mode::Check => "check",
        });
        for step in steps {
            step.arguments(&mut command);
        }
        command
    }
}

fn verdict(answer: redis::Value) -> Result<Verdict, Failure> {
    match answer {
        redis::Value::Int(0) => Ok(Verdict::Applied),
        redis::Value::Int(_) => Ok(Verdict::Refused),
        _ => Err(Failure::odd("EVAL")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_component_api::{Consistency, ErrorKind};

    fn set(etag: Option<&str>, concurrency: Concurrency, metadata: &[(&str, &str)]) -> Set {
        Set {
            key: "k".into(),
            value: Value::Bytes(Bytes::from_static(b"v")),
            etag: etag.map(str::to_owned),
            concurrency,
            consistency: Consistency::Unset,
            metadata: metadata
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    fn step(request: &Set) -> Result<Step, ComponentError> {
        Step::set(request, Form::Hash, None, true)
    }

    #[test]
    fn an_etag_is_a_number_and_its_spelling_does_not_matter() {
        let etag = |text| step(&set(Some(text), Concurrency::Unset, &[])).map(|step| step.etag);
        assert_eq!(etag("7"), Ok("7".into()));
        assert_eq!(etag("+07"), Ok("7".into()));
        assert_eq!(etag(""), Ok("0".into()));
        let error = etag("abc").unwrap_err();
        assert_eq!(error.kind, ErrorKind::EtagInvalid);
        assert_eq!(
            error.message,
            "invalid etag value: strconv.Atoi: parsing \"abc\": invalid syntax"
        );
        assert_eq!(
            etag("99999999999999999999").unwrap_err().message,
            "invalid etag value: strconv.Atoi: parsing \"99999999999999999999\": value out of range"
        );
    }

    #[test]
    fn last_write_does_not_look_at_the_etag() {
        let step = step(&set(Some("abc"), Concurrency::LastWrite, &[])).unwrap();
        assert_eq!(step.etag, "0");
    }

    #[test]
    fn expiry_comes_from_the_request_then_from_the_component() {
        let expiry = |metadata: &[(&str, &str)], default| match Step::set(
            &set(None, Concurrency::Unset, metadata),
            Form::Hash,
            default,
            true,
        )?
        .verb
        {
            Verb::Set { expiry, .. } => Ok(expiry),
            Verb::Delete => unreachable!(),
        };
        assert_eq!(expiry(&[], None), Ok(Expiry::Leave));
        assert_eq!(expiry(&[], Some(5)), Ok(Expiry::Seconds(5)));
        assert_eq!(expiry(&[("ttlInSeconds", "0")], Some(5)), Ok(Expiry::Never));
        assert_eq!(
            expiry(&[("ttlInSeconds", "99999999999")], None),
            Ok(Expiry::Seconds(99_999_999_999))
        );
        let refused: Result<_, ComponentError> =
            expiry(&[("ttlInSeconds", "9223372036854775807")], None);
        assert_eq!(
            refused.unwrap_err().message,
            "failed to set key k ttl: ERR invalid expire time in 'expire' command"
        );
    }

    #[test]
    fn documents_hold_json_as_it_is_and_bytes_as_base64() {
        let text = |value: Value| document(&value).map(|text| text.to_vec());
        assert_eq!(
            text(Value::Json(Bytes::from_static(b" {\"a\": 1.10}"))),
            Ok(b"{\"data\": {\"a\": 1.10}}".to_vec())
        );
        assert_eq!(
            text(Value::Bytes(Bytes::from_static(b"\x00\xff"))),
            Ok(b"{\"data\":\"AP8=\"}".to_vec())
        );
        assert!(text(Value::Json(Bytes::from_static(b"{no"))).is_err());
    }
}
