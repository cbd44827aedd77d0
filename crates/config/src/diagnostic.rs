//! What is wrong with a text, where, and what to do about it.
//!
//! A diagnostic reads like a compiler's: a code to search for, the place, what is there, what was expected, and the
//! nearest valid name where one is close. Values that look like secrets never get in; [`is_sensitive`] decides by the
//! name of the property, [`shown`] by the value.

use std::fmt;
use std::sync::Arc;

use outrigger_core::shown::clean;

/// How much a diagnostic weighs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Something is refused.
    Error,
    /// Something is ignored or replaced by a default.
    Warning,
    /// Worth knowing; nothing is wrong.
    Note,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// A position in a file, and the path of the value that stands there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    pub file: Arc<str>,
    /// From 1; 0 when the place is the file as a whole.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// `spec.policies.timeouts.fast`; empty when the place is the document as a whole.
    pub path: String,
}

impl Place {
    /// A file as a whole.
    pub fn file(name: &str) -> Self {
        Self {
            file: name.into(),
            line: 0,
            column: 0,
            path: String::new(),
        }
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::file("")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, " ({})", one_line(self.path.clone()))?;
        }
        Ok(())
    }
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// `CFG-DURATION`; constant for one kind of finding, so that it can be searched for.
    pub code: &'static str,
    pub place: Place,
    /// Lower case, no final stop, names in backticks.
    pub message: String,
    /// What is there; never a secret.
    pub found: Option<String>,
    /// What should be there, such as ``a number with a unit such as `5s` ``.
    pub expected: Option<String>,
    /// The next step, such as the nearest valid name.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(
        severity: Severity,
        code: &'static str,
        place: Place,
        message: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            place,
            message: one_line(message.into()),
            found: None,
            expected: None,
            help: None,
        }
    }

    pub fn error(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, place, message)
    }

    pub fn warning(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, place, message)
    }

    pub fn note(code: &'static str, place: Place, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, place, message)
    }

    #[must_use]
    pub fn found(mut self, found: impl Into<String>) -> Self {
        self.found = Some(shortened(found.into()));
        self
    }

    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(one_line(help.into()));
        self
    }

    /// ``did you mean `x`?``, if there is a nearest name.
    #[must_use]
    pub fn nearest(self, name: Option<&str>) -> Self {
        match name {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// In one line, with its place.
    pub fn located(&self) -> String {
        format!("{}: {}", self.place, self.summary())
    }

    /// In one line, for a log: message, finding and expectation, without the place.
    pub fn summary(&self) -> String {
        let mut text = self.message.clone();
        if let Some(found) = &self.found {
            text.push_str(&format!(", got {found:?}"));
        }
        if let Some(expected) = &self.expected {
            text.push_str(&format!(", expected {expected}"));
        }
        if let Some(help) = &self.help {
            text.push_str(&format!("; {help}"));
        }
        text
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}[{}]: {}",
            self.severity.name(),
            self.code,
            self.message
        )?;
        write!(f, "  --> {}", self.place)?;
        match (&self.found, &self.expected) {
            (Some(found), Some(expected)) => write!(f, "\n   got {found:?}, expected {expected}")?,
            (Some(found), None) => write!(f, "\n   got {found:?}")?,
            (None, Some(expected)) => write!(f, "\n   expected {expected}")?,
            (None, None) => {}
        }
        match &self.help {
            Some(help) => write!(f, "\n   help: {help}"),
            None => Ok(()),
        }
    }
}

/// Names of the user are part of messages, and may hold anything; a message stays one line of a log.
fn one_line(text: String) -> String {
    if text.contains(char::is_control) {
        let escaped = |c: char| match c {
            c if c.is_control() => c.escape_default().to_string(),
            c => c.to_string(),
        };
        text.chars().map(escaped).collect()
    } else {
        text
    }
}

/// Orders by file, line and column; what stands at one place keeps its order.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|a, b| {
        (&a.place.file, a.place.line, a.place.column).cmp(&(
            &b.place.file,
            b.place.line,
            b.place.column,
        ))
    });
}

/// All diagnostics and a last line with their counts; the last line alone when there are none.
pub fn render(diagnostics: &[Diagnostic]) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        text.push_str(&diagnostic.to_string());
        text.push_str("\n\n");
    }
    text.push_str(&counts(diagnostics));
    text.push('\n');
    text
}

/// `2 errors, 1 warning`, or `no problems found`.
pub fn counts(diagnostics: &[Diagnostic]) -> String {
    let count = |severity, name: &str| {
        let count = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count();
        match count {
            0 => None,
            1 => Some(format!("1 {name}")),
            _ => Some(format!("{count} {name}s")),
        }
    };
    let parts: Vec<String> = [
        (Severity::Error, "error"),
        (Severity::Warning, "warning"),
        (Severity::Note, "note"),
    ]
    .into_iter()
    .filter_map(|(s, n)| count(s, n))
    .collect();
    if parts.is_empty() {
        "no problems found".to_owned()
    } else {
        parts.join(", ")
    }
}

