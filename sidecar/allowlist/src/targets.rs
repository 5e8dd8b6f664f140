//! The set of pods and ports that may be dialled, built once and never changed: a change is a new set.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use kvferry_contract::Endpoint;

use crate::host::Host;

/// Every host of the pool, and the ports that all of them serve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Targets {
    hosts: HashSet<Host>,
    ports: BTreeSet<u16>,
    endpoints: Arc<[Endpoint]>,
}

impl Targets {
    /// A set for hosts that serve these ports; without ports it allows nothing.
    pub fn with_ports(ports: BTreeSet<u16>) -> TargetsBuilder {
        TargetsBuilder { hosts: HashSet::new(), addresses: BTreeSet::new(), ports }
    }

    /// Whether this host may be dialled on this port.
    pub fn allows(&self, host: &Host, port: u16) -> bool {
        self.ports.contains(&port) && self.hosts.contains(host)
    }

    /// Every address with every port, sorted: what can be dialled without asking a resolver.
    pub fn endpoints(&self) -> &Arc<[Endpoint]> {
        &self.endpoints
    }
}

/// Collects the hosts of a [`Targets`].
#[derive(Debug)]
pub struct TargetsBuilder {
    hosts: HashSet<Host>,
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl TargetsBuilder {
    /// One more pod, by its name and all of its addresses.
    #[must_use]
    pub fn pod(mut self, name: &str, addresses: &[IpAddr]) -> Self {
        self.hosts.insert(Host::new(name));
        for address in addresses {
            self.hosts.insert(Host::from(*address));
            self.addresses.insert(address.to_canonical());
        }
        self
    }

    /// The finished set.
    pub fn build(self) -> Targets {
        let endpoints = self
            .addresses
            .iter()
            .flat_map(|address| self.ports.iter().map(|port| format!("{}:{port}", Host::from(*address))))
            .filter_map(|text| text.parse().ok())
            .collect();
        Targets { hosts: self.hosts, ports: self.ports, endpoints }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(targets: &Targets, text: &str) -> bool {
        let endpoint: Endpoint = text.parse().unwrap();
        targets.allows(&Host::new(endpoint.host()), endpoint.port())
    }

    fn two_pods() -> Targets {
        Targets::with_ports(BTreeSet::from([8000, 8001]))
            .pod("prefill-0", &["10.0.0.7".parse().unwrap(), "2001:db8::7".parse().unwrap()])
            .pod("prefill-1", &["10.0.0.8".parse().unwrap()])
            .build()
    }

    #[test]
    fn a_pod_is_known_by_its_name_and_every_address_on_the_pools_ports_only() {
        for text in ["10.0.0.7:8000", "10.0.0.8:8001", "[2001:db8:0::7]:8000", "Prefill-1:8000"] {
            assert!(allows(&two_pods(), text), "{text}");
        }
        for text in ["10.0.0.7:22", "10.0.0.9:8000", "[2001:db8::7]:6443", "prefill-2:8000", "prefill-0:80"] {
            assert!(!allows(&two_pods(), text), "{text}");
        }
    }

    #[test]
    fn the_endpoints_are_every_address_with_every_port() {
        let endpoints: Vec<_> = two_pods().endpoints().iter().map(ToString::to_string).collect();
        let expected = ["10.0.0.7:8000", "10.0.0.7:8001", "10.0.0.8:8000", "10.0.0.8:8001"];
        assert_eq!(endpoints[..4], expected);
        assert_eq!(endpoints[4..], ["[2001:db8::7]:8000", "[2001:db8::7]:8001"]);
    }

    #[test]
    fn an_empty_set_allows_nothing() {
        assert!(!allows(&Targets::default(), "10.0.0.7:8000"));
    }
}
