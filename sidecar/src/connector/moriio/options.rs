//! What the operator sets for MoRI-IO, under the flags' names (spec/sidecar.md 1.2).

use std::net::IpAddr;
use std::time::Duration;

/// A host, and the address it had at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As given: an address, or a name to look up again.
    pub name: String,
    /// At start.
    pub address: IpAddr,
}

/// MoRI-IO's flags, without their prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoriIoOptions {
    /// Prefill engines write KV into decode engines.
    pub write_mode: bool,
    /// Both legs at once. Only in write mode.
    pub parallel_dispatch: bool,
    /// How long decode then waits for prefill; above 0.
    pub parallel_decode_wait_timeout: Duration,
    /// Notify port of rank 0 of the decode engine.
    pub decode_notify_port: u16,
    /// Handshake port of rank 0 of the decode engine.
    pub decode_handshake_port: u16,
    /// Notify port of rank 0 of prefill engines.
    pub prefill_notify_port: u16,
    /// Handshake port of rank 0 of prefill engines.
    pub prefill_handshake_port: u16,
    /// Tensor-parallel size of the engines, at least 1.
    pub tp_size: u32,
    /// Data-parallel ranks of one group over all its pods, at least 1.
    pub dp_size: u32,
    /// Ranks in each pod, at least 1; `None`: all are in one.
    pub dp_size_local: Option<u32>,
    /// This pod. There is one in write mode.
    pub local_pod: Option<Host>,
    /// Pods of a prefill group, in the order of their ranks.
    pub remote_hosts: Vec<Host>,
    /// Pods of a decode group, in the order of their ranks.
    pub decode_hosts: Vec<Host>,
    /// How long an address of a host is trusted (`MORIIO_DNS_RESOLVE_TTL_SECONDS`).
    pub dns_ttl: Duration,
    /// How long looking a host up may take (`MORIIO_DNS_RESOLVE_TIMEOUT_SECONDS`).
    pub dns_timeout: Duration,
}

impl Default for MoriIoOptions {
    fn default() -> Self {
        Self {
            write_mode: false,
            parallel_dispatch: false,
            parallel_decode_wait_timeout: Duration::from_secs(30),
            decode_notify_port: 61005,
            decode_handshake_port: 6301,
            prefill_notify_port: 61005,
            prefill_handshake_port: 6301,
            tp_size: 1,
            dp_size: 1,
            dp_size_local: None,
            local_pod: None,
            remote_hosts: Vec::new(),
            decode_hosts: Vec::new(),
            dns_ttl: Duration::from_secs(30),
            dns_timeout: Duration::from_secs(5),
        }
    }
}
