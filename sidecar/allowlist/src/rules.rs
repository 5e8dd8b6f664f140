//! What the operator allows by hand (`--allow-target`), for use without Kubernetes or beside the pool.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use kvferry_contract::{Endpoint, EndpointError};

use crate::host::Host;

/// One allowed network or one allowed target.
///
/// Written `10.0.0.0/8`, `10.0.0.0/8:8000`, `2001:db8::/32`, `[2001:db8::]/32:8000`, `10.0.0.7:8000`,
/// `[2001:db8::7]:8000` or `prefill-0.pool.svc:8000`. A name is compared as text, so it allows the name itself
/// and not the addresses behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(Shape);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shape {
    /// Every address of a network, on one port or on all.
    Net { net: IpNet, port: Option<u16> },
    /// One host on one port.
    Exact { host: Host, port: u16 },
}

/// Why a text is no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleError {
    /// It has a `/` but is no network.
    BadNet,
    /// The network's address has bits behind its prefix; the network that was probably meant.
    HostBits(IpNet),
    /// An IPv4 network written as an IPv6 one, which would never match.
    MappedNet,
    /// What follows the prefix length is no `:port` from 1 to 65535.
    BadPort,
    /// It has no `/` and is no `host:port`.
    BadTarget(EndpointError),
}

impl Rule {
    /// Whether this rule allows that host on that port.
    pub fn allows(&self, host: &Host, port: u16) -> bool {
        match (&self.0, host) {
            (Shape::Net { net, port: only }, Host::Ip(address)) => {
                net.contains(address) && only.is_none_or(|only| only == port)
            }
            (Shape::Net { .. }, Host::Zoned(..) | Host::Name(_)) => false,
            (Shape::Exact { host: named, port: only }, _) => named == host && *only == port,
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        // A `/` also stands in `http://`, which an endpoint tolerates.
        match text.rsplit_once('/') {
            Some((address, rest)) if !address.ends_with('/') => net(address, rest).map(Self),
            _ => {
                let endpoint: Endpoint = text.parse().map_err(RuleError::BadTarget)?;
                Ok(Self(Shape::Exact { host: Host::new(endpoint.host()), port: endpoint.port() }))
            }
        }
    }
}

fn net(address: &str, rest: &str) -> Result<Shape, RuleError> {
    let address = match address.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or(RuleError::BadNet)?,
        None => address,
    };
    let address: IpAddr = address.parse().map_err(|_| RuleError::BadNet)?;
    let (length, port) = match rest.split_once(':') {
        Some((length, port)) => (length, Some(number(port).ok_or(RuleError::BadPort)?)),
        None => (rest, None),
    };
    let length = length.parse().map_err(|_| RuleError::BadNet)?;
    let net = IpNet::new(address, length).map_err(|_| RuleError::BadNet)?;
    // A slip of the prefix length opens far more than was meant, so the two must agree.
    if net.trunc() != net {
        return Err(RuleError::HostBits(net.trunc()));
    }
    if address.to_canonical() != address {
        return Err(RuleError::MappedNet);
    }
    Ok(Shape::Net { net, port })
}

fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Shape::Net { net, port: None } => write!(f, "{net}"),
            Shape::Net { net: IpNet::V4(net), port: Some(port) } => write!(f, "{net}:{port}"),
            Shape::Net { net: IpNet::V6(net), port: Some(port) } => {
                write!(f, "[{}]/{}:{port}", net.addr(), net.prefix_len())
            }
            Shape::Exact { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadNet => f.write_str("it is no network; write 10.0.0.0/8 or [2001:db8::]/32"),
            Self::HostBits(net) => {
                write!(
                    f,
                    "its address has bits beyond the prefix; write {net}, or /32 (/128) for one address"
                )
            }
            Self::MappedNet => f.write_str("it is an IPv4 network in IPv6 form; write it as IPv4"),
            Self::BadPort => f.write_str("its port is not a number from 1 to 65535"),
            Self::BadTarget(error) => write!(f, "{error}; write host:port, or a network such as 10.0.0.7/32"),
        }
    }
}

