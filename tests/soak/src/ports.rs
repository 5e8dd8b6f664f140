//! Ports that stay free while their owner is down for a moment.
//!
//! They lie below the range from which the system takes the ports of outgoing connections: a soak opens thousands of
//! those, and one of them would sooner or later sit on the port of an engine that is just being restarted.

use std::net::{Ipv4Addr, TcpListener};

use crate::Result;

/// First port that is tried.
const FIRST: u16 = 20_000;

/// The system's usual first port for outgoing connections is 32768.
const LAST: u16 = 32_000;

/// Hands out ports, each once.
pub(crate) struct Ports(u16);

impl Ports {
    /// Starts at a place of its own for every process, so that two soaks on one machine do not race.
    pub(crate) fn new() -> Self {
        let spread = std::process::id() % u32::from(LAST - FIRST);
        Self(FIRST + u16::try_from(spread).expect("a remainder of a u16"))
    }

    /// The next port on which nobody listens.
    ///
    /// # Errors
    /// All are taken.
    pub(crate) fn next(&mut self) -> Result<u16> {
        for _ in FIRST..LAST {
            self.0 = if self.0 + 1 >= LAST { FIRST } else { self.0 + 1 };
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, self.0)).is_ok() {
                return Ok(self.0);
            }
        }
        Err(format!("no free port from {FIRST} to {LAST}").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_handed_out_once() {
        let mut ports = Ports::new();
        let some: std::collections::HashSet<u16> = (0..20).map(|_| ports.next().unwrap()).collect();
        assert_eq!(some.len(), 20);
        assert!(some.iter().all(|port| (FIRST..LAST).contains(port)));
    }
}
