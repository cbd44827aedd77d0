//! Policies in words.

use std::time::Duration;

use outrigger_core::duration::format_go;
use outrigger_policy::{Allowance, Codes, Jitter, Pauses, Retry};
use outrigger_resiliency::{BreakerRule, OnOpen};

/// `1m30s`, `1h`, `250ms`: Go's spelling without its last zeros, and without what nobody reads in long times.
pub(super) fn duration(duration: Duration) -> String {
    const MINUTE: Duration = Duration::from_secs(60);
    let whole = if duration >= MINUTE {
        rounded(duration, Duration::from_millis(100))
    } else if duration >= Duration::from_millis(1) {
        rounded(duration, Duration::from_micros(100))
    } else {
        duration
    };
    let text = format_go(whole);
    match text.strip_suffix("m0s") {
        Some(text) => match text.strip_suffix("h0") {
            Some(hours) => format!("{hours}h"),
            None => format!("{text}m"),
        },
        None => text,
    }
}

fn rounded(duration: Duration, unit: Duration) -> Duration {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let (nanos, unit) = (nanos(duration), nanos(unit));
    Duration::from_nanos((nanos.saturating_add(unit / 2) / unit).saturating_mul(unit))
}

pub(super) fn count(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        many if one.ends_with('y') => {
            format!("{many} {}ies", one.strip_suffix('y').unwrap_or(one))
        }
        many => format!("{many} {one}s"),
    }
}

/// `a, b or c`.
pub(super) fn either(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [others @ .., last] => format!("{} or {last}", others.join(", ")),
    }
}

pub(super) fn retry(retry: &Retry) -> String {
    let often = match retry.max_retries {
        Some(0) => return "no retry, one attempt only".to_owned(),
        Some(max) => format!("up to {}", count(max.into(), "retry")),
        None if retry.max_elapsed.is_some() => "retries without a limit of their number".to_owned(),
        None => "retries without end".to_owned(),
    };
    let mut text = format!("{often}, {}", pauses(&retry.pauses));
    if let Some(elapsed) = retry.max_elapsed {
        text.push_str(&format!(
            "; none begins later than {} after the call",
            duration(elapsed)
        ));
    }
    text
}

fn pauses(pauses: &Pauses) -> String {
    match *pauses {
        Pauses::Constant { pause, jitter } => {
            let text = if pause.is_zero() {
                "one right after the other".to_owned()
            } else {
                format!("{} apart", duration(pause))
            };
            match jitter {
                Jitter::Share(share) if share > 0.0 => format!("{text}, {}", chance(share)),
                Jitter::UpTo(most) if !most.is_zero() => {
                    format!("{text}, by chance up to {} longer", duration(most))
                }
                Jitter::Share(_) | Jitter::UpTo(_) => text,
            }
        }
        Pauses::Exponential {
            initial,
            max,
            multiplier,
            randomization,
        } => {
            let mut text = format!(
                "pauses of {} that grow {multiplier} times each up to {}",
                duration(initial),
                duration(max)
            );
            if randomization > 0.0 {
                text.push_str(&format!(", {}", chance(randomization)));
            }
            text
        }
    }
}

fn chance(share: f64) -> String {
    let percent = (share * 1_000.0).round() / 10.0;
    format!("by chance up to {percent} % shorter or longer")
}

/// Which statuses are retried; `None` where it is every one.
pub(super) fn matching(http: &Codes, grpc: &Codes) -> Option<String> {
    let list = |codes: &Codes, protocol: &str| match codes {
        Codes::Every => format!("every {protocol} status"),
        Codes::Only(ranges) if ranges.is_empty() => format!("no {protocol} status"),
        Codes::Only(ranges) => {
            let range = |range: &std::ops::RangeInclusive<u16>| {
                if range.start() == range.end() {
                    range.start().to_string()
                } else {
                    format!("{}-{}", range.start(), range.end())
                }
            };
            let ranges: Vec<String> = ranges.iter().map(range).collect();
            format!("{protocol} {}", ranges.join(", "))
        }
    };
    if (http, grpc) == (&Codes::Every, &Codes::Every) {
        return None;
    }
    Some(format!("{} and {}", list(http, "HTTP"), list(grpc, "gRPC")))
}

pub(super) fn breaker(rule: &BreakerRule) -> String {
    let limits = &rule.limits;
    let mut text = format!(
        "opens when `{}`, stays open for {}, then lets {} through",
        rule.trip.text(),
        duration(limits.timeout),
        count(limits.max_requests.into(), "probe"),
    );
    match limits.interval {
        Some(interval) => text.push_str(&format!("; counts anew every {}", duration(interval))),
        None => text.push_str("; counts are never cleared while it is closed"),
    }
    if let Some(codes) = matching(&rule.http, &rule.grpc) {
        text.push_str(&format!("; counts {codes}"));
    }
    if rule.ignores_client_errors {
        text.push_str("; failures that are the caller's fault do not count");
    }
    if rule.counts_stream_errors {
        text.push_str("; streams that end badly count");
    }
    text
}

pub(super) fn budget(budget: &Allowance) -> String {
    format!(
        "each first attempt adds {} of a retry, and each second {} of them",
        budget.ratio, budget.min_per_second
    )
}

pub(super) fn on_open(on_open: OnOpen) -> &'static str {
    match on_open {
        OnOpen::Hold => "messages wait until it lets them through",
        OnOpen::Nack => "messages go back to the broker",
        OnOpen::DeadLetter => "messages go to the dead letter topic",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1.5s"),
            (60_000, "1m"),
            (90_000, "1m30s"),
            (3_600_000, "1h"),
            (3_660_000, "1h1m"),
            (848_704, "14m8.7s"),
            (12_030, "12.03s"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration(Duration::MAX), duration(Duration::MAX));
        assert_eq!(duration(Duration::from_nanos(848_703_912_345)), "14m8.7s");
    }
}
