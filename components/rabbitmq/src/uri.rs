//! Where the broker is and who we are there: AMQP URIs, and the host names of the settings.
//!
//! Owns: the URI's grammar as daprd's driver reads it (defaults, percent-encoding, query), and the comma list of hosts
//! that only we accept.
//! Never: resolves a name, or puts any part of a URI into an error; it may hold a password.
//! Tests: below.

use std::time::Duration;

use outrigger_component_api::Secret;

/// One place where the broker may be found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// How we prove who we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mechanism {
    Plain,
    Amqplain,
    /// By the client certificate.
    External,
}

/// All that is needed to reach a virtual host, except for certificates.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub(crate) tls: bool,
    /// At least one. They are tried in this order.
    pub(crate) hosts: Vec<Host>,
    pub(crate) vhost: String,
    pub(crate) username: String,
    pub(crate) password: Secret,
    pub(crate) mechanism: Mechanism,
    /// Written in the URI; wins over the setting. Zero leaves the choice to the broker.
    pub(crate) heartbeat: Option<u16>,
    /// Bounds the attempt at one host.
    pub(crate) timeout: Option<Duration>,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            tls: false,
            hosts: vec![Host {
                name: "localhost".to_owned(),
                port: port(false),
            }],
            vhost: "/".to_owned(),
            username: "guest".to_owned(),
            password: Secret::new("guest"),
            mechanism: Mechanism::Plain,
            heartbeat: None,
            timeout: None,
        }
    }
}

/// What is wrong with a URI, without quoting it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flaw(pub(crate) &'static str);

fn port(tls: bool) -> u16 {
    if tls { 5671 } else { 5672 }
}

impl Broker {
    /// Reads `amqp://user:password@host:port/vhost?options`; `host:port` may be a comma list.
    ///
    /// # Errors
    /// What does not fit.
    pub(crate) fn parse(uri: &str) -> Result<Self, Flaw> {
        if uri.contains(' ') {
            return Err(Flaw("an AMQP URI without spaces"));
        }
        let scheme = Flaw("a URI that begins with `amqp://` or `amqps://`");
        let (before, rest) = uri.split_once("://").ok_or(scheme)?;
        let tls = match before.to_ascii_lowercase().as_str() {
            "amqp" => false,
            "amqps" => true,
            _ => return Err(scheme),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let slash = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(slash);
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let mut broker = Self {
            tls,
            hosts: parse_hosts(hosts, tls)?,
            ..Self::default()
        };
        if let Some(user) = user {
            let (name, password) = match user.split_once(':') {
                Some((name, password)) => (name, Some(password)),
                None => (user, None),
            };
            broker.username = decode(name)?;
            if let Some(password) = password {
                broker.password = Secret::new(decode(password)?);
            }
        }
        if let Some(vhost) = vhost(path, hosts.is_empty())? {
            broker.vhost = vhost;
        }
        broker.options(query)?;
        Ok(broker)
    }

    fn options(&mut self, query: &str) -> Result<(), Flaw> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(&value.replace('+', " "))?;
            match key {
                "heartbeat" => {
                    let seconds = value.parse();
                    self.heartbeat = Some(seconds.map_err(|_| {
                        Flaw("a URI whose `heartbeat` is a number of seconds up to 65535")
                    })?);
                }
                "connection_timeout" => {
                    let millis: u64 = value.parse().map_err(|_| {
                        Flaw("a URI whose `connection_timeout` is a number of milliseconds")
                    })?;
                    self.timeout = (millis > 0).then(|| Duration::from_millis(millis));
                }
                "auth_mechanism" => {
                    self.mechanism = match value.to_ascii_lowercase().as_str() {
                        "plain" => Mechanism::Plain,
                        "amqplain" => Mechanism::Amqplain,
                        "external" => Mechanism::External,
                        _ => {
                            return Err(Flaw(
                                "a URI whose `auth_mechanism` is `plain`, `amqplain` or `external`",
                            ));
                        }
                    };
                }
                // daprd hands its own TLS settings to its driver, which then ignores those of the URI; and we need no limit
                // to our own channels.
                _ => {}
            }
        }
        Ok(())
    }
}

/// A comma list of `host`, `host:port` or `[v6]:port`; an empty list means this machine.
///
/// # Errors
/// For a port that is none.
pub(crate) fn parse_hosts(list: &str, tls: bool) -> Result<Vec<Host>, Flaw> {
    let hosts = list
        .split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .map(|host| parse_host(host, tls))
        .collect::<Result<Vec<_>, _>>()?;
    if hosts.is_empty() {
        return Ok(vec![Host {
            name: "localhost".to_owned(),
            port: port(tls),
        }]);
    }
    Ok(hosts)
}

