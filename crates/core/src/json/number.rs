//! How Go writes floating point numbers.

use super::Value;

/// Whether a JSON number fits float64; Go refuses to decode one that does not.
pub fn is_float64(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// `encoding/json`: positional unless the exponent is below -6 or above 20.
pub(super) fn standard_float(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(number) => float_text(number),
        Err(_) => text.to_owned(),
    }
}

fn float_text(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        scientific(number, 1)
    } else {
        format!("{number}")
    }
}

/// Shortest digits with exponent; Go pads the exponent to `width` digits in some places.
fn scientific(number: f64, width: usize) -> String {
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(rest) => ('-', rest),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>width$}")
}

/// The encoder of the Redis components: at most six decimals, cut after rounding half up.
pub(super) fn fast_float(text: &str) -> String {
    let Ok(number) = text.parse::<f64>() else {
        return text.to_owned();
    };
    let size = number.abs();
    if size > f64::from(0x4fff_ffff_u32) {
        return float_text(number);
    }
    let sign = if number < 0.0 { "-" } else { "" };
    let scaled = (size * 1_000_000.0 + 0.5) as u64;
    let (whole, fraction) = (scaled / 1_000_000, scaled % 1_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    format!(
        "{sign}{whole}.{}",
        format!("{fraction:06}").trim_end_matches('0')
    )
}

/// What Go's `%v` prints for a scalar: strings bare, numbers in their general form. Objects, arrays and
/// null have no such text here.
pub fn go_default_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(text) => Some(go_float(text.parse().ok()?)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number in Go's general form: shortest digits, with an exponent below 1e-4 and from a million on.
pub fn go_float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .to_owned();
    }
    let shortest = format!("{number:e}");
    let exponent = shortest
        .split_once('e')
        .and_then(|(_, e)| e.parse::<i32>().ok())
        .unwrap_or(0);
    if (-4..6).contains(&exponent) {
        format!("{number}")
    } else {
        scientific(number, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_texts_are_those_of_go() {
        let text = |number: &str| go_default_text(&Value::Number(number.into())).unwrap();
        assert_eq!(text("12"), "12");
        assert_eq!(text("1234567"), "1.234567e+06");
        assert_eq!(text("123456"), "123456");
        assert_eq!(text("0.5"), "0.5");
        assert_eq!(text("0.00001"), "1e-05");
        assert_eq!(text("1e21"), "1e+21");
        assert_eq!(go_default_text(&Value::string("a b")).unwrap(), "a b");
        assert_eq!(go_default_text(&Value::Null), None);
    }
}
