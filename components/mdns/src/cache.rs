//! Where the sidecars of one app are.
//!
//! Owns: how long an address is believed, the order in which addresses are handed out. Never: asks anybody.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// An address is believed for so long after it was last heard of.
pub(crate) const BELIEVED: Duration = Duration::from_secs(60);
/// Nobody runs more sidecars of one app on one network segment; a flood of answers must not fill the memory.
const MOST: usize = 256;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Found {
    address: SocketAddr,
    /// Who said so last.
    instance: String,
    until: Instant,
}

/// The addresses of one app.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    found: Vec<Found>,
    turn: usize,
}

impl Addresses {
    pub(crate) fn add(&mut self, address: SocketAddr, instance: &str, now: Instant) {
        let until = now + BELIEVED;
        if let Some(found) = self.found.iter_mut().find(|found| found.address == address) {
            found.until = until;
            instance.clone_into(&mut found.instance);
        } else if self.found.len() < MOST {
            self.found.push(Found {
                address,
                instance: instance.to_owned(),
                until,
            });
        }
    }

    /// Forgets what an instance said that ends; if it told its addresses, only those. Another that has taken its place at
    /// the same address stays.
    pub(crate) fn remove(&mut self, instance: &str, addresses: &[SocketAddr]) {
        self.found.retain(|found| {
            found.instance != instance
                || (!addresses.is_empty() && !addresses.contains(&found.address))
        });
    }

    pub(crate) fn remove_address(&mut self, address: &str) {
        self.found
            .retain(|found| found.address.to_string() != address);
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        self.found.retain(|found| found.until > now);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All addresses, each time with another one in front. IPv6 is for apps that have nothing else.
    pub(crate) fn next(&mut self, own: Option<SocketAddr>) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = self.found.iter().map(|found| found.address).collect();
        if let Some(own) = own.filter(|own| !all.contains(own)) {
            all.push(own);
        }
        if all.iter().any(SocketAddr::is_ipv4) {
            all.retain(SocketAddr::is_ipv4);
        }
        if !all.is_empty() {
            let turn = self.turn % all.len();
            all.rotate_left(turn);
            self.turn = self.turn.wrapping_add(1);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn addresses_take_turns() {
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        for port in 1..=3 {
            addresses.add(at(port), "i", now);
        }
        let firsts: Vec<_> = (0..4).map(|_| addresses.next(None)[0].port()).collect();
        assert_eq!(firsts, [1, 2, 3, 1]);
        assert_eq!(addresses.next(None).len(), 3);
    }

    #[test]
    fn ipv6_is_handed_out_only_where_there_is_nothing_else() {
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        let v6: SocketAddr = "[fd00::1]:1".parse().unwrap();
        addresses.add(v6, "i", now);
        assert_eq!(addresses.next(None), [v6]);
        addresses.add(at(1), "i", now);
        assert_eq!(addresses.next(None), [at(1)]);
    }

    #[test]
    fn an_address_is_believed_for_a_minute() {
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        addresses.add(at(1), "i", now);
        addresses.expire(now + BELIEVED - Duration::from_millis(1));
        assert!(!addresses.is_empty());
        addresses.add(at(1), "i", now + Duration::from_secs(30));
        addresses.expire(now + BELIEVED);
        assert!(!addresses.is_empty());
        addresses.expire(now + BELIEVED + Duration::from_secs(30));
        assert!(addresses.is_empty());
    }

    #[test]
    fn a_goodbye_removes_what_its_instance_said_and_nothing_else() {
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        addresses.add(at(1), "old", now);
        addresses.add(at(1), "new", now);
        addresses.add(at(2), "old", now);
        addresses.add(at(3), "old", now);
        addresses.remove("old", &[at(1), at(2)]);
        assert_eq!(addresses.next(None).len(), 2);
        addresses.remove("old", &[]);
        assert_eq!(addresses.next(None), [at(1)]);
        addresses.remove_address("192.0.2.1:1");
        assert!(addresses.is_empty());
    }

    #[test]
    fn a_flood_does_not_fill_the_memory() {
        let (mut addresses, now) = (Addresses::default(), Instant::now());
        for port in 1..=1000 {
            addresses.add(at(port), "i", now);
        }
        assert_eq!(addresses.next(None).len(), MOST);
    }
}
