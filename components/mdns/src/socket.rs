//! One socket of one address family, shared with every other program on the machine that speaks multicast DNS.
//!
//! Owns: socket options, sending through a given interface, telling where a packet came from.
//! Never: reads a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, recvmsg, sendmsg,
    setsockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::interfaces::Interface;

pub(crate) const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// As far as packets could go; the groups do not leave the link.
const HOPS: u32 = 255;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn group(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(GROUP_V4),
            Self::V6 => IpAddr::V6(GROUP_V6),
        }
    }
}

/// A bound socket and the interfaces it listens on.
#[derive(Debug)]
pub(crate) struct MulticastSocket {
    family: Family,
    io: UdpSocket,
    /// Interfaces that it sends through, and from which address; unspecified where the system chooses.
    usable: BTreeMap<u32, Ipv4Addr>,
    /// Those that it listens on; systems limit their number.
    joined: BTreeSet<u32>,
}

/// A packet's way here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Origin {
    pub(crate) source: SocketAddr,
    /// Where it came in; zero when the system did not say.
    pub(crate) interface: u32,
}

impl MulticastSocket {
    /// Binds the port beside whoever has it.
    ///
    /// # Errors
    /// When this machine lacks the family, or the port is taken by somebody who does not share.
    pub(crate) fn bind(family: Family) -> io::Result<Self> {
        let domain = match family {
            Family::V4 => Domain::IPV4,
            Family::V6 => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        // Systems differ in which of the two lets many programs hear the same packets.
        socket.set_reuse_port(true).ok();
        socket.set_nonblocking(true)?;
        let any: IpAddr = match family {
            Family::V4 => {
                socket.set_multicast_ttl_v4(HOPS)?;
                socket.set_multicast_loop_v4(true)?;
                setsockopt(&socket, Ipv4PacketInfo, &true)?;
                Ipv4Addr::UNSPECIFIED.into()
            }
            Family::V6 => {
                socket.set_only_v6(true)?;
                socket.set_multicast_hops_v6(HOPS)?;
                socket.set_multicast_loop_v6(true)?;
                setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
                Ipv6Addr::UNSPECIFIED.into()
            }
        };
        socket.bind(&SockAddr::from(SocketAddr::new(any, PORT)))?;
        Ok(Self {
            family,
            io: UdpSocket::from_std(socket.into())?,
            usable: BTreeMap::new(),
            joined: BTreeSet::new(),
        })
    }

    /// Listens on these interfaces. Returns those that are new.
    pub(crate) fn join(&mut self, interfaces: &[Interface]) -> Vec<u32> {
        let usable: BTreeMap<u32, Ipv4Addr> = interfaces
            .iter()
            .filter(|interface| interface.speaks(self.family.group()))
            .map(|interface| (interface.index, interface.source()))
            .collect();
        let is_new = |index: &&u32| !self.usable.contains_key(index);
        let new = usable.keys().filter(is_new).copied().collect();
        // The system forgets interfaces that go away; one that comes back has to be joined anew.
        self.joined.retain(|index| usable.contains_key(index));
        for index in usable.keys() {
            if self.joined.contains(index) {
                continue;
            }
            let socket = socket2::SockRef::from(&self.io);
            let joined = match self.family {
                Family::V4 => {
                    socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(*index))
                }
                Family::V6 => socket.join_multicast_v6(&GROUP_V6, *index),
            };
            // Joined by an earlier life of the interface: as good as joined now.
            let is_joined = match &joined {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::AddrInUse,
            };
            if is_joined {
                self.joined.insert(*index);
            }
        }
        self.usable = usable;
        new
    }

    /// Whether there is an interface to send on.
    pub(crate) fn is_connected(&self) -> bool {
        !self.usable.is_empty()
    }

    /// Waits for a packet. Cancel safe.
    ///
    /// # Errors
    /// When the socket is broken.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Origin)> {
        self.io
            .async_io(Interest::READABLE, || match self.family {
                Family::V4 => self.receive_v4(buffer),
                Family::V6 => self.receive_v6(buffer),
            })
            .await
    }

    fn receive_v4(&self, buffer: &mut [u8]) -> io::Result<(usize, Origin)> {
        let mut control = nix::cmsg_space!(in_pktinfo);
        let mut data = [IoSliceMut::new(buffer)];
        let got = recvmsg::<SockaddrIn>(
            self.io.as_raw_fd(),
            &mut data,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let interface = got.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|message| match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => info.ipi_ifindex.try_into().ok(),
                _ => None,
            })
        });
        let source = got.address.ok_or(io::ErrorKind::InvalidData)?;
        let origin = Origin {
            source: SocketAddrV4::from(source).into(),
            interface: interface.unwrap_or(0),
        };
        Ok((got.bytes, origin))
    }

    fn receive_v6(&self, buffer: &mut [u8]) -> io::Result<(usize, Origin)> {
        let mut control = nix::cmsg_space!(in6_pktinfo);
        let mut data = [IoSliceMut::new(buffer)];
        let got = recvmsg::<SockaddrIn6>(
            self.io.as_raw_fd(),
            &mut data,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let interface = got.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|message| match message {
                ControlMessageOwned::Ipv6PacketInfo(info) => Some(info.ipi6_ifindex),
                _ => None,
            })
        });
        let source = got.address.ok_or(io::ErrorKind::InvalidData)?;
        let origin = Origin {
            source: SocketAddrV6::from(source).into(),
            interface: interface.unwrap_or(0),
        };
        Ok((got.bytes, origin))
    }

    /// Sends to the group, through one interface or through all. What does not get out is lost, as anything may be on a
    /// network.
    pub(crate) async fn send_to_group(&self, bytes: &[u8], interface: Option<u32>) {
        let group = SocketAddr::new(self.family.group(), PORT);
        for index in self.usable.keys() {
            if interface.is_none_or(|wanted| wanted == *index) {
                self.send(bytes, group, *index).await.ok();
            }
        }
    }

    /// Sends to one receiver.
    ///
    /// # Errors
    /// When the packet does not get out.
    pub(crate) async fn send(
        &self,
        bytes: &[u8],
        to: SocketAddr,
        interface: u32,
    ) -> io::Result<()> {
        self.io
            .async_io(Interest::WRITABLE, || self.send_now(bytes, to, interface))
            .await
    }

    fn send_now(&self, bytes: &[u8], to: SocketAddr, interface: u32) -> io::Result<()> {
        let fd = self.io.as_raw_fd();
        let data = [IoSlice::new(bytes)];
        let flags = MsgFlags::empty();
        let sent = match to {
            SocketAddr::V4(to) => {
                let source = self.usable.get(&interface);
                let source = source.map_or([0; 4], Ipv4Addr::octets);
                let info = in_pktinfo {
                    ipi_ifindex: interface.try_into().unwrap_or(0),
                    ipi_spec_dst: in_addr {
                        s_addr: u32::from_ne_bytes(source),
                    },
                    ipi_addr: in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                sendmsg(fd, &data, &control, flags, Some(&SockaddrIn::from(to)))
            }
            SocketAddr::V6(to) => {
                let info = in6_pktinfo {
                    ipi6_addr: in6_addr { s6_addr: [0; 16] },
                    ipi6_ifindex: interface,
                };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                sendmsg(fd, &data, &control, flags, Some(&SockaddrIn6::from(to)))
            }
        };
        sent.map(|_| ()).map_err(io::Error::from)
    }
}
