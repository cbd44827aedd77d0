//! Texts for people: without anything that moves a cursor, in columns, and no longer than there is room.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Ends a text of which the rest was left out.
pub(crate) const CUT: char = '…';

/// Stands for a character that is not shown.
const ODD: char = '?';

/// Whether a character does something to a terminal, or to the order of what is read, instead of being shown.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            // Marks of direction, separators of lines, what has no width at all, tags.
            0x061c | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe0fff
        )
}

/// Somebody else's text in one line, with a sign in place of whatever a terminal would obey.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => cleaned.push(' '),
            // They choose between forms of a sign, which makes its width a matter of opinion.
            '\u{fe00}'..='\u{fe0f}' => {}
            // The sign for what cannot be read is left out by some terminals, which shifts what follows.
            char::REPLACEMENT_CHARACTER => cleaned.push(ODD),
            c if is_harmful(c) => cleaned.push(ODD),
            c => cleaned.push(c),
        }
    }
    cleaned
}

/// Its first characters.
pub(crate) fn first(text: &str, count: usize) -> &str {
    let end = text
        .char_indices()
        .nth(count)
        .map_or(text.len(), |(at, _)| at);
    text.get(..end).unwrap_or_default()
}

/// Columns that it takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// No wider than `room`, with a sign where something is missing.
pub(crate) fn cut(text: &str, room: usize) -> String {
    let mut taken = 0;
    let mut last_fit = 0;
    for (at, c) in text.char_indices() {
        if taken < room {
            last_fit = at;
        }
        taken += c.width().unwrap_or(0);
        if taken > room {
            let kept = text.get(..last_fit).unwrap_or_default();
            return if room == 0 {
                String::new()
            } else {
                format!("{kept}{CUT}")
            };
        }
    }
    text.to_owned()
}

/// The same for messages, which say at their end what it comes to: what is missing is in the middle.
pub(crate) fn shortened(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let end = room / 2;
    let mut begin = text.len();
    let mut taken = 0;
    for (at, c) in text.char_indices().rev() {
        taken += c.width().unwrap_or(0);
        if taken > end {
            break;
        }
        begin = at;
    }
    let end = text.get(begin..).unwrap_or_default();
    cut(text, room.saturating_sub(width(end))) + end
}

/// Exactly `room` columns.
pub(crate) fn filled(text: &str, room: usize) -> String {
    let mut text = cut(text, room);
    let missing = room.saturating_sub(width(&text));
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

/// The same, with the text at the right.
pub(crate) fn right(text: &str, room: usize) -> String {
    let text = cut(text, room);
    let missing = room.saturating_sub(width(&text));
    " ".repeat(missing) + &text
}

/// `250ms`, `1.2s`, `12s`, `1m20s`, `2h5m`, `3d4h`: as precise as one cares.
pub(crate) fn duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    let seconds = ms / 1_000;
    let two = |large: u128, one: &str, small: u128, other: &str| match small {
        0 => format!("{large}{one}"),
        small => format!("{large}{one}{small}{other}"),
    };
    match seconds {
        0 => format!("{ms}ms"),
        1..10 => match ms % 1_000 / 100 {
            0 => format!("{seconds}s"),
            tenths => format!("{seconds}.{tenths}s"),
        },
        10..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

pub(crate) fn ms(milliseconds: u64) -> String {
    duration(Duration::from_millis(milliseconds))
}

/// `pubsub/orders 3, invoke 1`, or a word for none.
pub(crate) fn counts(counts: &[(String, u64)]) -> String {
    if counts.is_empty() {
        return "nothing".to_owned();
    }
    let each = counts.iter().map(|(what, count)| format!("{what} {count}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Rows below a head, each column as wide as it needs to be. The last is not filled up.
pub(crate) fn table<const N: usize>(
    head: [&str; N],
    numbers: [bool; N],
    rows: &[[String; N]],
) -> String {
    let mut widths = head.map(width);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = String::new();
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for ((cell, widest), is_number) in row.iter().zip(widths).zip(numbers) {
            line.push_str("  ");
            line.push_str(&if is_number {
                right(cell, widest)
            } else {
                filled(cell, widest)
            });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(
            clean("a\u{1b}]0;title\u{7}\r\nb\tc\u{9b}31m\u{202e}"),
            "a?]0;title?  b c?31m?"
        );
        assert_eq!(clean("größer 日本 👍"), "größer 日本 👍");
    }

    #[test]
    fn long_texts_end_with_a_sign() {
        for (text, room, expected) in [
            ("orders", 6, "orders"),
            ("orders", 5, "orde…"),
            ("orders", 1, "…"),
            ("orders", 0, ""),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("", 0, ""),
        ] {
            assert_eq!(cut(text, room), expected, "{text} in {room}");
        }
        for (room, expected) in [
            (11, "connections"),
            (10, "conn…tions"),
            (3, "c…s"),
            (1, "…"),
            (0, ""),
        ] {
            assert_eq!(shortened("connections", room), expected);
        }
        assert_eq!(filled("日本語", 6), "日本語");
        assert_eq!(filled("日本語", 4), "日… ");
        assert_eq!(right("7", 3), "  7");
    }

    #[test]
    fn times_are_as_precise_as_one_cares() {
        for (milliseconds, expected) in [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (1_250, "1.2s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (80_500, "1m20s"),
            (7_500_000, "2h5m"),
            (86_400_000, "1d"),
            (273_600_000, "3d4h"),
        ] {
            assert_eq!(ms(milliseconds), expected);
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let rows = [
            ["a".to_owned(), "1".to_owned(), "why".to_owned()],
            ["longer".to_owned(), "1000".to_owned(), String::new()],
        ];
        assert_eq!(
            table(["NAME", "N", ""], [false, true, false], &rows),
            "  NAME       N\n  a          1  why\n  longer  1000\n"
        );
    }

    proptest! {
        #[test]
        fn no_text_gets_wider_than_its_room(text in any::<String>(), room in 0_usize..30) {
            let text = clean(&text);
            prop_assert!(width(&cut(&text, room)) <= room);
            prop_assert!(width(&shortened(&text, room)) <= room);
            prop_assert_eq!(width(&filled(&text, room)), room);
        }

        #[test]
        fn what_is_clean_stays_clean(text in any::<String>()) {
            let cleaned = clean(&text);
            prop_assert!(!cleaned.contains(is_harmful));
            prop_assert_eq!(clean(&cleaned), cleaned.clone());
        }
    }
}