impl std::error::Error for RuleError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, target: &str) -> bool {
        let target: Endpoint = target.parse().unwrap();
        rule.parse::<Rule>().unwrap().allows(&Host::new(target.host()), target.port())
    }

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        for (rule, allowed, denied) in [
            ("10.0.0.0/8", "10.9.9.9:1", "11.0.0.1:1"),
            ("10.0.0.0/8:8000", "10.9.9.9:8000", "10.9.9.9:8001"),
            ("10.0.0.7/32", "10.0.0.7:65535", "10.0.0.8:65535"),
            ("10.0.0.0/8", "[::ffff:10.0.0.7]:80", "[::10.0.0.7]:80"),
            ("2001:db8::/32", "[2001:db8::7]:80", "[2001:db9::7]:80"),
            ("2001:db8::/32:8000", "[2001:db8::7]:8000", "[2001:db8::7]:80"),
            ("[2001:db8::]/32:8000", "[2001:db8::7]:8000", "[2001:db8::7]:80"),
            ("10.0.0.7:8000", "10.0.0.7:8000", "10.0.0.7:22"),
            ("[2001:db8::7]:80", "[2001:0db8:0::7]:80", "[2001:db8::8]:80"),
            ("Prefill-0.Pool.svc:80", "prefill-0.pool.SVC:80", "prefill-1.pool.svc:80"),
            ("[fe80::1%eth0]:80", "[fe80::1%eth0]:80", "[fe80::1]:80"),
            ("[fe80::1%eth0]:80", "[FE80:0::1%eth0]:80", "[fe80::1%ETH0]:80"),
            ("[::1]:80", "[::1]:80", "[::1%x]:80"),
            ("0.0.0.0/0", "192.0.2.1:80", "[2001:db8::7]:80"),
        ] {
            assert!(allows(rule, allowed), "{rule} allows {allowed}");
            assert!(!allows(rule, denied), "{rule} does not allow {denied}");
        }
    }

    #[test]
    fn a_network_allows_no_name_and_no_zone() {
        assert!(!allows("0.0.0.0/0", "localhost:80"));
        assert!(!allows("127.0.0.0/8", "2130706433:80"), "a number that a resolver may take for 127.0.0.1");
        assert!(!allows("::/0", "[fe80::1%eth0]:80"));
        assert!(!allows("0.0.0.0/0", "[::ffff:10.0.0.7%x]:80"));
    }

    #[test]
    fn rules_print_as_they_can_be_written() {
        for text in [
            "10.0.0.0/8",
            "10.0.0.0/8:8000",
            "2001:db8::/32",
            "[2001:db8::]/32:8000",
            "10.0.0.7:8000",
            "[2001:db8::7]:8000",
            "[fe80::1%eth0]:80",
            "prefill-0:8000",
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn unusable_rules_say_why() {
        for (text, error) in [
            ("10.0.0.0/33", RuleError::BadNet),
            ("10.0.0/8", RuleError::BadNet),
            ("pool.svc/8", RuleError::BadNet),
            ("[2001:db8::/32:80", RuleError::BadNet),
            ("10.0.0.7/8", RuleError::HostBits("10.0.0.0/8".parse().unwrap())),
            ("::ffff:10.0.0.0/104", RuleError::MappedNet),
            ("10.0.0.0/8:0", RuleError::BadPort),
            ("10.0.0.0/8:+1", RuleError::BadPort),
            ("10.0.0.0/8:", RuleError::BadPort),
            ("10.0.0.7", RuleError::BadTarget(EndpointError::NoPort)),
            ("", RuleError::BadTarget(EndpointError::NoPort)),
            ("https://host:1", RuleError::BadTarget(EndpointError::Scheme)),
        ] {
            assert_eq!(text.parse::<Rule>(), Err(error), "{text}");
        }
    }
}
