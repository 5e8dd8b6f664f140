//! One spelling per host, so that a target cannot slip past (or fall through) the list by being written differently.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The host part of a target in the one form in which hosts are compared.
///
/// IPv6 addresses are equal whatever their zeros look like, an IPv4 address mapped into IPv6 is that IPv4 address,
/// and names are equal whatever their case. Nothing is resolved: the number `2130706433` is a name here, which no
/// pod has, although some resolvers would dial `127.0.0.1` for it. An IPv6 address with a zone is a host of its own,
/// because neither a pod nor a network says which interface it means; zones differ in their case as interfaces do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address, never an IPv4 one mapped into IPv6.
    Ip(IpAddr),
    /// An address on one interface (`fe80::1%eth0`), which only a rule that names both allows.
    Zoned(Ipv6Addr, Box<str>),
    /// Anything else, in lower case.
    Name(Box<str>),
}

impl Host {
    /// The host as it stands in an endpoint, an IPv6 address without its brackets.
    pub fn new(text: &str) -> Self {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::Ip(address.to_canonical());
        }
        if let Some((address, zone)) = text.split_once('%')
            && let Ok(address) = address.parse()
        {
            return Self::Zoned(address, zone.into());
        }
        Self::Name(text.to_ascii_lowercase().into())
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address.to_canonical())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Ip(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Zoned(address, zone) => write!(f, "[{address}%{zone}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_host_are_equal() {
        for (one, other) in [
            ("2001:db8::7", "2001:0DB8:0:0:0:0:0:7"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("Prefill-0", "prefill-0"),
        ] {
            assert_eq!(Host::new(one), Host::new(other), "{one} {other}");
        }
    }

    #[test]
    fn what_only_a_resolver_takes_for_an_address_is_a_name() {
        for text in ["2130706433", "0x7f.1", "010.0.0.1", "127.1", "10.0.0.7."] {
            assert!(matches!(Host::new(text), Host::Name(_)), "{text}");
        }
    }

    #[test]
    fn an_address_with_a_zone_is_neither_the_bare_address_nor_that_of_another_interface() {
        let host = Host::new("fe80::1%eth0");
        assert_eq!(host, Host::new("FE80:0::1%eth0"));
        assert_eq!(host.to_string(), "[fe80::1%eth0]");
        for other in ["fe80::1", "fe80::1%eth1", "fe80::1%ETH0", "fe80::2%eth0"] {
            assert_ne!(host, Host::new(other), "{other}");
        }
        // A resolver drops the zone where it means nothing, and would dial what the list keeps out.
        assert_ne!(Host::new("::1%x"), Host::new("::1"));
        assert_ne!(Host::new("::ffff:10.0.0.7%x"), Host::new("10.0.0.7"));
    }
}
