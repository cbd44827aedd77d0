//! One request over HTTP/1.1, and its answer.
//!
//! Owns: the connection, the reading of an answer from whoever listens there, sidecar or not.
//! Never: waits past the deadline, or holds more than [`LARGEST`] bytes; it does not know what is asked.
//! Start at [`exchange`]. What comes in is taken for hostile: see the tests.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Of a body. Thousands of components need a tenth of it.
const LARGEST: usize = 8 * 1024 * 1024;
/// Of everything ahead of the body.
const LARGEST_HEAD: usize = 64 * 1024;
/// Of the line that begins a chunk.
const LONGEST_LINE: usize = 8 * 1024;
/// Answers ahead of the answer: `100 Continue` and its like.
const MOST_INTERIM: usize = 8;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection, or one that ended too early.
    Silent(String),
    TimeOut,
    /// It is none in HTTP, or larger than any that is expected.
    Odd(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimeOut,
            ErrorKind::ConnectionRefused => Self::Silent("connection refused".to_owned()),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Self::Silent("the connection was cut".to_owned())
            }
            _ => Self::Silent(error.to_string()),
        }
    }
}

/// Sends a request; the status and the body of the answer.
pub(super) fn exchange(
    host: &str,
    port: u16,
    request: &[u8],
    deadline: Instant,
) -> Result<(u16, Vec<u8>), Fault> {
    let mut connection = Connection::open(host, port, deadline)?;
    connection.send(request)?;
    read_answer(&mut BufReader::new(connection))
}

struct Connection {
    stream: TcpStream,
    deadline: Instant,
}

impl Connection {
    fn open(host: &str, port: u16, deadline: Instant) -> Result<Self, Fault> {
        let addresses = resolve(host, port, deadline)?;
        let mut last = Fault::Silent(format!("`{host}` has no address"));
        for (at, address) in addresses.iter().enumerate() {
            // One address that swallows everything leaves time for the next.
            let others = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
            let time = left(deadline)? / others;
            match TcpStream::connect_timeout(address, time.max(Duration::from_millis(1))) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Self { stream, deadline });
                }
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(left(self.deadline)?))?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(Fault::Silent("the connection was cut".to_owned())),
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Read for Connection {
    /// However slowly bytes drip in, the deadline stays.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = left(self.deadline).map_err(|_| io::Error::from(ErrorKind::TimedOut))?;
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// What is left until a moment; never zero, which would mean no bound at all.
fn left(deadline: Instant) -> Result<Duration, Fault> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Fault::TimeOut);
    }
    Ok(left)
}

/// The system's resolver knows no deadline, so that it runs beside us. Whatever it finds later is not waited for.
fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, Fault> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (found, finding) = mpsc::sync_channel(1);
    let name = host.to_owned();
    let finder = std::thread::Builder::new().name("resolver".to_owned());
    finder.spawn(move || {
        let addresses = (name.as_str(), port).to_socket_addrs();
        found.send(addresses.map(Iterator::collect)).ok();
    })?;
    match finding.recv_timeout(left(deadline)?) {
        Ok(addresses) => {
            addresses.map_err(|error| Fault::Silent(format!("`{host}` cannot be found: {error}")))
        }
        Err(_) => Err(Fault::TimeOut),
    }
}

fn read_answer(source: &mut impl BufRead) -> Result<(u16, Vec<u8>), Fault> {
    for _ in 0..=MOST_INTERIM {
        let head = Head::read(source)?;
        // A sidecar that was not asked for an upgrade makes none.
        if matches!(head.status, 100 | 102..=199) {
            continue;
        }
        let body = match head.body {
            _ if matches!(head.status, 101 | 204 | 304) => Vec::new(),
            Length::Chunked => chunks(source)?,
            Length::Known(length) if length > LARGEST as u64 => return Err(too_large()),
            Length::Known(length) => {
                let mut body = Vec::new();
                let read = source.by_ref().take(length).read_to_end(&mut body)?;
                if (read as u64) < length {
                    return Err(Fault::Silent("the answer was cut off".to_owned()));
                }
                body
            }
            Length::UntilTheEnd => {
                let mut body = Vec::new();
                source
                    .by_ref()
                    .take(LARGEST as u64 + 1)
                    .read_to_end(&mut body)?;
                if body.len() > LARGEST {
                    return Err(too_large());
                }
                body
            }
        };
        return Ok((head.status, body));
    }
    Err(odd("it answers without an end"))
}

