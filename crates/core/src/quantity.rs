//! Byte counts in Kubernetes notation: `4Mi`, `100k`, `1.5Gi`, plain bytes.

/// Parses a quantity into bytes; fractions are rounded up, as Kubernetes does. `-1` and other negative
/// values are returned as they are.
pub fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let scale: i128 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        _ => return None,
    };
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty()
        || !(whole.to_owned() + fraction)
            .bytes()
            .all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let mut value = if whole.is_empty() {
        0
    } else {
        whole.parse::<i128>().ok()?.checked_mul(scale)?
    };
    if !fraction.is_empty() {
        let fraction = fraction.get(..fraction.len().min(18))?;
        let unit = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let share = fraction.parse::<i128>().ok()?.checked_mul(scale)?;
        value = value.checked_add((share + unit - 1) / unit)?;
    }
    i64::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn suffixes_scale() {
        assert_eq!(parse("4Mi"), Some(4 << 20));
        assert_eq!(parse("1.5Ki"), Some(1536));
        assert_eq!(parse("100k"), Some(100_000));
        assert_eq!(parse("0"), Some(0));
        assert_eq!(parse("-1"), Some(-1));
        for bad in ["", "Mi", "4MB", "4 Mi", "x", "1..2", "--1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            parse(&text);
        }
    }
}
