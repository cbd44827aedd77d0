//! Measured figures, kept beside the test programs.
//!
//! A test that passes prints nothing. What it measured is in `target/<profile>/e2e-figures/<row>.txt`, for reports.

use std::fmt::Display;
use std::fs;
use std::time::Duration;

use crate::binary::profile_folder;

/// Keeps what a row measured in place of what it measured before, and prints it.
pub fn figure(row: &str, measured: impl Display) {
    let text = format!("{row}: {measured}\n");
    let folder = profile_folder().join("e2e-figures");
    fs::create_dir_all(&folder).ok();
    fs::write(folder.join(format!("{row}.txt")), &text).ok();
    eprint!("{text}");
}

/// The value below which this share of them lies, such as 0.99.
///
/// # Panics
/// When there are none.
pub fn quantile(mut values: Vec<Duration>, share: f64) -> Duration {
    values.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "counts of a test"
    )]
    let at = ((values.len() as f64 * share) as usize).min(values.len() - 1);
    values[at]
}