fn odd(why: &str) -> Fault {
    Fault::Odd(why.to_owned())
}

fn too_large() -> Fault {
    Fault::Odd(format!(
        "its answer is larger than {} MiB",
        LARGEST / 1024 / 1024
    ))
}

fn no_http() -> Fault {
    odd("it does not speak HTTP/1.1")
}

#[derive(Debug, PartialEq, Eq)]
enum Length {
    Known(u64),
    Chunked,
    UntilTheEnd,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    body: Length,
}

impl Head {
    fn read(source: &mut impl BufRead) -> Result<Self, Fault> {
        let mut room = LARGEST_HEAD;
        let first = line(source, LONGEST_LINE.min(room), no_http)?;
        room = room.saturating_sub(first.len());
        let status = status(&first).ok_or_else(no_http)?;
        let mut length: Option<u64> = None;
        let mut is_chunked = false;
        loop {
            let header = line(source, room, || odd("its answer has too many headers"))?;
            room = room.saturating_sub(header.len() + 1);
            if header.is_empty() {
                break;
            }
            let header = String::from_utf8_lossy(&header);
            let (name, value) = header.split_once(':').ok_or_else(no_http)?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("transfer-encoding") {
                is_chunked = value.to_ascii_lowercase().ends_with("chunked");
            } else if name.eq_ignore_ascii_case("content-length") {
                let number = number(value, 10).ok_or_else(no_http)?;
                if length.replace(number).is_some_and(|other| other != number) {
                    return Err(no_http());
                }
            }
        }
        let body = match (is_chunked, length) {
            (true, _) => Length::Chunked,
            (false, Some(length)) => Length::Known(length),
            (false, None) => Length::UntilTheEnd,
        };
        Ok(Self { status, body })
    }
}

/// Of `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.strip_prefix("HTTP/1.")?.split(' ');
    let is_version = matches!(words.next(), Some("0" | "1"));
    let code = words.next().filter(|code| code.len() == 3)?;
    let code = u16::try_from(number(code, 10)?).ok()?;
    (is_version && code >= 100).then_some(code)
}

/// Digits and nothing else.
fn number(text: &str, radix: u32) -> Option<u64> {
    let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
    digits.then(|| u64::from_str_radix(text, radix).ok())?
}

/// Up to the end of a line, which is not part of it. `too_long`: what is wrong beyond `room` bytes.
fn line(
    source: &mut impl BufRead,
    room: usize,
    too_long: impl FnOnce() -> Fault,
) -> Result<Vec<u8>, Fault> {
    let mut line = Vec::new();
    let mut bounded = source.by_ref().take(room as u64);
    bounded.read_until(b'\n', &mut line)?;
    if line.pop_if(|byte| *byte == b'\n').is_none() {
        return Err(if line.len() >= room {
            too_long()
        } else {
            Fault::Silent("the connection ended before an answer".to_owned())
        });
    }
    line.pop_if(|byte| *byte == b'\r');
    Ok(line)
}