/// Whether the value of a property of this name must not be printed.
pub fn is_sensitive(name: &str) -> bool {
    let name: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    const PARTS: [&str; 16] = [
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "credential",
        "connectionstring",
        "connstr",
        "dsn",
        "authorization",
        "cookie",
        "apikey",
        "accesskey",
        "privatekey",
        "clientkey",
    ];
    PARTS.iter().any(|part| name.contains(part)) || name.ends_with("key") || name.starts_with("sas")
}

/// A value as it may be printed beside its property: shortened, without passwords in URLs; `None` for secrets.
pub fn shown(name: &str, value: &str) -> Option<String> {
    if is_sensitive(name) || value.contains("-----BEGIN ") {
        return None;
    }
    const LONGEST: usize = 80;
    let mut text = clean(value);
    if let Some((cut, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(cut);
        text.push_str("...");
    }
    Some(text)
}

/// More of what was found than this helps nobody.
const LONGEST_FOUND: usize = 200;

fn shortened(text: String) -> String {
    match text.char_indices().nth(LONGEST_FOUND) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(file: &str, line: u32, column: u32) -> Place {
        Place {
            line,
            column,
            path: "spec.x".to_owned(),
            ..Place::file(file)
        }
    }

    #[test]
    fn a_diagnostic_reads_like_a_compilers() {
        let told = Diagnostic::error(
            "CFG-DURATION",
            place("r.yaml", 14, 16),
            "`timeout` is not a duration",
        )
        .found("5 sec")
        .expected("a number with a unit such as `5s`")
        .nearest(Some("timeouts"));
        assert_eq!(
            told.to_string(),
            "error[CFG-DURATION]: `timeout` is not a duration\n  --> r.yaml:14:16 (spec.x)\n   got \"5 sec\", expected a number with a unit such as `5s`\n   help: did you mean `timeouts`?"
        );
        assert_eq!(
            told.summary(),
            "`timeout` is not a duration, got \"5 sec\", expected a number with a unit such as `5s`; did you mean `timeouts`?"
        );
    }

    #[test]
    fn names_with_line_breaks_break_no_line() {
        let mut place = place("r.yaml", 1, 1);
        place.path = "spec[a\nb]".to_owned();
        let told = Diagnostic::error("CFG-X", place, "`a\r\nb` is no name").nearest(Some("a\tb"));
        assert_eq!(
            told.located(),
            r"r.yaml:1:1 (spec[a\nb]): `a\r\nb` is no name; did you mean `a\tb`?"
        );
    }

    #[test]
    fn order_is_by_file_line_and_column() {
        let mut told: Vec<Diagnostic> = [("b", 1, 1), ("a", 2, 1), ("a", 1, 9), ("a", 1, 2)]
            .into_iter()
            .map(|(file, line, column)| Diagnostic::note("CFG-X", place(file, line, column), ""))
            .collect();
        sort(&mut told);
        let order: Vec<_> = told
            .iter()
            .map(|told| (&*told.place.file, told.place.line, told.place.column))
            .collect();
        assert_eq!(order, [("a", 1, 2), ("a", 1, 9), ("a", 2, 1), ("b", 1, 1)]);
    }

    #[test]
    fn the_last_line_counts() {
        let told = |severity| Diagnostic::new(severity, "CFG-X", Place::file("a"), "m");
        assert_eq!(counts(&[]), "no problems found");
        assert_eq!(
            counts(&[
                told(Severity::Error),
                told(Severity::Warning),
                told(Severity::Error)
            ]),
            "2 errors, 1 warning"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        for name in [
            "password",
            "redisPassword",
            "accountKey",
            "sasToken",
            "connectionString",
            "client_secret",
            "Authorization",
            "primaryEncryptionKey",
        ] {
            assert_eq!(shown(name, "hunter2"), None, "{name}");
        }
        assert_eq!(
            shown("host", "amqp://u:hunter2@h").as_deref(),
            Some("amqp://u:***@h")
        );
        let hosts = shown("redisHost", "h:26379?password=hunter2").unwrap();
        assert!(!hosts.contains("hunter2"), "{hosts}");
        assert_eq!(shown("cert", "-----BEGIN X-----"), None);
        assert_eq!(shown("timeout", "5 sec").as_deref(), Some("5 sec"));
        assert_eq!(
            shown("timeout", &"é".repeat(100)).unwrap().chars().count(),
            83
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(name in "\\PC*", value in "\\PC*") {
            shown(&name, &value);
        }
    }
}
