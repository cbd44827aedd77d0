//! Durations in Go's notation, the form of every duration in Dapr's flags, resources and metadata.

use std::time::Duration;

/// A parsed Go duration may be negative; who cannot use that asks for [`GoDuration::positive`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GoDuration {
    pub nanoseconds: i64,
}

impl GoDuration {
    /// The duration if it is greater than zero.
    pub fn positive(self) -> Option<Duration> {
        u64::try_from(self.nanoseconds)
            .ok()
            .filter(|n| *n > 0)
            .map(Duration::from_nanos)
    }

    /// The duration, with everything below zero taken as zero.
    pub fn clamped(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.nanoseconds).unwrap_or(0))
    }
}

/// Parses `1h30m`, `250ms`, `-1.5s`, `0`. Units: `ns us µs ms s m h`.
pub fn parse_go(text: &str) -> Option<GoDuration> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..)?),
        Some(b'+') => (false, text.get(1..)?),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(GoDuration { nanoseconds: 0 });
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, unit)?)?;
        rest = tail;
    }
    let nanoseconds = i64::try_from(if negative { -total } else { total }).ok()?;
    Some(GoDuration { nanoseconds })
}

/// `number` with an optional fraction, times `unit`.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut value = whole.checked_mul(unit)?;
    let mut share = unit;
    for digit in fraction.bytes() {
        share /= 10;
        value = value.checked_add(share * i128::from(digit - b'0'))?;
    }
    Some(value)
}

/// Go's own spelling: `1h0m0s`, `1.5s`, `250ms`, `0s`.
pub fn format_go(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000 {
        return format!("{nanos}ns");
    }
    if nanos < 1_000_000 {
        return format!("{}µs", decimal(nanos, 1_000));
    }
    if nanos < 1_000_000_000 {
        return format!("{}ms", decimal(nanos, 1_000_000));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

fn decimal(value: u128, unit: u128) -> String {
    let (whole, fraction) = (value / unit, value % unit);
    if fraction == 0 {
        return whole.to_string();
    }
    let width = unit.to_string().len() - 1;
    let text = format!("{whole}.{fraction:0width$}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn go_notation_is_read() {
        let nanos = |text: &str| parse_go(text).map(|d| d.nanoseconds);
        assert_eq!(nanos("1h30m"), Some(5_400_000_000_000));
        assert_eq!(nanos("1.5s"), Some(1_500_000_000));
        assert_eq!(nanos("-250ms"), Some(-250_000_000));
        assert_eq!(nanos(".5s"), Some(500_000_000));
        assert_eq!(nanos("0"), Some(0));
        for bad in ["", "5", "5 sec", "s", "1.2.3s", "1d", "-", "1s2", "٣s"] {
            assert_eq!(nanos(bad), None, "{bad}");
        }
    }

    #[test]
    fn go_spelling_is_written() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1.5s"),
            (5_000, "5s"),
            (60_000, "1m0s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(format_go(Duration::from_millis(millis)), text);
        }
        assert_eq!(format_go(Duration::from_nanos(1_500)), "1.5µs");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos in 0_u64..=i64::MAX as u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse_go(&format_go(duration)).map(GoDuration::clamped), Some(duration));
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            parse_go(&text);
        }
    }
}
