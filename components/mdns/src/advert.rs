//! This sidecar, as it shows itself on the network.
//!
//! Names are Dapr's and not those of DNS-SD: the service of app `a` is `a.local`, without a protocol.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use simple_dns::Name;

/// A label of a name has at most so many bytes.
const LABEL: usize = 63;
/// The name under which every kind of service is listed.
pub(crate) const ENUMERATION: &str = "_services._dns-sd._udp.local";

/// What is announced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Advert {
    pub(crate) app_id: String,
    /// `<app id>.local`.
    pub(crate) service: String,
    /// `<host>:<process>.<app id>.local`. A host name with dots makes several labels.
    pub(crate) instance: String,
    /// `<host>.local`, also where the host name ends like that already.
    pub(crate) host: String,
    /// The internal port at the advertised address.
    pub(crate) address: SocketAddr,
}

impl Advert {
    /// # Errors
    /// Which name is too long to be sent.
    pub(crate) fn new(
        app_id: &str,
        host: &str,
        process: u32,
        address: SocketAddr,
    ) -> Result<Self, String> {
        let host = match host.trim_matches('.') {
            "" => "localhost",
            host => host,
        };
        let process = format!(":{process}");
        let service = service(app_id);
        let advert = Self {
            app_id: app_id.to_owned(),
            instance: format!(
                "{}{process}.{service}",
                shorten(host, LABEL - process.len())
            ),
            host: format!("{}.local", shorten(host, LABEL)),
            service,
            address,
        };
        for name in [&advert.service, &advert.instance, &advert.host] {
            if Name::new(name).is_err() {
                return Err(format!("the name `{name}` is too long for DNS"));
            }
        }
        Ok(advert)
    }
}

/// The name under which an app's sidecars are found.
pub(crate) fn service(app_id: &str) -> String {
    format!("{}.local", app_id.trim_matches('.'))
}

/// Cuts the last label of a host name to a length that can be sent.
fn shorten(host: &str, most: usize) -> String {
    let (front, last) = match host.rsplit_once('.') {
        Some((front, last)) => (format!("{front}."), last),
        None => (String::new(), host),
    };
    let mut end = last.len().min(most);
    while !last.is_char_boundary(end) {
        end -= 1;
    }
    format!("{front}{}", last.get(..end).unwrap_or_default())
}

/// Reads an address as the runtime gives it: an IP address, or `localhost`.
pub(crate) fn parse_address(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let text = text.strip_prefix('[').unwrap_or(text);
    let text = text.strip_suffix(']').unwrap_or(text);
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advert(host: &str) -> Advert {
        Advert::new("App-1", host, 42, "192.0.2.1:50002".parse().unwrap()).unwrap()
    }

    #[test]
    fn names_are_built_from_host_process_and_app() {
        for (host, instance, name) in [
            ("vm", "vm:42.App-1.local", "vm.local"),
            (
                "vm.example.org.",
                "vm.example.org:42.App-1.local",
                "vm.example.org.local",
            ),
            ("mac.local", "mac.local:42.App-1.local", "mac.local.local"),
            ("", "localhost:42.App-1.local", "localhost.local"),
        ] {
            let advert = advert(host);
            assert_eq!(
                (advert.instance.as_str(), advert.host.as_str()),
                (instance, name)
            );
            assert_eq!(advert.service, "App-1.local");
        }
    }

    #[test]
    fn a_long_host_name_is_cut_and_a_long_app_id_is_told() {
        let advert = advert(&format!("a.{}", "h".repeat(63)));
        assert_eq!(
            advert.instance,
            format!("a.{}:42.App-1.local", "h".repeat(60))
        );
        let long = "x".repeat(64);
        let refused = Advert::new(&long, "vm", 1, "192.0.2.1:1".parse().unwrap());
        assert!(refused.unwrap_err().contains("too long"));
    }

    #[test]
    fn addresses_come_in_several_forms() {
        for (text, address) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("localhost", Some("127.0.0.1")),
            ("fd00::1", Some("fd00::1")),
            ("[fd00::1]", Some("fd00::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("example.org", None),
            ("", None),
        ] {
            let read = parse_address(text).map(|ip| ip.to_string());
            assert_eq!(read.as_deref(), address, "{text}");
        }
    }
}
