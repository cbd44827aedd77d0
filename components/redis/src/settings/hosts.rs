//! `redisHost` and `redisPort`.

use std::fmt;

/// Where a server listens, by name.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Server {
    pub host: String,
    pub port: u16,
}

const PORT: u16 = 6379;

impl Default for Server {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: PORT,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One or several servers, by comma. `port` goes to those without one.
pub(super) fn parse(text: &str, port: Option<u16>) -> Result<Vec<Server>, String> {
    if text.trim().is_empty() {
        return Ok(vec![Server {
            port: port.unwrap_or(PORT),
            ..Server::default()
        }]);
    }
    let servers: Vec<Server> = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| server(entry, port))
        .collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err("a host".to_owned());
    }
    Ok(servers)
}

fn server(entry: &str, port: Option<u16>) -> Result<Server, String> {
    if entry.contains("://") {
        return Err("host and port without a scheme; `redisUsername`, `redisPassword`, `redisDB` and `enableTLS` say the rest".to_owned());
    }
    let (host, own_port) = split(entry);
    if host.is_empty() {
        return Err("a host in front of the port".to_owned());
    }
    let own_port = match own_port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err("a port between 1 and 65535".to_owned()),
    };
    if let (Some(own), Some(port)) = (own_port, port)
        && own != port
    {
        return Err(format!(
            "no port, or that of `redisPort`: \"{entry}\" has {own}, `redisPort` is {port}"
        ));
    }
    Ok(Server {
        host: host.to_owned(),
        port: own_port.or(port).unwrap_or(PORT),
    })
}

/// Host and port of `host`, `host:port`, `[v6]:port`, `[v6]`, `v6`.
fn split(entry: &str) -> (&str, Option<&str>) {
    if let Some((host, tail)) = entry
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return (host, tail.strip_prefix(':'));
    }
    match entry.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (entry, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, port: Option<u16>) -> Result<Vec<String>, String> {
        parse(text, port).map(|servers| servers.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn ports_are_filled_in() {
        for (text, port, expected) in [
            ("", None, "localhost:6379"),
            ("redis", None, "redis:6379"),
            ("redis", Some(7000), "redis:7000"),
            ("redis:7000", Some(7000), "redis:7000"),
            ("::1", None, "[::1]:6379"),
            ("[::1]:7", None, "[::1]:7"),
            ("[::1]", Some(8), "[::1]:8"),
        ] {
            assert_eq!(shown(text, port), Ok(vec![expected.to_owned()]), "{text}");
        }
        assert_eq!(
            shown("a, b:1,", None),
            Ok(vec!["a:6379".to_owned(), "b:1".to_owned()])
        );
    }

    #[test]
    fn a_port_that_contradicts_is_refused() {
        assert!(shown("redis:1", Some(2)).is_err());
        assert!(shown("redis:x", None).is_err());
        let scheme = shown("redis://:Top@h:1", None).unwrap_err();
        assert!(scheme.starts_with("host and port"), "{scheme}");
        assert!(shown("redis:0", None).is_err());
        assert!(shown(":6379", None).is_err());
        assert!(shown(",", None).is_err());
    }
}
