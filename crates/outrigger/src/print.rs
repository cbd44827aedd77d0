//! Text for the one who sits at the terminal. Nobody may be there to read it.

use std::io::Write as _;

pub(crate) fn out(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).ok();
    out.flush().ok();
}

pub(crate) fn err(text: &str) {
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

pub(crate) fn error(text: &str) {
    err(&format!("error: {text}\n"));
}
