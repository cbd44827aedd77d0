//! What is known of one sidecar that is asked again and again.

use std::time::{Duration, Instant};

use crate::client::{Failure, Sidecar};
use crate::status::model::{Rates, Status};
use crate::status::view::Mood;

#[derive(Clone, Debug)]
pub(super) struct Watched {
    /// Where it is.
    pub(super) at: String,
    /// The last answer, which stays when there is none any more.
    pub(super) last: Option<Status>,
    pub(super) rates: Option<Rates>,
    trouble: Option<(Instant, String)>,
}

impl Watched {
    pub(super) fn new(sidecar: &Sidecar) -> Self {
        Self {
            at: sidecar.to_string(),
            last: None,
            rates: None,
            trouble: None,
        }
    }

    pub(super) fn told(&mut self, answer: Result<Status, Failure>, now: Instant) {
        match answer {
            Ok(status) => {
                let before = self.last.as_ref().filter(|_| self.trouble.is_none());
                self.rates = before.and_then(|before| Rates::between(before, &status));
                self.last = Some(status);
                self.trouble = None;
            }
            Err(failure) => {
                let since = self.trouble.as_ref().map_or(now, |(since, _)| *since);
                // Where it is, is shown anyway.
                let place = format!("no sidecar answers at {}: ", self.at);
                let why = failure.text();
                let why = why.strip_prefix(&place).unwrap_or(why);
                self.rates = None;
                self.trouble = Some((since, why.to_owned()));
            }
        }
    }

    /// For how long nobody has answered, and why.
    pub(super) fn trouble(&self, now: Instant) -> Option<(Duration, &str)> {
        let (since, why) = self.trouble.as_ref()?;
        Some((now.saturating_duration_since(*since), why))
    }

    /// Its app id, once it is known.
    pub(super) fn name(&self) -> Option<&str> {
        self.last.as_ref().map(|status| status.app_id.as_str())
    }

    /// How many components are ready, of how many.
    pub(super) fn ready(&self) -> Option<(usize, usize)> {
        let components = &self.last.as_ref()?.components;
        let ready = components.iter().filter(|one| one.state == "ready");
        Some((ready.count(), components.len()))
    }

    /// All in all.
    pub(super) fn mood(&self) -> Mood {
        if self.trouble.is_some() {
            return Mood::Bad;
        }
        let Some(status) = &self.last else {
            return Mood::Unknown;
        };
        let components = status.components.iter().filter(|one| !one.optional);
        let moods = components
            .map(|one| Mood::of_component(&one.state))
            .chain([Mood::of_phase(&status.phase)]);
        let rank = |mood: &Mood| match mood {
            Mood::Unknown => 0,
            Mood::Good => 1,
            Mood::Waiting => 2,
            Mood::Bad => 3,
            Mood::Wrong => 4,
        };
        moods.max_by_key(rank).unwrap_or(Mood::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_core::json::parse_all;

    fn status(uptime: u64, http: u64) -> Status {
        let json = format!(
            r#"{{"appId":"a","phase":"ready","uptimeMs":{uptime},"counters":{{"httpRequests":{http}}}}}"#
        );
        Status::read(&parse_all(json.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn one_that_goes_away_is_told_since_its_first_silence_and_comes_back_alone() {
        let sidecar = Sidecar::local(3500);
        let (mut watched, start) = (Watched::new(&sidecar), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let rate = |watched: &Watched| watched.rates.as_ref().and_then(|rates| rates.of("http"));
        let refused = || {
            let text = "no sidecar answers at 127.0.0.1:3500: connection refused";
            Err(Failure::Unreachable(text.to_owned()))
        };
        assert_eq!((watched.name(), watched.mood()), (None, Mood::Unknown));
        watched.told(Ok(status(1_000, 0)), at(1));
        watched.told(Ok(status(2_000, 7)), at(2));
        assert_eq!((watched.name(), watched.mood()), (Some("a"), Mood::Good));
        assert_eq!(rate(&watched), Some(7.0));
        watched.told(refused(), at(3));
        watched.told(refused(), at(4));
        let (time, why) = watched.trouble(at(5)).unwrap();
        assert_eq!((time.as_secs(), why), (2, "connection refused"));
        assert_eq!((watched.name(), watched.mood()), (Some("a"), Mood::Bad));
        watched.told(Ok(status(9_000, 700)), at(6));
        assert_eq!(watched.trouble(at(6)), None);
        // What happened meanwhile is no rate of now.
        assert_eq!(rate(&watched), None);
    }
}
