//! Lists of status codes: `429,500-599`.

use std::ops::RangeInclusive;

use super::CodeMatch;
use crate::read::Field;

/// A protocol's valid codes.
#[derive(Clone, Copy)]
pub(super) struct Protocol {
    first: u16,
    last: u16,
    expected: &'static str,
}

pub(super) const HTTP: Protocol = Protocol {
    first: 100,
    last: 599,
    expected: "codes from 100 to 599 such as `429,500-503`, without blanks",
};
pub(super) const GRPC: Protocol = Protocol {
    first: 0,
    last: 16,
    expected: "codes from 0 to 16 such as `4,8-14`, without blanks",
};

/// Reads a list; every code if it is empty, and none if it holds nothing but commas.
pub(super) fn read(field: &Field<'_>, protocol: Protocol) -> CodeMatch {
    let Some(text) = field.text().filter(|text| !text.is_empty()) else {
        return CodeMatch::Every;
    };
    match parse(&text, protocol) {
        Ok(ranges) => CodeMatch::Only(ranges),
        Err(item) => {
            field.unusable(
                "CFG-CODES",
                format!("`{item}` is not a status code or a range of them"),
                protocol.expected,
            );
            CodeMatch::Every
        }
    }
}

fn parse(text: &str, protocol: Protocol) -> Result<Vec<RangeInclusive<u16>>, &str> {
    text.split(',')
        .filter(|item| !item.is_empty())
        .map(|item| range(item, protocol).ok_or(item))
        .collect()
}

fn range(item: &str, protocol: Protocol) -> Option<RangeInclusive<u16>> {
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    let code = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|code| (protocol.first..=protocol.last).contains(code))
    };
    let (first, last) = (code(first)?, code(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes_and_ranges_are_read() {
        assert_eq!(parse("429,500-599", HTTP), Ok(vec![429..=429, 500..=599]));
        assert_eq!(parse(",", HTTP), Ok(vec![]));
        assert_eq!(parse("0,16", GRPC), Ok(vec![0..=0, 16..=16]));
        for bad in [
            "500, 502",
            "600",
            "99",
            "20-10",
            "100-200-300",
            "x",
            "500-",
            "-500",
        ] {
            assert!(parse(bad, HTTP).is_err(), "{bad}");
        }
        assert_eq!(parse("1,17", GRPC), Err("17"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*") {
            parse(&text, HTTP).ok();
        }
    }
}
