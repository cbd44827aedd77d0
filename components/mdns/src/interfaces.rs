//! The network interfaces of this machine.
//!
//! Owns: which interfaces are used, which addresses are ours, which are near. Never: sends.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use nix::sys::socket::SockaddrStorage;

/// One interface that is up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    is_multicast: bool,
    is_loopback: bool,
    networks: Vec<Network>,
}

/// An address, and how much of it its neighbours share.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Network {
    address: IpAddr,
    mask: IpAddr,
}

impl Network {
    fn contains(&self, other: IpAddr) -> bool {
        match (self.address, self.mask, other) {
            (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(other)) => own & mask == other & mask,
            (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(other)) => own & mask == other & mask,
            _ => false,
        }
    }
}

/// All interfaces at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Interfaces {
    /// Those to send on and to listen on.
    pub(crate) used: Vec<Interface>,
    all: Vec<Network>,
}

impl Interfaces {
    /// Asks the system. `only` limits what is used to interfaces of these names; empty means every one that can multicast,
    /// or the loopback when there is no other.
    ///
    /// # Errors
    /// When the system does not answer.
    pub(crate) fn now(only: &[String]) -> io::Result<Self> {
        let mut found: BTreeMap<String, Interface> = BTreeMap::new();
        for entry in getifaddrs()? {
            if !entry.flags.contains(InterfaceFlags::IFF_UP) {
                continue;
            }
            if !found.contains_key(&entry.interface_name) {
                let Ok(index) = if_nametoindex(entry.interface_name.as_str()) else {
                    continue;
                };
                let interface = Interface {
                    index,
                    name: entry.interface_name.clone(),
                    is_multicast: entry.flags.contains(InterfaceFlags::IFF_MULTICAST),
                    is_loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                    networks: Vec::new(),
                };
                found.insert(entry.interface_name.clone(), interface);
            }
            let address = entry.address.as_ref().and_then(ip);
            let mask = entry.netmask.as_ref().and_then(ip);
            if let (Some(address), Some(interface)) =
                (address, found.get_mut(&entry.interface_name))
            {
                let mask = mask.unwrap_or_else(|| match address {
                    IpAddr::V4(_) => [255; 4].into(),
                    IpAddr::V6(_) => [255; 16].into(),
                });
                interface.networks.push(Network { address, mask });
            }
        }
        Ok(Self::of(found.into_values().collect(), only))
    }

    fn of(found: Vec<Interface>, only: &[String]) -> Self {
        let all = found
            .iter()
            .flat_map(|interface| interface.networks.clone())
            .collect();
        let chosen = |wanted: &dyn Fn(&Interface) -> bool| -> Vec<Interface> {
            found
                .iter()
                .filter(|interface| wanted(interface))
                .cloned()
                .collect()
        };
        let used = if only.is_empty() {
            let capable = chosen(&|interface| interface.is_multicast);
            if capable.is_empty() {
                // Sidecars on a machine without a network find each other all the same.
                chosen(&|interface| interface.is_loopback)
            } else {
                capable
            }
        } else {
            chosen(&|interface| only.contains(&interface.name))
        };
        Self { used, all }
    }

    /// A machine with one address.
    #[cfg(test)]
    pub(crate) fn with(address: &str, mask: &str) -> Self {
        let network = Network {
            address: address.parse().unwrap(),
            mask: mask.parse().unwrap(),
        };
        Self {
            used: Vec::new(),
            all: vec![network],
        }
    }

    /// Whether a packet from this address comes from this machine.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        // On the loopback, systems may send from no address at all.
        address.is_loopback()
            || address.is_unspecified()
            || self.all.iter().any(|network| network.address == address)
    }

    /// Whether the address lies in a network that one of the interfaces is part of.
    pub(crate) fn is_near(&self, address: IpAddr) -> bool {
        self.all.iter().any(|network| network.contains(address))
    }
}

impl Interface {
    /// The source address to be given to packets, where the system would choose none.
    pub(crate) fn source(&self) -> Ipv4Addr {
        if self.is_loopback {
            Ipv4Addr::LOCALHOST
        } else {
            Ipv4Addr::UNSPECIFIED
        }
    }

    /// Whether packets of the family of `like` can be sent from here.
    pub(crate) fn speaks(&self, like: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|network| network.address.is_ipv4() == like.is_ipv4())
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// Whether an address means something only together with an interface.
pub(crate) fn needs_interface(address: &Ipv6Addr) -> bool {
    address.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(
        index: u32,
        name: &str,
        flags: (bool, bool),
        address: &str,
        mask: &str,
    ) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            is_multicast: flags.0,
            is_loopback: flags.1,
            networks: vec![Network {
                address: address.parse().unwrap(),
                mask: mask.parse().unwrap(),
            }],
        }
    }

    fn machine() -> Vec<Interface> {
        vec![
            interface(1, "lo", (false, true), "127.0.0.1", "255.0.0.0"),
            interface(2, "eth0", (true, false), "192.0.2.7", "255.255.255.0"),
            interface(3, "eth1", (true, false), "fd00::7", "ffff:ffff:ffff:ffff::"),
        ]
    }

    fn used(found: Vec<Interface>, only: &[&str]) -> Vec<String> {
        let only: Vec<_> = only.iter().map(|name| (*name).to_owned()).collect();
        let used = Interfaces::of(found, &only).used;
        used.into_iter().map(|interface| interface.name).collect()
    }

    #[test]
    fn every_interface_that_can_multicast_is_used() {
        assert_eq!(used(machine(), &[]), ["eth0", "eth1"]);
        assert_eq!(used(machine(), &["eth1", "absent"]), ["eth1"]);
        assert_eq!(used(machine(), &["lo"]), ["lo"]);
    }

    #[test]
    fn the_loopback_serves_where_there_is_nothing_else() {
        let mut found = machine();
        found.truncate(1);
        assert_eq!(used(found, &[]), ["lo"]);
        assert_eq!(used(Vec::new(), &[]), Vec::<String>::new());
    }

    #[test]
    fn own_and_near_addresses_are_known() {
        let interfaces = Interfaces::of(machine(), &[]);
        for (address, is_own, is_near) in [
            ("192.0.2.7", true, true),
            ("192.0.2.8", false, true),
            ("198.51.100.1", false, false),
            ("127.0.0.1", true, true),
            ("fd00::8", false, true),
            ("fd01::8", false, false),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(interfaces.is_own(address), is_own, "{address}");
            assert_eq!(interfaces.is_near(address), is_near, "{address}");
        }
    }

    #[test]
    fn this_machine_has_interfaces() {
        let interfaces = Interfaces::now(&[]).unwrap();
        assert!(interfaces.is_own(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
