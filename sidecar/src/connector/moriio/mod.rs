//! `nixlv2` with MoRI-IO's WRITE mode (spec/sidecar.md 3.2 and 12.4): the prefill engine writes KV into the decode engine's
//! blocks, under a transfer id that both legs carry.
//!
//! Serially, decode is told what prefill returned; in parallel, both legs start at once and decode is told what the flags
//! say. Either way the transfer id is chosen here, so KV can be released whether or not prefill ever answers.
//!
//! - [`ranks`]: which data-parallel rank serves a leg, and what its pod calls it
//! - [`resolver`] over [`names`]: hosts that are given by name, while requests go on
//! - [`wire`]: the `kv_transfer_params` of both legs

mod names;
mod options;
mod parallel;
pub(super) mod ranks;
mod resolver;
mod serial;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvferry_contract::Endpoint;

use super::nixlv2::KV;
use super::source::{self, Tier};
use super::{Attempt, Connector, Options, Outgoing, PrefillLimits, Unusable, fresh};
use crate::request::Asked;

pub use options::{Host, MoriIoOptions};

use ranks::Ranks;
use resolver::Resolver;

/// The connector. `options` must say where this pod is.
pub(super) fn connector(options: &Options) -> Arc<dyn Connector> {
    let moriio = options.moriio.clone();
    Arc::new(MoriIo(Arc::new(Write {
        limits: options.prefill_limits,
        tier: options.p2p_pull.then(|| Tier::new(options)),
        ranks: Ranks::new(moriio.dp_size, moriio.dp_size_local),
        resolver: Resolver::new(&moriio, options.metrics.clone()),
        options: moriio,
    })))
}

#[derive(Debug)]
struct MoriIo(Arc<Write>);

/// What all attempts share.
#[derive(Debug)]
struct Write {
    limits: PrefillLimits,
    tier: Option<Tier>,
    ranks: Ranks,
    resolver: Resolver,
    options: MoriIoOptions,
}

/// What one attempt is made from.
#[derive(Debug)]
struct Ids {
    write: Arc<Write>,
    transfer_id: String,
    /// By the hash of the request's id, in the group.
    rank: u32,
    prefill: Endpoint,
    /// Another cache that prefill may pull from.
    source: Option<source::Peer>,
}

impl Connector for MoriIo {
    fn watch(&self) -> &'static [&'static str] {
        &[KV]
    }

    /// Its KV is named by the transfer id, so nothing is learned by waiting for prefill's answer.
    fn cancels_at_once(&self) -> bool {
        true
    }

    fn patience(&self) -> Option<Duration> {
        let options = &self.0.options;
        options.parallel_dispatch.then_some(options.parallel_decode_wait_timeout)
    }

    fn known_timeout(&self) -> Option<&'static str> {
        const TEXT: &str =
            "decode aborted: prefill did not complete within the MoRI-IO parallel-dispatch KV-wait timeout";
        self.0.options.parallel_dispatch.then_some(TEXT)
    }

    fn pulls_from_source(&self) -> bool {
        self.0.tier.is_some()
    }

    fn begin(
        &self,
        asked: &Asked,
        target: &Endpoint,
        _answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable> {
        let write = &self.0;
        let ids = Ids {
            write: Arc::clone(write),
            // The prefix is MoRI-IO's: it tells its messages apart by it.
            transfer_id: format!("tx{}", fresh::id()),
            rank: write.ranks.hashed(asked.id.as_bytes()),
            prefill: target.clone(),
            source: write.tier.as_ref().and_then(|tier| tier.for_prefill(asked, target)),
        };
        Ok(if write.options.parallel_dispatch {
            Box::new(parallel::Parallel::new(ids))
        } else {
            Box::new(serial::Serial::new(ids))
        })
    }

    fn alone(&self, asked: &Asked) -> Option<Outgoing> {
        self.0.tier.as_ref()?.alone(asked)
    }
}

impl Write {
    /// Where prefill writes to.
    fn this_pod(&self) -> String {
        self.options.local_pod.as_ref().map_or_else(String::new, |pod| self.resolver.host(pod).to_string())
    }

    fn addresses(&self, hosts: &[Host]) -> Vec<String> {
        hosts.iter().map(|host| self.resolver.host(host).to_string()).collect()
    }

    /// Which of the prefill group's pods `host` is, counted from 0.
    fn pod_of(&self, host: &str) -> Option<usize> {
        let address = self.resolver.address(host).map(|address| address.to_canonical());
        self.options.remote_hosts.iter().position(|pod| {
            let known: IpAddr = self.resolver.host(pod).to_canonical();
            pod.name.eq_ignore_ascii_case(host) || address == Some(known)
        })
    }

    /// Ranks of one pod, as engines are told where several pods make a group.
    fn told_per_pod(&self, hosts: &[Host]) -> Option<u32> {
        self.options.dp_size_local.filter(|_| !hosts.is_empty())
    }
}
