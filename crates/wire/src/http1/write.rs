//! Writing heads and chunks the way Go does.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, BytesMut};
use http::HeaderMap;
use http::header::HeaderName;
use outrigger_core::error_code::reason_phrase;

/// `HTTP/1.1 200 OK`.
pub(super) fn status_line(out: &mut BytesMut, http10: bool, status: u16, detail: &str) {
    out.put_slice(if http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.put_slice(itoa::Buffer::new().format(status).as_bytes());
    out.put_u8(b' ');
    match reason_phrase(status) {
        "" => {
            out.put_slice(b"status code ");
            out.put_slice(itoa::Buffer::new().format(status).as_bytes());
        }
        phrase => out.put_slice(phrase.as_bytes()),
    }
    out.put_slice(detail.as_bytes());
    out.put_slice(b"\r\n");
}

/// All fields but those that the connection itself decides about.
pub(super) fn fields(out: &mut BytesMut, headers: &HeaderMap, skip: impl Fn(&HeaderName) -> bool) {
    for (name, value) in headers {
        if !skip(name) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
}

/// One field, its name with capitals.
pub(super) fn field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    let mut capital = true;
    for byte in name.bytes() {
        out.put_u8(if capital {
            byte.to_ascii_uppercase()
        } else {
            byte
        });
        capital = byte == b'-';
    }
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// A chunk's size line.
pub(super) fn chunk_size(out: &mut BytesMut, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (size >> (4 * place)) & 15;
        out.put_u8(b"0123456789abcdef".get(digit).copied().unwrap_or(b'0'));
    }
    out.put_slice(b"\r\n");
}

/// The `Date` field; its text is kept for as long as the second lasts.
pub(super) fn date(out: &mut BytesMut) {
    thread_local!(static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) });
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs())
        .unwrap_or_default();
    LAST.with_borrow_mut(|(second, text)| {
        if *second != now {
            *second = now;
            *text = format!("Date: {}\r\n", http_date(now));
        }
        out.put_slice(text.as_bytes());
    });
}

/// Seconds since 1970 as `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let pick = |table: &'static [&'static str], index: u64| {
        usize::try_from(index)
            .ok()
            .and_then(|i| table.get(i))
            .copied()
            .unwrap_or("")
    };
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        pick(&DAYS, days % 7),
        pick(&MONTHS, month - 1),
        rest / 3_600,
        rest % 3_600 / 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(http_date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(http_date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http_date(1_772_323_199), "Sat, 28 Feb 2026 23:59:59 GMT");
    }

    #[test]
    fn chunk_sizes_are_lower_case() {
        for (size, text) in [
            (0, "0\r\n"),
            (12, "c\r\n"),
            (16, "10\r\n"),
            (0xabcdef, "abcdef\r\n"),
        ] {
            let mut out = BytesMut::new();
            chunk_size(&mut out, size);
            assert_eq!(&out[..], text.as_bytes());
        }
    }

    #[test]
    fn names_get_capitals() {
        let mut out = BytesMut::new();
        field(&mut out, "x-daprd-retry", b"1");
        assert_eq!(&out[..], b"X-Daprd-Retry: 1\r\n");
    }
}
