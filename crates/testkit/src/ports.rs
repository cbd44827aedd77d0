//! Ports that are free, and stay so until their server has them.
//!
//! Port 0 gives a port of the ephemeral range, which any outgoing connection may take between our look and the server's
//! start. These lie below that range, and a named socket keeps other test processes on this machine off them.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

use rand::Rng as _;

/// The lowest ephemeral port is 32768 unless an administrator chose otherwise.
const RANGE: std::ops::Range<u16> = 11_000..31_000;

/// Old claims are let go, so that a long run does not use up its file descriptors.
const KEPT_CLAIMS: usize = 400;

static CLAIMS: Mutex<VecDeque<UnixListener>> = Mutex::new(VecDeque::new());

/// A TCP port on which nobody listens and that nobody else is given.
///
/// # Panics
/// When none is found.
pub fn free() -> u16 {
    let mut rng = rand::rng();
    for _ in 0..10_000 {
        let port = rng.random_range(RANGE);
        if let Some(claim) = claim(port) {
            let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
            claims.push_back(claim);
            if claims.len() > KEPT_CLAIMS {
                claims.pop_front();
            }
            return port;
        }
    }
    panic!("no free port between {} and {}", RANGE.start, RANGE.end);
}

fn claim(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("outrigger-kit-port-{port}")).ok()?;
    let claim = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind(("127.0.0.1", port)).ok()?;
    Some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice() {
        let ports: HashSet<u16> = (0..100).map(|_| free()).collect();
        assert_eq!(ports.len(), 100);
    }

    #[test]
    fn a_port_in_use_is_not_given() {
        let port = free();
        assert!(claim(port).is_none());
    }
}
