//! The sockets and interfaces of this machine, looked at again from time to time.
//!
//! Networks come and go while a sidecar runs: what is missing at the start is taken into use once it is there.
//! Owns: when to look again. Never: reads a packet.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Outgoing;
use crate::interfaces::Interfaces;
use crate::packet::MOST_BYTES;
use crate::socket::{Family, MulticastSocket, Origin};

/// Interfaces are looked at in this rhythm.
const LOOK: Duration = Duration::from_secs(15);
/// Nobody makes us look more often than this.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// All that is sent and received through.
pub(crate) struct Network {
    /// Names of interfaces; empty for all.
    only: Vec<String>,
    v4: Link,
    v6: Link,
    looked_at: Option<Instant>,
}

struct Link {
    family: Family,
    socket: Result<MulticastSocket, String>,
    buffer: Vec<u8>,
}

/// What a look at the machine gave.
pub(crate) struct Seen {
    pub(crate) interfaces: Interfaces,
    /// Interfaces that were not there before.
    pub(crate) new: Vec<u32>,
}

impl Network {
    pub(crate) fn new(only: Vec<String>) -> Self {
        let link = |family| Link {
            family,
            socket: Err("not opened yet".to_owned()),
            buffer: Vec::new(),
        };
        Self {
            only,
            v4: link(Family::V4),
            v6: link(Family::V6),
            looked_at: None,
        }
    }

    /// When the next look is due.
    pub(crate) fn due(&self, now: Instant) -> Instant {
        self.looked_at.map_or(now, |at| at + LOOK)
    }

    /// Looks at the interfaces and opens what is missing; nothing if that was done a moment ago.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Seen> {
        if self.looked_at.is_some_and(|at| now < at + LOOK_PAUSE) {
            return None;
        }
        self.looked_at = Some(now);
        let interfaces = match Interfaces::now(&self.only) {
            Ok(interfaces) => interfaces,
            Err(error) => {
                for link in [&mut self.v4, &mut self.v6] {
                    if link.socket.is_err() {
                        link.socket = Err(format!("cannot list network interfaces: {error}"));
                    }
                }
                return None;
            }
        };
        let mut new = Vec::new();
        for link in [&mut self.v4, &mut self.v6] {
            if link.socket.is_err() {
                link.socket = MulticastSocket::bind(link.family).map_err(|error| error.to_string());
            }
            if let Ok(socket) = &mut link.socket {
                new.extend(socket.join(&interfaces.used));
            }
        }
        new.sort_unstable();
        new.dedup();
        Some(Seen { interfaces, new })
    }

    /// Why nothing can be sent; `None` when something can.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let mut reasons = Vec::new();
        for (link, name) in [(&self.v4, "IPv4"), (&self.v6, "IPv6")] {
            match &link.socket {
                Ok(socket) if socket.is_connected() => return None,
                Ok(_) => reasons.push(format!("{name}: no interface can multicast")),
                Err(error) => reasons.push(format!("{name}: {error}")),
            }
        }
        Some(reasons.join("; "))
    }

    /// Waits for a packet and gives what `read` makes of it. Cancel safe. A socket that breaks is put away.
    pub(crate) async fn receive<T>(&mut self, read: impl Fn(&[u8], Origin) -> T) -> Option<T> {
        tokio::select! {
            heard = self.v4.receive(&read) => heard,
            heard = self.v6.receive(&read) => heard,
        }
    }

    pub(crate) async fn send(&self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Everybody { bytes, interface } => {
                for link in [&self.v4, &self.v6] {
                    if let Ok(socket) = &link.socket {
                        socket.send_to_group(&bytes, interface).await;
                    }
                }
            }
            Outgoing::Back { bytes, origin } => {
                let interface = (origin.interface != 0).then_some(origin.interface);
                if let Ok(socket) = &self.link_to(origin.source).socket {
                    socket.send_to_group(&bytes, interface).await;
                }
            }
            Outgoing::Asker { bytes, origin } => {
                if let Ok(socket) = &self.link_to(origin.source).socket {
                    let sent = socket.send(&bytes, origin.source, origin.interface).await;
                    // Who asked may be gone by now.
                    sent.ok();
                }
            }
        }
    }

    fn link_to(&self, address: SocketAddr) -> &Link {
        match address {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => &self.v6,
        }
    }
}

impl Link {
    async fn receive<T>(&mut self, read: impl Fn(&[u8], Origin) -> T) -> Option<T> {
        let Ok(socket) = &self.socket else {
            return std::future::pending().await;
        };
        self.buffer.resize(MOST_BYTES + 1, 0);
        match socket.receive(&mut self.buffer).await {
            Ok((length, origin)) => self.buffer.get(..length).map(|bytes| read(bytes, origin)),
            Err(error) if is_passing(&error) => None,
            Err(error) => {
                self.socket = Err(error.to_string());
                None
            }
        }
    }
}

/// Errors that tell of another packet's fate.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::Interrupted
            | io::ErrorKind::InvalidData
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::WouldBlock
    )
}
