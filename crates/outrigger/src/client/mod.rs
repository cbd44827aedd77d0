//! A client of one running sidecar, for the commands that ask one.
//!
//! Owns: where a sidecar is, one request at a time with a bound for all of it, what an answer or its absence means.
//! Never: keeps a connection, follows a redirect, lets a text through to the terminal with control characters in it.
//! Start at [`Sidecar::call`]. The bytes are in [`http`], texts for people in [`text`].

mod http;
pub(crate) mod text;

use std::fmt;
use std::time::{Duration, Instant};

use outrigger_core::json::{Numbers, Style, Value, encode, parse_all};

use crate::print;
use crate::words::{Environment, Words};

/// Nobody could be asked.
pub(crate) const UNREACHABLE: u8 = 3;

/// daprd's.
const DEFAULT_PORT: u16 = 3500;
const PORT_VARIABLE: &str = "DAPR_HTTP_PORT";
const TOKEN_VARIABLE: &str = "DAPR_API_TOKEN";
const PORTS: [&str; 2] = ["port", "dapr-http-port"];

/// Flags that say which sidecar is meant.
pub(crate) const FLAGS: [&str; 4] = ["port", "dapr-http-port", "address", "url"];

/// What the help of a command says about them.
macro_rules! flags_help {
    () => {
        "  --port NUMBER      the sidecar's HTTP port; default: DAPR_HTTP_PORT, else 3500 (also: --dapr-http-port)
  --address HOST     where it is; default 127.0.0.1
  --url URL          both at once: http://HOST:PORT
"
    };
}
pub(crate) use flags_help;

/// For an answer that is not waited for on purpose.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Characters of somebody else's message that are shown.
const LONGEST_MESSAGE: usize = 1_000;

/// Where a sidecar listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sidecar {
    host: String,
    port: u16,
    token: Option<String>,
}

impl Sidecar {
    /// On this machine, without a token.
    pub(crate) fn local(port: u16) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
            token: None,
        }
    }

    /// The one that flags and environment name.
    pub(crate) fn named(words: &Words, environment: Environment<'_>) -> Result<Self, String> {
        let ports = words.all(&PORTS).count();
        if words.last("url").is_some() && ports + words.all(&["address"]).count() > 0 {
            return Err("--url names host and port; --port and --address do not go with it".into());
        }
        let all = Self::all(words, environment)?;
        all.into_iter()
            .next_back()
            .ok_or_else(|| "no sidecar is named".to_owned())
    }

    /// All that flags and environment name, in order, each once.
    pub(crate) fn all(words: &Words, environment: Environment<'_>) -> Result<Vec<Self>, String> {
        let token = token(environment)?;
        let host = host(words.last("address").unwrap_or("127.0.0.1"), "--address")?;
        let at = |host: &str, port| Self {
            host: host.to_owned(),
            port,
            token: token.clone(),
        };
        let mut all: Vec<Self> = Vec::new();
        for (name, value) in &words.flags {
            let one = match name.as_str() {
                "url" => {
                    let (host, port) = url(value)?;
                    at(&host, port)
                }
                name if PORTS.contains(&name) => at(&host, port(&format!("--{name}"), value)?),
                _ => continue,
            };
            if !all.contains(&one) {
                all.push(one);
            }
        }
        if all.is_empty() {
            let named = environment(PORT_VARIABLE).filter(|value| !value.is_empty());
            let port = named.map_or(Ok(DEFAULT_PORT), |value| port(PORT_VARIABLE, &value))?;
            all.push(at(&host, port));
        }
        Ok(all)
    }

    pub(crate) fn get(&self, path: &str, limit: Duration) -> Result<Answer, Failure> {
        self.call("GET", path, limit)
    }

    /// One request and its answer, all of it within `limit`.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        limit: Duration,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + limit;
        let token = self.token.as_deref();
        let token = token.map_or_else(String::new, |token| format!("dapr-api-token: {token}\r\n"));
        // What changes something has a body, although it is an empty one.
        let length = if method == "GET" {
            ""
        } else {
            "content-length: 0\r\n"
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {self}\r\nuser-agent: outrigger/{}\r\naccept: application/json\r\n{length}{token}connection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        http::exchange(&self.host, self.port, request.as_bytes(), deadline)
            .map(|(status, body)| Answer { status, body })
            .map_err(|fault| match fault {
                http::Fault::Silent(why) => {
                    Failure::Unreachable(format!("no sidecar answers at {self}: {why}"))
                }
                http::Fault::TimeOut => Failure::Late(format!(
                    "no sidecar answers at {self}: not within {}",
                    text::duration(limit)
                )),
                http::Fault::Odd(why) => {
                    Failure::Answer(format!("what listens at {self} is no sidecar: {why}"))
                }
            })
    }
}

/// `127.0.0.1:3500`, `[::1]:3500`.
impl fmt::Display for Sidecar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn port(named_by: &str, text: &str) -> Result<u16, String> {
    // `+80` is a number for Rust, and a slip for everybody else.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port @ 1..) if digits => Ok(port),
        _ => Err(format!("{named_by}: `{text}` is no port, 1 to 65535")),
    }
}