fn parse_host(text: &str, tls: bool) -> Result<Host, Flaw> {
    let flaw = Flaw("hosts of the form `host`, `host:port` or `[::1]:port`");
    let (name, number) = if let Some(rest) = text.strip_prefix('[') {
        let (name, tail) = rest.split_once(']').ok_or(flaw)?;
        match tail.strip_prefix(':') {
            Some(number) => (name, number),
            None if tail.is_empty() => (name, ""),
            None => return Err(flaw),
        }
    } else {
        match text.split_once(':') {
            // More than one colon is an address without its brackets.
            Some((_, number)) if number.contains(':') => return Err(flaw),
            Some(parts) => parts,
            None => (text, ""),
        }
    };
    let port = match number {
        "" => port(tls),
        number => number.parse().ok().filter(|port| *port > 0).ok_or(flaw)?,
    };
    let name = if name.is_empty() { "localhost" } else { name };
    Ok(Host {
        name: decode(name)?,
        port,
    })
}

/// The virtual host of a path; `None` stands for the default one.
fn vhost(path: &str, without_host: bool) -> Result<Option<String>, Flaw> {
    let path = decode(path)?;
    let name = match path.strip_prefix("///") {
        Some(name) if without_host => name,
        _ => path.strip_prefix('/').unwrap_or_default(),
    };
    if name.len() > 255 {
        return Err(Flaw("a URI whose virtual host has at most 255 bytes"));
    }
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

fn decode(text: &str) -> Result<String, Flaw> {
    let flaw = Flaw("a URI whose `%` signs begin escapes such as `%2F`");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            rest.next()
                .and_then(|digit| char::from(digit).to_digit(16))
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or(flaw)
        };
        bytes.push(digit()? << 4 | digit()?);
    }
    String::from_utf8(bytes).map_err(|_| Flaw("a URI in UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Host {
        Host {
            name: name.into(),
            port,
        }
    }

    #[test]
    fn every_part_of_a_uri_is_read() {
        let broker = Broker::parse(
            "amqps://us%40er:p%2Fw:x@rabbit:5555/a%2Fb?heartbeat=7&connection_timeout=1500&channel_max=9&auth_mechanism=EXTERNAL&x=1",
        )
        .unwrap();
        assert!(broker.tls);
        assert_eq!(broker.hosts, [host("rabbit", 5555)]);
        assert_eq!(broker.vhost, "a/b");
        assert_eq!(broker.username, "us@er");
        assert_eq!(broker.password.reveal(), "p/w:x");
        assert_eq!(broker.mechanism, Mechanism::External);
        assert_eq!(broker.heartbeat, Some(7));
        assert_eq!(broker.timeout, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        for (uri, hosts, vhost, user, password) in [
            (
                "amqp://",
                vec![host("localhost", 5672)],
                "/",
                "guest",
                "guest",
            ),
            ("amqps://h", vec![host("h", 5671)], "/", "guest", "guest"),
            ("AMQP://h/", vec![host("h", 5672)], "/", "guest", "guest"),
            ("amqp://u@h/%2f", vec![host("h", 5672)], "/", "u", "guest"),
            ("amqp://u:@h/v#x", vec![host("h", 5672)], "v", "u", ""),
            (
                "amqp:////v",
                vec![host("localhost", 5672)],
                "/v",
                "guest",
                "guest",
            ),
            (
                "amqp://///v",
                vec![host("localhost", 5672)],
                "v",
                "guest",
                "guest",
            ),
            (
                "amqp://h:1,[::1]:2,k/v",
                vec![host("h", 1), host("::1", 2), host("k", 5672)],
                "v",
                "guest",
                "guest",
            ),
        ] {
            let broker = Broker::parse(uri).unwrap();
            assert_eq!(broker.hosts, hosts, "{uri}");
            assert_eq!(broker.vhost, vhost, "{uri}");
            assert_eq!(broker.username, user, "{uri}");
            assert_eq!(broker.password.reveal(), password, "{uri}");
        }
    }

    #[test]
    fn a_flaw_is_told_without_the_uri() {
        for uri in [
            "",
            "h:5672",
            "http://h",
            "amqp://u:secret@h:x",
            "amqp://u:secret@h:0",
            "amqp://u:secret@::1",
            "amqp://u:secret@[::1",
            "amqp://u:secret@[::1]x",
            "amqp://u:%zz@h",
            "amqp://u:%2",
            "amqp://u:%ff@h",
            "amqp://u:secret@h /",
            "amqp://h?heartbeat=x",
            "amqp://h?heartbeat=70000",
            "amqp://h?connection_timeout=-1",
            "amqp://h?auth_mechanism=gssapi",
        ] {
            let flaw = Broker::parse(uri).unwrap_err();
            assert!(!flaw.0.contains("secret"), "{uri}");
        }
    }

    #[test]
    fn printing_a_broker_shows_no_password() {
        let broker = Broker::parse("amqp://u:hunter2@h").unwrap();
        assert!(!format!("{broker:?}").contains("hunter2"));
    }
}
