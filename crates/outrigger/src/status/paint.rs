//! Lines for an output that is written once, with colours where they are wanted.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

use crate::words::{Environment, Words};

/// Of an output that is no terminal: nothing is left out for want of room.
const ENDLESS: usize = 1_000;

/// Whether somebody who sits at a terminal wants colours.
pub(crate) fn has_color(words: &Words, environment: Environment<'_>) -> bool {
    // https://no-color.org: any text but an empty one.
    let refuses = environment("NO_COLOR").is_some_and(|value| !value.is_empty());
    !words.has("no-color") && !refuses
}

/// Where lines are written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Screen {
    pub(crate) width: usize,
    has_codes: bool,
    has_color: bool,
}

impl Screen {
    pub(crate) fn of_stdout(has_color: bool) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let size = || crossterm::terminal::size().ok();
        let columns = is_terminal.then(size).flatten().map(|(columns, _)| columns);
        Self {
            width: columns
                .filter(|columns| *columns > 0)
                .map_or(ENDLESS, usize::from),
            has_codes: is_terminal,
            has_color,
        }
    }

    /// The lines as text; without codes unless it is a terminal.
    pub(crate) fn text(self, lines: &[Line<'_>]) -> String {
        let mut text = String::new();
        for line in lines {
            let begin = text.len();
            for span in &line.spans {
                let codes = if self.has_codes {
                    codes(span.style, self.has_color)
                } else {
                    String::new()
                };
                if codes.is_empty() {
                    text.push_str(&span.content);
                } else {
                    write!(text, "\u{1b}[{codes}m{}\u{1b}[0m", span.content).ok();
                }
            }
            // Columns are filled up, which nobody wants to see in a file.
            let end = text.trim_end_matches(' ').len();
            text.truncate(end.max(begin));
            text.push('\n');
        }
        text
    }
}

/// The parameters of a style's escape sequence.
fn codes(style: Style, has_color: bool) -> String {
    let modifiers = [
        (Modifier::BOLD, 1),
        (Modifier::DIM, 2),
        (Modifier::REVERSED, 7),
    ];
    let colors = [(Color::Red, 31), (Color::Green, 32), (Color::Yellow, 33)];
    let modifiers = modifiers
        .iter()
        .filter(|(modifier, _)| style.add_modifier.contains(*modifier))
        .map(|(_, code)| code);
    let colors = colors
        .iter()
        .filter(|(color, _)| has_color && style.fg == Some(*color))
        .map(|(_, code)| code);
    let codes: Vec<String> = modifiers.chain(colors).map(i32::to_string).collect();
    codes.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::view::{BOLD, Mood};
    use ratatui::text::Span;

    fn text(has_codes: bool, has_color: bool) -> String {
        let screen = Screen {
            width: 80,
            has_codes,
            has_color,
        };
        let line = Line::from(vec![
            Span::styled("orders", BOLD),
            Span::raw(" "),
            Span::styled("ready", Mood::Good.style()),
            Span::raw("   "),
        ]);
        screen.text(&[line])
    }

    #[test]
    fn codes_are_for_terminals_and_colours_for_those_who_want_them() {
        assert_eq!(text(false, true), "orders ready\n");
        assert_eq!(text(true, false), "\u{1b}[1morders\u{1b}[0m ready\n");
        assert_eq!(
            text(true, true),
            "\u{1b}[1morders\u{1b}[0m \u{1b}[32mready\u{1b}[0m\n"
        );
    }

    #[test]
    fn no_color_is_heeded() {
        let words = |line: &str| {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            Words::read(&arguments, &[], &["no-color"]).unwrap()
        };
        assert!(has_color(&words(""), &|_| None));
        assert!(has_color(&words(""), &|_| Some(String::new())));
        assert!(!has_color(&words(""), &|_| Some("1".to_owned())));
        assert!(!has_color(&words("--no-color"), &|_| None));
    }
}
