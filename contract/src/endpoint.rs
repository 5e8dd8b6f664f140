//! `host:port` as it stands in routing headers, parsed once and carried as a type from there on.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Longest zone of an IPv6 address that is taken, in bytes. Linux names interfaces in at most 15, and the few systems with
/// longer names stay below this.
const MAX_ZONE: usize = 64;

/// An engine's address: a host name, an IPv4 address or a bracketed IPv6 address, with a port from 1 to 65535.
///
/// A leading `http://` is tolerated and cut, since schedulers were seen to send it; any other scheme is refused,
/// because flags alone decide which legs use TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Without brackets, so that it can be resolved as it is.
    host: Box<str>,
    port: u16,
}

/// Why a text is no usable endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointError {
    /// No `:port` at the end.
    NoPort,
    /// The port is not a number from 1 to 65535.
    BadPort,
    /// Nothing before the port.
    NoHost,
    /// The host has characters that no host name or IP address has.
    BadHost,
    /// A scheme other than `http://`.
    Scheme,
}

impl Endpoint {
    /// The host, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let text = text.strip_prefix("http://").unwrap_or(text);
        if text.contains("://") {
            return Err(EndpointError::Scheme);
        }
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::NoPort)?;
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(EndpointError::BadPort);
        }
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(EndpointError::BadPort)?;
        if host.is_empty() {
            return Err(EndpointError::NoHost);
        }
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let address = rest.strip_suffix(']').ok_or(EndpointError::BadHost)?;
                // A zone (`%eth0`) is legal in a link-local address and kept for the resolver.
                let (bare, zone) = match address.split_once('%') {
                    Some((bare, zone)) => (bare, Some(zone)),
                    None => (address, None),
                };
                bare.parse::<Ipv6Addr>().map_err(|_| EndpointError::BadHost)?;
                if !zone.is_none_or(is_zone) {
                    return Err(EndpointError::BadHost);
                }
                address
            }
            None if host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) => {
                host
            }
            None => return Err(EndpointError::BadHost),
        };
        Ok(Self { host: host.into(), port })
    }
}

/// Whether a text may name a zone: the unreserved characters of RFC 6874, none of them escaped. Whoever prints the endpoint
/// into a header, a log line or a command then needs no escaping either.
fn is_zone(text: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    (1..=MAX_ZONE).contains(&text.len()) && text.bytes().all(unreserved)
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPort => "it has no :port",
            Self::BadPort => "its port is not a number from 1 to 65535",
            Self::NoHost => "it has no host",
            Self::BadHost => "its host is neither a name nor an IP address",
            Self::Scheme => "it has a scheme; give host:port",
        })
    }
}

impl std::error::Error for EndpointError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_targets_parse_and_print_back() {
        for (text, host, port, printed) in [
            ("10.0.0.7:8000", "10.0.0.7", 8000, "10.0.0.7:8000"),
            (" prefill-0.pool.svc:8000 ", "prefill-0.pool.svc", 8000, "prefill-0.pool.svc:8000"),
            ("http://10.0.0.7:1", "10.0.0.7", 1, "10.0.0.7:1"),
            ("[2001:db8::7]:65535", "2001:db8::7", 65535, "[2001:db8::7]:65535"),
            ("[fe80::1%eth0]:80", "fe80::1%eth0", 80, "[fe80::1%eth0]:80"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!((endpoint.host(), endpoint.port()), (host, port), "{text}");
            assert_eq!(endpoint.to_string(), printed);
        }
    }

    #[test]
    fn a_zone_is_the_name_of_an_interface_and_nothing_else() {
        let parse = |zone: &str| format!("[fe80::1%{zone}]:80").parse::<Endpoint>();
        let longest = "z".repeat(MAX_ZONE);
        for zone in ["eth0", "1", "br-lan.7", "a_b~c", &longest] {
            assert_eq!(parse(zone).unwrap().to_string(), format!("[fe80::1%{zone}]:80"));
        }
        let longer = "z".repeat(MAX_ZONE + 1);
        for zone in ["", "a b", "b@c", "c/d", "%eth0", "25eth0%", "a]", "a\0", "a\r\nb", "\u{e9}", &longer] {
            assert_eq!(parse(zone), Err(EndpointError::BadHost), "{zone:?}");
        }
    }

    #[test]
    fn unusable_targets_say_why() {
        for (text, error) in [
            ("", EndpointError::NoPort),
            ("10.0.0.7", EndpointError::NoPort),
            ("10.0.0.7:", EndpointError::BadPort),
            ("10.0.0.7:0", EndpointError::BadPort),
            ("10.0.0.7:65536", EndpointError::BadPort),
            ("10.0.0.7:+80", EndpointError::BadPort),
            ("10.0.0.7:http", EndpointError::BadPort),
            (":8000", EndpointError::NoHost),
            ("2001:db8::7:8000", EndpointError::BadHost),
            ("[2001:db8::7:8000", EndpointError::BadHost),
            ("a b:80", EndpointError::BadHost),
            ("host/path:80", EndpointError::BadHost),
            ("user@host:80", EndpointError::BadHost),
            ("https://host:443", EndpointError::Scheme),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(error), "{text}");
        }
    }
}
