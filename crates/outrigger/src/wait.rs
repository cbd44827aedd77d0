//! `--wait`: until a sidecar on this machine serves calls.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::print;

const EVERY: Duration = Duration::from_millis(100);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// 0 when it serves calls, 1 when the time is over.
pub(crate) fn wait(port: u16, timeout: Duration) -> u8 {
    let deadline = Instant::now() + timeout;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    loop {
        let answer = ask(address);
        if answer.is_ok() {
            return 0;
        }
        if Instant::now() + EVERY >= deadline {
            let why = answer.err().unwrap_or_default();
            print::error(&format!(
                "no sidecar at {address} serves calls after {} s: {why}",
                timeout.as_secs_f64()
            ));
            return 1;
        }
        std::thread::park_timeout(EVERY);
    }
}

fn ask(address: SocketAddr) -> Result<(), String> {
    let talk = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(
            b"GET /v1.0/healthz/outbound HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        )?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.to_vec())
    };
    let head = talk().map_err(|error| error.to_string())?;
    match head.get(9..12) {
        Some(status) if status.starts_with(b"2") => Ok(()),
        Some(status) => Err(format!("status {}", String::from_utf8_lossy(status))),
        None => Err("no answer in HTTP".to_owned()),
    }
}