/// A name or an address that may stand in a header.
fn host(text: &str, named_by: &str) -> Result<String, String> {
    let inner = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let is_odd = |c: char| !(c.is_ascii_alphanumeric() || ".-_:%".contains(c));
    let is_address = inner.parse::<std::net::Ipv6Addr>().is_ok();
    if inner.is_empty() || inner.contains(is_odd) || (inner.contains(':') && !is_address) {
        return Err(format!(
            "{named_by}: `{text}` is no host, such as 127.0.0.1 or orders.local"
        ));
    }
    Ok(inner.to_owned())
}

fn url(text: &str) -> Result<(String, u16), String> {
    let wrong = |why: &str| format!("--url: `{text}` {why}; expected http://HOST:PORT");
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(wrong(if text.starts_with("https://") {
            "asks for TLS, which a sidecar's API does not have"
        } else {
            "does not begin with http://"
        }));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err(wrong("has more than a host and a port"));
    }
    let (name, number) = match rest.rsplit_once(':') {
        Some((name, number)) if !number.ends_with(']') => (name, number),
        _ => return Err(wrong("has no port")),
    };
    Ok((host(name, "--url")?, port("--url", number)?))
}

fn token(environment: Environment<'_>) -> Result<Option<String>, String> {
    let token = environment(TOKEN_VARIABLE).filter(|token| !token.is_empty());
    match token {
        Some(token) if token.bytes().any(|byte| byte < b' ' || byte == 0x7f) => Err(format!(
            "{TOKEN_VARIABLE} holds a line break or another character that no token has"
        )),
        token => Ok(token),
    }
}

/// Of the process.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Why there is nothing to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody answers.
    Unreachable(String),
    /// Nobody has answered in time.
    Late(String),
    /// There is an answer, and it is not the one that is needed.
    Answer(String),
}

impl Failure {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Unreachable(text) | Self::Late(text) | Self::Answer(text) => text,
        }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Unreachable(_) | Self::Late(_) => UNREACHABLE,
            Self::Answer(_) => 1,
        }
    }

    /// Says it; the exit code.
    pub(crate) fn told(&self) -> u8 {
        print::error(self.text());
        self.code()
    }
}

/// What a sidecar answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The body, where it is a JSON object.
    pub(crate) fn object(&self) -> Option<Value> {
        parse_all(&self.body)
            .ok()
            .filter(|value| value.as_object().is_some())
    }

    /// The code of an error in Dapr's form.
    pub(crate) fn error_code(&self) -> Option<String> {
        let object = self.object()?;
        object.get("errorCode")?.as_str().map(text::clean)
    }

    /// What it says, for people: the message of an error, or the beginning of something else.
    pub(crate) fn message(&self) -> String {
        let object = self.object();
        let member = |name| {
            object
                .as_ref()
                .and_then(|object| object.get(name)?.as_str())
        };
        if let Some(message) = member("message").or_else(|| member("errorCode")) {
            return text::clean(text::first(message, LONGEST_MESSAGE));
        }
        let body = String::from_utf8_lossy(&self.body);
        let body = body.trim();
        let is_page = text::first(body, 15).to_ascii_lowercase();
        if is_page.starts_with("<!doctype html") || is_page.starts_with("<html") {
            return "an HTML page".to_owned();
        }
        let line = body.lines().next().unwrap_or_default();
        text::clean(text::first(line, 120))
    }

    /// What an answer means that is none of those which the caller knows.
    pub(crate) fn failure(&self, sidecar: &Sidecar) -> Failure {
        let status = self.status;
        let said = self.message();
        let said = if said.is_empty() {
            format!("status {status}")
        } else {
            format!("status {status}, {said}")
        };
        Failure::Answer(match (status, self.error_code().as_deref()) {
            (401, _) => {
                format!("the sidecar at {sidecar} wants its API token in {TOKEN_VARIABLE}: {said}")
            }
            (300..=399, _) => {
                format!("what listens at {sidecar} is no sidecar: it points elsewhere, {said}")
            }
            // Paths of ours that are not known are those of an app that is to be called.
            (404 | 405, None | Some("ERR_DIRECT_INVOKE")) | (200..=299, _) => format!(
                "what listens at {sidecar} is no Outrigger sidecar, or one that does not know this call or does not allow it (`spec.api` of its Configuration): {said}"
            ),
            _ => format!("the sidecar at {sidecar} refuses: {said}"),
        })
    }

    /// The object that is expected with status 200.
    pub(crate) fn expected(&self, sidecar: &Sidecar) -> Result<Value, Failure> {
        let object = (self.status == 200).then(|| self.object()).flatten();
        object.ok_or_else(|| self.failure(sidecar))
    }
}

/// A value as one line, with nothing in it that moves a cursor.
pub(crate) fn line(value: &Value) -> String {
    let bytes = encode(value, Style::Ours, Numbers::Exact);
    let mut line = String::with_capacity(bytes.len() + 1);
    // Such characters stand in strings only, where they may be written as escapes.
    for c in String::from_utf8_lossy(&bytes).chars() {
        if text::is_harmful(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            line.push(c);
        }
    }
    line.push('\n');
    line
}

