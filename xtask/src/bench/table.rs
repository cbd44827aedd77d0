//! The printed table.
//!
//! Owns: its columns and how numbers are written.
//! Start at [`text`].

use super::figures::{FIGURES, Figure, Samples};
use crate::sidecar::Subject;

const NAME: usize = 46;
const COLUMN: usize = 14;

/// One row for each figure: the median of each subject, how many times better the first one is, the first one's bar.
pub(super) fn text(subjects: &[Subject], runs: usize, samples: &[Samples]) -> String {
    let mut text = format!("{:NAME$}", format!("median of {runs}"));
    for subject in subjects {
        text.push_str(&format!("{:>COLUMN$}", subject.name));
    }
    if subjects.len() > 1 {
        text.push_str(&format!("{:>COLUMN$}", "times better"));
    }
    text.push_str(&format!("{:>COLUMN$}\n", "bar"));
    let mut scene = "";
    for figure in FIGURES {
        if figure.scene != scene {
            scene = figure.scene;
            text.push_str(&format!("{scene}\n"));
        }
        text.push_str(&row(figure, samples));
    }
    text
}

fn row(figure: &Figure, samples: &[Samples]) -> String {
    let mut row = format!("{:NAME$}", format!("  {}", figure.name));
    let values: Vec<_> = samples
        .iter()
        .map(|samples| samples.median(figure))
        .collect();
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    for value in &values {
        row.push_str(&format!("{:>COLUMN$}", cell(*value)));
    }
    if let [ours, theirs] = values.as_slice() {
        let gain = ours
            .zip(*theirs)
            .and_then(|(ours, theirs)| figure.gain(ours, theirs));
        row.push_str(&format!("{:>COLUMN$}", cell(gain)));
    }
    if let (Some(bar), Some(Some(ours))) = (figure.bar, values.first()) {
        let verdict = if figure.passes(*ours) == Some(true) {
            "pass"
        } else {
            "MISS"
        };
        row.push_str(&format!("{:>COLUMN$}  {verdict}", number(bar)));
    }
    row.push('\n');
    row
}

fn number(value: f64) -> String {
    if value.abs() < 1000.0 {
        format!("{value:.2}")
    } else {
        thousands(value)
    }
}

/// `12345.6` becomes `12,346`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::{FLAT, GRPC};

    #[test]
    fn a_row_shows_the_medians_the_gain_and_the_bar() {
        let mut samples = [Samples::default(), Samples::default()];
        samples[0].add(GRPC, FLAT, 12_345.6);
        samples[1].add(GRPC, FLAT, 1234.56);
        let figure = FIGURES
            .iter()
            .find(|figure| (figure.scene, figure.name) == (GRPC, FLAT))
            .unwrap();
        let row = row(figure, &samples);
        let words: Vec<_> = row.split_whitespace().rev().take(5).collect();
        assert_eq!(words, ["pass", "9,500", "10.00", "1,235", "12,346"]);
    }

    #[test]
    fn what_was_not_measured_is_a_dash() {
        assert!(
            row(&FIGURES[0], &[Samples::default()])
                .trim_end()
                .ends_with('-')
        );
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(
            [1000.0, 999_999.4, 1_234_567.0].map(thousands),
            ["1,000", "999,999", "1,234,567"]
        );
    }
}
