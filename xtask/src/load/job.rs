//! What to send, where, how often.
//!
//! Owns: a job's form on the command line, in both directions.
//! Start at [`Job::words`].

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::words::Words;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Http,
    Grpc,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Amount {
    Requests(u64),
    Time(Duration),
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Job {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) method: &'static str,
    /// Name and value in one, as in HTTP/1.1.
    pub(crate) header: Option<String>,
    /// The file that holds the body.
    pub(crate) body: Option<PathBuf>,
    pub(crate) connections: usize,
    /// Requests per second; none means as fast as it goes.
    pub(crate) rate: Option<u32>,
    pub(crate) amount: Amount,
}

impl Job {
    pub(crate) fn new(protocol: Protocol, port: u16, path: &str) -> Self {
        Job {
            protocol,
            port,
            path: path.to_owned(),
            method: "GET",
            header: None,
            body: None,
            connections: 1,
            rate: None,
            amount: Amount::Requests(1),
        }
    }

    /// The words that [`Job::from_words`] reads.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words = vec![
            match self.protocol {
                Protocol::Http => "http".to_owned(),
                Protocol::Grpc => "grpc".to_owned(),
            },
            self.port.to_string(),
            self.path.clone(),
        ];
        let mut add = |name: &str, value: String| words.extend([name.to_owned(), value]);
        add("--connections", self.connections.to_string());
        match self.amount {
            Amount::Requests(count) => add("--requests", count.to_string()),
            Amount::Time(length) => add("--seconds", length.as_secs_f64().to_string()),
        }
        if let Some(rate) = self.rate {
            add("--rate", rate.to_string());
        }
        if let Some(header) = &self.header {
            add("--header", header.clone());
        }
        if let Some(body) = &self.body {
            add("--post", body.to_string_lossy().into_owned());
        }
        words
    }

    pub(crate) fn from_words(mut words: Words) -> Result<Self> {
        let protocol = match words.next().as_deref() {
            Some("http") => Protocol::Http,
            Some("grpc") => Protocol::Grpc,
            _ => bail!("`load` needs a protocol, `http` or `grpc`"),
        };
        let port = words.next().context("`load` needs a port")?.parse()?;
        let path = words.next().context("`load` needs a path")?;
        let mut job = Job::new(protocol, port, &path);
        job.connections = words.value("--connections")?.unwrap_or(job.connections);
        job.rate = words.value("--rate")?;
        job.header = words.text("--header")?;
        job.body = words.value("--post")?;
        if job.body.is_some() {
            job.method = "POST";
        }
        if let Some(count) = words.value("--requests")? {
            job.amount = Amount::Requests(count);
        }
        if let Some(seconds) = words.value("--seconds")? {
            job.amount = Amount::Time(Duration::try_from_secs_f64(seconds)?);
        }
        words.finish()?;
        Ok(job)
    }

    pub(super) fn read_body(&self) -> Result<Vec<u8>> {
        let Some(path) = &self.body else {
            return Ok(Vec::new());
        };
        std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_survives_the_command_line() {
        let job = Job {
            method: "POST",
            header: Some("Content-Type: application/json".to_owned()),
            body: Some("/tmp/body".into()),
            connections: 16,
            rate: Some(1000),
            amount: Amount::Time(Duration::from_millis(1500)),
            ..Job::new(Protocol::Grpc, 3500, "/v1.0/metadata")
        };
        assert_eq!(
            Job::from_words(Words::new(job.words().into_iter())).unwrap(),
            job
        );
    }
}
