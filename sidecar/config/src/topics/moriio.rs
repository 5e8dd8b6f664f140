//! MoRI-IO's WRITE mode: where engines' notifications go, and which pods the ranks of a wide group live in.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::environment::Environment;
use super::handoff::{Handoff, KV_CONNECTOR, NIXLV2};
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::go;
use crate::values::Values;
use crate::world::World;

pub(crate) const WRITE_MODE: &str = "moriio-write-mode";
const DECODE_NOTIFY_PORT: &str = "moriio-decode-notify-port";
const DECODE_HANDSHAKE_PORT: &str = "moriio-decode-handshake-port";
const LOCAL_POD_IP: &str = "moriio-local-pod-ip";
const PARALLEL_DISPATCH: &str = "moriio-parallel-dispatch";
const PARALLEL_WAIT: &str = "moriio-parallel-decode-wait-timeout";
const PREFILL_HANDSHAKE_PORT: &str = "moriio-prefill-handshake-port";
const PREFILL_NOTIFY_PORT: &str = "moriio-prefill-notify-port";
const TP_SIZE: &str = "moriio-tp-size";
const DP_SIZE: &str = "moriio-dp-size";
const DP_SIZE_LOCAL: &str = "moriio-dp-size-local";
const REMOTE_HOSTS: &str = "moriio-remote-hosts";
const DECODE_HOSTS: &str = "moriio-decode-hosts";

/// Of a prefill limited to one token, and the fallback for 0 and less.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

pub(crate) const MORIIO: Group = Group {
    heading: "MoRI-IO",
    flags: &[
        Flag::bool(WRITE_MODE, false, "Prefill engines write KV with RDMA; only with nixlv2"),
        Flag::text(LOCAL_POD_IP, "HOST", "", "This pod's address or name, to which they write").env("POD_IP"),
        Flag::bool(PARALLEL_DISPATCH, false, "Send both legs at once; needs --moriio-write-mode"),
        Flag::duration(PARALLEL_WAIT, "30s", "How long decode then waits for prefill; 0 or less: 30s"),
        Flag::port(DECODE_NOTIFY_PORT, "61005", "Notify port of rank 0 of the decode engine"),
        Flag::port(DECODE_HANDSHAKE_PORT, "6301", "Handshake port of rank 0 of the decode engine"),
        Flag::port(PREFILL_NOTIFY_PORT, "61005", "Notify port of rank 0 of prefill engines"),
        Flag::port(PREFILL_HANDSHAKE_PORT, "6301", "Handshake port of rank 0 of prefill engines"),
        Flag::integer(TP_SIZE, "1", "Tensor-parallel size of the engines"),
        Flag::integer(DP_SIZE, "1", "Data-parallel ranks of one group, over all its pods"),
        Flag::integer(DP_SIZE_LOCAL, "0", "Data-parallel ranks in each pod; 0: all are in one"),
        Flag::list(REMOTE_HOSTS, "HOSTS", "Pods of a prefill group, in the order of their ranks"),
        Flag::list(DECODE_HOSTS, "HOSTS", "Pods of a decode group, in the order of their ranks"),
    ],
};

/// A host, and the address it had at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As given: an address, or a name to look up again later.
    pub name: String,
    /// At start.
    pub address: IpAddr,
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name)
    }
}

/// MoRI-IO's WRITE mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Moriio {
    /// Prefill engines write KV. There is a `moriio_local_pod_ip` then.
    pub moriio_write_mode: bool,
    /// This pod, to which they write.
    pub moriio_local_pod_ip: Option<Host>,
    /// Both legs at once. Only in WRITE mode.
    pub moriio_parallel_dispatch: bool,
    /// How long decode then waits for prefill; above 0.
    #[serde(serialize_with = "go::serialize")]
    pub moriio_parallel_decode_wait_timeout: Duration,
    /// Notify port of rank 0 of the decode engine.
    pub moriio_decode_notify_port: NonZeroU16,
    /// Handshake port of rank 0 of the decode engine.
    pub moriio_decode_handshake_port: NonZeroU16,
    /// Notify port of rank 0 of prefill engines.
    pub moriio_prefill_notify_port: NonZeroU16,
    /// Handshake port of rank 0 of prefill engines.
    pub moriio_prefill_handshake_port: NonZeroU16,
    /// Tensor-parallel size of the engines.
    pub moriio_tp_size: NonZeroU32,
    /// Data-parallel ranks of one group, over all its pods.
    pub moriio_dp_size: NonZeroU32,
    /// Ranks in each pod; `None`: all are in one.
    pub moriio_dp_size_local: Option<NonZeroU32>,
    /// Pods of a prefill group. Of several, each has `moriio_dp_size_local` ranks.
    pub moriio_remote_hosts: Vec<Host>,
    /// Pods of a decode group. Of several, each has `moriio_dp_size_local` ranks.
    pub moriio_decode_hosts: Vec<Host>,
}