/// A whole number that is not negative.
pub(crate) fn number(value: &Value) -> Option<u64> {
    u64::try_from(value.as_i64()?).ok()
}

/// Numbers by name; whatever else stands there is left out.
pub(crate) fn counts(value: Option<&Value>) -> Vec<(String, u64)> {
    let members = value.and_then(Value::as_object).unwrap_or_default();
    members
        .iter()
        .filter_map(|(name, value)| Some((text::clean(name), number(value)?)))
        .collect()
}

/// A text as a part of a query.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:,/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(line: &str, environment: Environment<'_>) -> Result<String, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let words = Words::read(&arguments, &FLAGS, &[])?;
        Sidecar::named(&words, environment).map(|sidecar| sidecar.to_string())
    }

    #[test]
    fn a_flag_beats_the_environment_which_beats_the_default() {
        let nothing = |_: &str| None;
        let port = |name: &str| (name == PORT_VARIABLE).then(|| "3600".to_owned());
        for (line, environment, expected) in [
            ("", &nothing as Environment<'_>, "127.0.0.1:3500"),
            ("", &port, "127.0.0.1:3600"),
            ("--port 1", &port, "127.0.0.1:1"),
            ("--dapr-http-port 65535", &port, "127.0.0.1:65535"),
            ("--address ::1", &port, "[::1]:3600"),
            ("--address=[::1] --port 2", &port, "[::1]:2"),
            ("--address orders.local", &nothing, "orders.local:3500"),
            ("--url http://10.0.0.1:80/", &port, "10.0.0.1:80"),
            ("--url http://[::1]:80", &port, "[::1]:80"),
        ] {
            assert_eq!(named(line, environment), Ok(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn what_names_no_sidecar_is_refused_with_the_flag() {
        for (line, begins) in [
            ("--port 0", "--port: `0` is no port"),
            ("--port 65536", "--port: `65536` is no port"),
            ("--port -1", "--port: `-1` is no port"),
            ("--port +80", "--port: `+80` is no port"),
            ("--dapr-http-port x", "--dapr-http-port: `x`"),
            ("--address a/b", "--address: `a/b` is no host"),
            ("--address a:80", "--address: `a:80` is no host"),
            ("--url localhost:80", "--url: `localhost:80` does not begin"),
            ("--url https://a:80", "--url: `https://a:80` asks for TLS"),
            ("--url http://a", "--url: `http://a` has no port"),
            ("--url http://[::1]", "--url: `http://[::1]` has no port"),
            ("--url http://a:b", "--url: `b` is no port"),
            ("--url http://u:p@a:80", "--url: `http://u:p@a:80` has more"),
            ("--url http://a:80/x", "--url: `http://a:80/x` has more"),
            ("--url http://:80", "--url: `` is no host"),
            ("--url http://a:80 --port 80", "--url names host and port"),
        ] {
            let why = named(line, &|_| None).unwrap_err();
            assert!(why.starts_with(begins), "{line}: {why}");
        }
        let odd = |name: &str| (name == PORT_VARIABLE).then(|| "odd".to_owned());
        assert_eq!(
            named("", &odd),
            Err("DAPR_HTTP_PORT: `odd` is no port, 1 to 65535".to_owned())
        );
    }

    #[test]
    fn a_token_cannot_smuggle_a_header_in_and_is_not_shown() {
        let token = |name: &str| (name == TOKEN_VARIABLE).then(|| "secret\r\nx: y".to_owned());
        let why = named("", &token).unwrap_err();
        assert!(
            why.starts_with(TOKEN_VARIABLE) && !why.contains("secret"),
            "{why}"
        );
    }

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            body: body.as_bytes().to_vec(),
        }
    }

    #[test]
    fn an_answer_that_is_not_expected_says_what_it_is() {
        let sidecar = Sidecar::local(3500);
        let text = |status, body: &str| answer(status, body).failure(&sidecar).text().to_owned();
        for (status, body, part) in [
            (401, r#"{"message":"invalid api token"}"#, "DAPR_API_TOKEN"),
            (302, "", "points elsewhere, status 302"),
            (404, "<!DOCTYPE html><p>", "status 404, an HTML page"),
            (
                404,
                r#"{"errorCode":"ERR_DIRECT_INVOKE"}"#,
                "no Outrigger sidecar",
            ),
            (200, "hello\nyou", "status 200, hello"),
            (
                500,
                r#"{"errorCode":"E","message":"so\u001b[2J"}"#,
                "refuses: status 500, so?[2J",
            ),
        ] {
            let text = text(status, body);
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_line_of_json_moves_no_cursor_and_means_the_same() {
        let value = Value::string("\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\u{2028}\u{e0001}ü");
        let line = line(&value);
        assert!(!line.trim_end().contains(text::is_harmful), "{line:?}");
        assert_eq!(parse_all(line.as_bytes()), Ok(value));
    }

    #[test]
    fn a_query_is_escaped_where_it_must_be() {
        assert_eq!(
            escaped("component:a b,subscription:p/t&x=ü\r"),
            "component:a%20b,subscription:p/t%26x%3D%C3%BC%0D"
        );
    }
}