fn chunks(source: &mut impl BufRead) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    loop {
        let size = line(source, LONGEST_LINE, no_http)?;
        let size = String::from_utf8_lossy(&size);
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = number(size, 16).ok_or_else(no_http)?;
        if size == 0 {
            break;
        }
        if size > (LARGEST - body.len()) as u64 {
            return Err(too_large());
        }
        let read = source.by_ref().take(size).read_to_end(&mut body)?;
        if (read as u64) < size {
            return Err(Fault::Silent("the answer was cut off".to_owned()));
        }
        if !line(source, LONGEST_LINE, no_http)?.is_empty() {
            return Err(no_http());
        }
    }
    let mut room = LARGEST_HEAD;
    loop {
        let trailer = line(source, room, || odd("its answer has too many trailers"))?;
        room = room.saturating_sub(trailer.len() + 1);
        if trailer.is_empty() {
            return Ok(body);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(answer: impl AsRef<[u8]>) -> Result<(u16, Vec<u8>), Fault> {
        read_answer(&mut answer.as_ref())
    }

    #[test]
    fn bodies_of_every_kind_are_read() {
        for (answer, status, body) in [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more",
                200,
                "hi",
            ),
            ("HTTP/1.1 200 OK\ncontent-length:2\n\nhi", 200, "hi"),
            ("HTTP/1.0 200 OK\r\n\r\nuntil the end", 200, "until the end"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0B\r\n and bye ..\r\n0\r\nX: y\r\n\r\n",
                200,
                "hi and bye ..",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
            ("HTTP/1.1 304 \r\ncontent-length: 9\r\n\r\n", 304, ""),
            (
                "HTTP/1.1 103 Early\r\nx: y\r\n\r\nHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
                500,
                "",
            ),
        ] {
            let expected = (status, body.as_bytes().to_vec());
            assert_eq!(read(answer), Ok(expected), "{answer}");
        }
    }

    #[test]
    fn what_is_no_http_is_told_from_what_was_cut() {
        for answer in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno header\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n+2\r\nhi\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nhi\r\n0\r\n\r\n",
        ] {
            assert_eq!(read(answer), Err(no_http()), "{answer}");
        }
        for answer in [
            "",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK\r\nx: y\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhi",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
        ] {
            assert!(matches!(read(answer), Err(Fault::Silent(_))), "{answer}");
        }
    }

    /// Endless in one respect.
    fn endless(begin: &str, again: &[u8]) -> Result<(u16, Vec<u8>), Fault> {
        struct Again<'a>(&'a [u8], usize);
        impl Read for Again<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let length = buffer.len().min(self.0.len() - self.1);
                buffer[..length].copy_from_slice(&self.0[self.1..self.1 + length]);
                self.1 = (self.1 + length) % self.0.len();
                Ok(length)
            }
        }
        let again = again.repeat(10_000 / again.len());
        read_answer(&mut BufReader::new(
            begin.as_bytes().chain(Again(&again, 0)),
        ))
    }

    #[test]
    fn nothing_without_an_end_is_read_to_it() {
        assert_eq!(endless("", b"x"), Err(no_http()));
        let ok = "HTTP/1.1 200 OK\r\n";
        assert!(matches!(endless(ok, b"x: y\r\n"), Err(Fault::Odd(_))));
        assert!(matches!(endless(ok, b"x"), Err(Fault::Odd(_))));
        assert_eq!(endless(&format!("{ok}\r\n"), b"x"), Err(too_large()));
        assert_eq!(
            endless(&format!("{ok}content-length: 99999999999\r\n\r\n"), b"x"),
            Err(too_large())
        );
        let chunked = format!("{ok}transfer-encoding: chunked\r\n\r\n");
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        assert_eq!(endless(&chunked, chunk.as_bytes()), Err(too_large()));
        assert_eq!(
            endless(&format!("{chunked}fffffffffffffff\r\n"), b"x"),
            Err(too_large())
        );
        assert!(matches!(
            endless(&format!("{chunked}0\r\n"), b"x: y\r\n"),
            Err(Fault::Odd(_))
        ));
        assert!(matches!(
            endless("", b"HTTP/1.1 100 Continue\r\n\r\n"),
            Err(Fault::Odd(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            begin in prop::sample::select(vec![
                "", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            ]),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut answer = begin.as_bytes().to_vec();
            answer.extend(bytes);
            read(answer).ok();
        }
    }
}