impl Moriio {
    pub(crate) fn read(
        values: &Values,
        handoff: &Handoff,
        environment: &Environment,
        world: &World<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Invalid> {
        let moriio_write_mode = values.bool(WRITE_MODE)?;
        let moriio_parallel_dispatch = values.bool(PARALLEL_DISPATCH)?;
        let local = values.optional(LOCAL_POD_IP);
        if moriio_write_mode && local.is_none() {
            return Err(Invalid::new(format!(
                "--{WRITE_MODE} requires --{LOCAL_POD_IP} or the environment variable POD_IP: prefill engines must \
                 know where to write"
            )));
        }
        if moriio_write_mode && handoff.kv_connector != NIXLV2 {
            warnings.push(format!("--{WRITE_MODE} has no effect without --{KV_CONNECTOR}={NIXLV2}"));
        }
        if moriio_parallel_dispatch && !moriio_write_mode {
            return Err(Invalid::new(format!("--{PARALLEL_DISPATCH} requires --{WRITE_MODE}")));
        }
        let moriio_dp_size = one_or_more(values, DP_SIZE)?.unwrap_or(NonZeroU32::MIN);
        let moriio_dp_size_local = one_or_more(values, DP_SIZE_LOCAL)?;
        let [remote, decode] = [REMOTE_HOSTS, DECODE_HOSTS].map(|flag| (flag, values.list(flag)));
        for (flag, hosts) in [&remote, &decode] {
            check_hosts(flag, hosts.len(), moriio_dp_size, moriio_dp_size_local)?;
        }
        let moriio_parallel_decode_wait_timeout =
            u64::try_from(values.nanos(PARALLEL_WAIT)?).map_or(DEFAULT_WAIT, |nanos| {
                if nanos == 0 { DEFAULT_WAIT } else { Duration::from_nanos(nanos) }
            });
        let mut moriio = Self {
            moriio_write_mode,
            moriio_local_pod_ip: None,
            moriio_parallel_dispatch,
            moriio_parallel_decode_wait_timeout,
            moriio_decode_notify_port: values.port(DECODE_NOTIFY_PORT)?,
            moriio_decode_handshake_port: values.port(DECODE_HANDSHAKE_PORT)?,
            moriio_prefill_notify_port: values.port(PREFILL_NOTIFY_PORT)?,
            moriio_prefill_handshake_port: values.port(PREFILL_HANDSHAKE_PORT)?,
            moriio_tp_size: values.positive(TP_SIZE)?,
            moriio_dp_size,
            moriio_dp_size_local,
            moriio_remote_hosts: Vec::new(),
            moriio_decode_hosts: Vec::new(),
        };
        let host = |flag: &str, name: &str| {
            resolve(flag, name, environment.moriio_dns_resolve_timeout_seconds, world)
        };
        let all = |(flag, names): (&str, Vec<&str>)| -> Result<Vec<Host>, Invalid> {
            names.into_iter().map(|name| host(flag, name)).collect()
        };
        moriio.moriio_remote_hosts = all(remote)?;
        moriio.moriio_decode_hosts = all(decode)?;
        moriio.moriio_local_pod_ip = local.map(|name| host(LOCAL_POD_IP, &name)).transpose()?;
        Ok(moriio)
    }
}

/// A count of which 0 and less mean "none", as engines' charts have it.
fn one_or_more(values: &Values, flag: &str) -> Result<Option<NonZeroU32>, Invalid> {
    let number = values.integer(flag)?.max(0);
    u32::try_from(number)
        .map(NonZeroU32::new)
        .map_err(|_| Invalid::new(format!("--{flag} is too large: {number}")))
}

/// Engines find the host of a rank at `rank / dp-size-local`, so every rank needs one and every host needs ranks.
fn check_hosts(flag: &str, hosts: usize, size: NonZeroU32, local: Option<NonZeroU32>) -> Result<(), Invalid> {
    if hosts <= 1 {
        return Ok(());
    }
    let Some(local) = local else {
        return Err(Invalid::new(format!(
            "--{flag} has {hosts} hosts, so it requires --{DP_SIZE_LOCAL} > 0: the ranks in each of them"
        )));
    };
    if !size.get().is_multiple_of(local.get()) {
        return Err(Invalid::new(format!(
            "--{DP_SIZE} ({size}) must be divisible by --{DP_SIZE_LOCAL} ({local}) as --{flag} has {hosts} hosts"
        )));
    }
    let needed = size.get() / local.get();
    if usize::try_from(needed) != Ok(hosts) {
        return Err(Invalid::new(format!(
            "--{flag} has {hosts} hosts but --{DP_SIZE} / --{DP_SIZE_LOCAL} is {needed}: give one host for each \
             {local} ranks"
        )));
    }
    Ok(())
}

fn resolve(flag: &str, name: &str, patience: Duration, world: &World<'_>) -> Result<Host, Invalid> {
    let name = name.to_owned();
    if let Ok(address) = name.parse() {
        return Ok(Host { name, address });
    }
    let unknown = |why: &str| Invalid::new(format!("cannot resolve --{flag} host {name:?}: {why}"));
    let addresses = (world.resolve)(&name, patience).map_err(|error| unknown(&error.to_string()))?;
    let address = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied();
    let address = address.ok_or_else(|| unknown("it has no address"))?;
    Ok(Host { name, address })
}
