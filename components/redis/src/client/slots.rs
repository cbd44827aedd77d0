//! Which node of a cluster has which key.

use redis::Value;

use crate::error::Failure;
use crate::settings::Server;

pub(crate) const SLOTS: u16 = 16_384;

/// Some slots and their primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub first: u16,
    pub last: u16,
    pub primary: Server,
}

/// The slot of a key. Of a key with braces only the part within the first pair counts.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

/// Reads the answer to CLUSTER SLOTS. A node that does not know its own address is the one that was asked.
pub(super) fn read(answer: Value, asked: &Server) -> Result<Vec<Range>, Failure> {
    let Value::Array(entries) = answer else {
        return Err(Failure::odd("CLUSTER SLOTS"));
    };
    entries
        .into_iter()
        .map(|entry| range(entry, asked).ok_or_else(|| Failure::odd("CLUSTER SLOTS")))
        .collect()
}

fn range(entry: Value, asked: &Server) -> Option<Range> {
    let Value::Array(parts) = entry else {
        return None;
    };
    let mut parts = parts.into_iter();
    let (Value::Int(first), Value::Int(last), Value::Array(node)) =
        (parts.next()?, parts.next()?, parts.next()?)
    else {
        return None;
    };
    let mut node = node.into_iter();
    let host = match node.next()? {
        Value::BulkString(host) => String::from_utf8(host).ok()?,
        _ => String::new(),
    };
    let Value::Int(port) = node.next()? else {
        return None;
    };
    let host = if host.is_empty() || (is_loopback(&host) && !is_loopback(&asked.host)) {
        asked.host.clone()
    } else {
        host
    };
    Some(Range {
        first: u16::try_from(first).ok()?,
        last: u16::try_from(last).ok()?,
        primary: Server {
            host,
            port: u16::try_from(port).ok()?,
        },
    })
}

/// A node that names itself by a loopback address is reached the way it was asked.
fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A `host:port` of a redirection.
pub(super) fn target(text: &str, asked: &Server) -> Option<Server> {
    let (host, port) = text.rsplit_once(':')?;
    Some(Server {
        host: if host.is_empty() {
            asked.host.clone()
        } else {
            host.to_owned()
        },
        port: port.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // As CLUSTER KEYSLOT gives them.
        for (key, expected) in [
            ("", 0),
            ("foo", 12182),
            ("123456789", 12739),
            ("a||k", slot(b"a||k")),
            ("{user1000}.following", slot(b"user1000")),
            ("foo{}{bar}", slot(b"foo{}{bar}")),
            ("foo{{bar}}zap", slot(b"{bar")),
            ("foo{bar}{zap}", slot(b"bar")),
        ] {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }

    #[test]
    fn a_node_without_address_is_the_one_that_was_asked() {
        let entry = |host: &str| {
            Value::Array(vec![Value::Array(vec![
                Value::Int(0),
                Value::Int(100),
                Value::Array(vec![
                    Value::BulkString(host.into()),
                    Value::Int(7000),
                    Value::BulkString("id".into()),
                ]),
            ])])
        };
        let asked = Server {
            host: "seed".into(),
            port: 1,
        };
        for (told, host) in [
            ("", "seed"),
            ("127.0.0.1", "seed"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            let ranges = read(entry(told), &asked).unwrap();
            assert_eq!(ranges[0].primary.host, host);
            assert_eq!(ranges[0].primary.port, 7000);
        }
        assert!(read(Value::Nil, &asked).is_err());
    }
}
