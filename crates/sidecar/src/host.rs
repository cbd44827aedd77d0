//! What the machine says of itself: name, address, the port that a restart keeps.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use sha2::{Digest as _, Sha256};

/// Where derived internal ports begin.
const FIRST_DERIVED_PORT: u16 = 47_300;

/// The machine's name.
pub(crate) fn name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

/// The address under which others reach us: the one that the kernel would use towards the world.
pub(crate) fn address() -> String {
    let towards = |own: &str, there: &str| {
        let socket = UdpSocket::bind(own).ok()?;
        // Nothing is sent: connecting only chooses a route.
        socket.connect(there).ok()?;
        socket
            .local_addr()
            .ok()
            .map(|address| address.ip())
            .filter(|address| !address.is_unspecified())
    };
    let found =
        towards("0.0.0.0:0", "192.0.2.1:80").or_else(|| towards("[::]:0", "[2001:db8::1]:80"));
    found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_string()
}

/// The internal port of an app that names none: the same after every restart, so that peers who remember it are right.
pub(crate) fn derived_port(app_id: &str, host_name: &str) -> u16 {
    let folder = std::env::current_dir()
        .map(|folder| folder.display().to_string())
        .unwrap_or_default();
    derive(
        app_id,
        &folder,
        &rustix::process::getuid().as_raw().to_string(),
        host_name,
    )
}

fn derive(app_id: &str, folder: &str, user: &str, host_name: &str) -> u16 {
    let digest = Sha256::digest([app_id, folder, user, host_name].join("|"));
    let first = digest.first_chunk::<2>().copied().unwrap_or_default();
    FIRST_DERIVED_PORT + u16::from_le_bytes(first) % (u16::MAX - FIRST_DERIVED_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_port_is_kept_and_differs_between_apps() {
        assert_eq!(derive("a", "/x", "0", "h"), derive("a", "/x", "0", "h"));
        assert_ne!(derive("a", "/x", "0", "h"), derive("b", "/x", "0", "h"));
        assert!(derive("a", "/x", "0", "h") >= FIRST_DERIVED_PORT);
    }

    #[test]
    fn the_machine_has_a_name_and_an_address() {
        assert!(!name().is_empty());
        assert!(address().parse::<IpAddr>().is_ok());
    }
}
