//! Header values as text, the way Go's `%v` writes them.
//!
//! daprd hands received headers to the app in this form, and apps read it. Tests: below.

use std::fmt::Write as _;

use lapin::types::AMQPValue;

/// An integer of any width.
pub(crate) fn whole(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(number) => i64::from(*number),
        AMQPValue::ShortShortUInt(number) => i64::from(*number),
        AMQPValue::ShortInt(number) => i64::from(*number),
        AMQPValue::ShortUInt(number) => i64::from(*number),
        AMQPValue::LongInt(number) => i64::from(*number),
        AMQPValue::LongUInt(number) => i64::from(*number),
        AMQPValue::LongLongInt(number) => *number,
        _ => return None,
    })
}

/// Writes a header's value as Go's `%v` does.
pub(crate) fn spell(value: &AMQPValue, out: &mut String) {
    match value {
        AMQPValue::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        AMQPValue::ShortString(text) => out.push_str(text.as_str()),
        AMQPValue::LongString(text) => out.push_str(&String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => out.push_str(&String::from_utf8_lossy(bytes.as_slice())),
        AMQPValue::Float(number) => spell_float(f64::from(*number), &format!("{number:e}"), out),
        AMQPValue::Double(number) => spell_float(*number, &format!("{number:e}"), out),
        AMQPValue::DecimalValue(decimal) => {
            write!(out, "{{{} {}}}", decimal.scale, decimal.value).ok();
        }
        AMQPValue::Timestamp(seconds) => spell_time(*seconds, out),
        AMQPValue::FieldArray(values) => {
            out.push('[');
            for (at, value) in values.as_slice().iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                spell(value, out);
            }
            out.push(']');
        }
        AMQPValue::FieldTable(table) => {
            out.push_str("map[");
            for (at, (key, value)) in table.inner().iter().enumerate() {
                if at > 0 {
                    out.push(' ');
                }
                write!(out, "{key}:").ok();
                spell(value, out);
            }
            out.push(']');
        }
        AMQPValue::Void => out.push_str("<nil>"),
        other => {
            if let Some(number) = whole(other) {
                write!(out, "{number}").ok();
            }
        }
    }
}

/// `scientific` holds the shortest digits that read back as `number`; Go shows an exponent below -4 and from 21 on.
fn spell_float(number: f64, scientific: &str, out: &mut String) {
    if number.is_nan() {
        return out.push_str("NaN");
    }
    if number.is_infinite() {
        return out.push_str(if number > 0.0 { "+Inf" } else { "-Inf" });
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..21).contains(&exponent) {
        out.push_str(&plain(digits, exponent));
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        write!(out, "{digits}e{sign}{:02}", exponent.abs()).ok();
    }
}

/// `1.25` and `3` make `1250`.
fn plain(digits: &str, exponent: i32) -> String {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits),
    };
    let figures: Vec<char> = digits.chars().filter(char::is_ascii_digit).collect();
    let point = exponent + 1;
    let mut out = sign.to_owned();
    if point <= 0 {
        out.push_str("0.");
        out.extend((point..0).map(|_| '0'));
        out.extend(figures);
        return if out.ends_with("0.0") {
            format!("{sign}0")
        } else {
            out
        };
    }
    let point = usize::try_from(point).unwrap_or(0);
    for at in 0..point.max(figures.len()) {
        if at == point {
            out.push('.');
        }
        out.push(figures.get(at).copied().unwrap_or('0'));
    }
    out
}

/// `2024-02-29 23:59:59 +0000 UTC`.
fn spell_time(seconds: u64, out: &mut String) {
    let days = i64::try_from(seconds / 86_400).unwrap_or(0);
    let second = seconds % 86_400;
    // Civil date of a day count: years begin in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    write!(
        out,
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} +0000 UTC",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
    .ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::{DecimalValue, FieldTable, LongString};

    #[test]
    fn header_values_are_spelled_as_go_spells_them() {
        let table = {
            let mut table = FieldTable::default();
            table.insert("b".into(), AMQPValue::LongInt(-2));
            table.insert("a".into(), AMQPValue::Boolean(true));
            AMQPValue::FieldTable(table)
        };
        let list = AMQPValue::FieldArray(
            vec![AMQPValue::ShortShortUInt(1), AMQPValue::Void, table.clone()].into(),
        );
        for (value, expected) in [
            (AMQPValue::Boolean(false), "false"),
            (AMQPValue::LongLongInt(-9), "-9"),
            (AMQPValue::LongString(LongString::from("é")), "é"),
            (AMQPValue::ByteArray(b"raw".to_vec().into()), "raw"),
            (AMQPValue::Double(1.5), "1.5"),
            (AMQPValue::Double(-1250.0), "-1250"),
            (AMQPValue::Double(0.0001), "0.0001"),
            (AMQPValue::Double(0.00001), "1e-05"),
            (AMQPValue::Double(1e20), "100000000000000000000"),
            (AMQPValue::Double(1.5e21), "1.5e+21"),
            (AMQPValue::Double(0.0), "0"),
            (AMQPValue::Double(f64::NAN), "NaN"),
            (AMQPValue::Double(f64::INFINITY), "+Inf"),
            (AMQPValue::Float(0.1), "0.1"),
            (
                AMQPValue::DecimalValue(DecimalValue { scale: 2, value: 9 }),
                "{2 9}",
            ),
            (AMQPValue::Timestamp(0), "1970-01-01 00:00:00 +0000 UTC"),
            (
                AMQPValue::Timestamp(1_709_251_199),
                "2024-02-29 23:59:59 +0000 UTC",
            ),
            (table, "map[a:true b:-2]"),
            (list, "[1 <nil> map[a:true b:-2]]"),
        ] {
            let mut text = String::new();
            spell(&value, &mut text);
            assert_eq!(text, expected);
        }
    }
}
