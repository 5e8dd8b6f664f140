//! Pulls between caches: vLLM's P2P tier, through which engines serve cached KV to each other, and the source that the
//! scheduler may name as holding a part of the prompt (spec/sidecar.md 3.6).
//!
//! A source is an engine as the scheduler knows it, that is by the port of its sidecar. Its tier listens elsewhere; this
//! file says where.

use std::net::IpAddr;

use bytes::Bytes;
use kvferry_contract::Endpoint;
use kvferry_splice::Edits;
use serde::Serialize;

use super::nixlv2::KV;
use super::{Options, Outgoing, fresh};
use crate::request::Asked;

/// The tier, as the flags describe it. It is the same on all pods.
#[derive(Debug)]
pub(super) struct Tier {
    /// Where rank 0 serves; rank `r` is `r` above.
    first: u16,
    /// The sidecar's port of rank 0; 0 if unknown.
    port: u16,
    ranks: u16,
    pod_ip: Option<String>,
}

/// Where KV lies in a tier, and under which id.
#[derive(Debug, Serialize)]
pub(super) struct Peer {
    kv_request_id: String,
    remote_host: String,
    remote_port: u16,
}

impl Tier {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            first: options.p2p_port,
            port: options.port,
            ranks: options.ranks,
            pod_ip: options.pod_ip.clone(),
        }
    }

    /// The entry of `engine` for the KV called `id`.
    pub(super) fn peer(&self, engine: &Endpoint, id: String) -> Peer {
        Peer { kv_request_id: id, remote_host: engine.host().to_owned(), remote_port: self.port_of(engine) }
    }

    /// The source that a prefill at `target` can pull from. Nobody pulls from itself.
    pub(super) fn for_prefill(&self, asked: &Asked, target: &Endpoint) -> Option<Peer> {
        let source = asked.kv_source.as_deref().filter(|source| !same(source, target))?;
        Some(self.peer(source, fresh::id()))
    }

    /// The leg of a decode engine that computes the prompt itself and may pull from the source before.
    pub(super) fn alone(&self, asked: &Asked) -> Option<Outgoing> {
        let source = asked.kv_source.as_deref().filter(|source| !self.is_ours(source, asked.port))?;
        let peer = self.peer(source, fresh::id());
        Some(asked.edit(Edits::new().set(KV, extend("{}", Some(&peer)))))
    }

    /// Where the engine's tier listens. The sidecar of rank `r` listens `r` above rank 0's, so a port in that range tells
    /// the rank; any other belongs to an engine without ranks.
    fn port_of(&self, engine: &Endpoint) -> u16 {
        let rank = engine.port().checked_sub(self.port).filter(|rank| *rank < self.ranks && self.port > 0);
        self.first.saturating_add(rank.unwrap_or(0))
    }

    fn is_ours(&self, source: &Endpoint, port: u16) -> bool {
        source.port() == port && self.pod_ip.as_deref().is_some_and(|ip| same_host(ip, source.host()))
    }
}

/// The JSON object `params` with the source in it.
pub(super) fn extend(params: impl Into<Bytes>, source: Option<&Peer>) -> Bytes {
    let params = params.into();
    let Some(source) = source else { return params };
    let inside = params.strip_suffix(b"}").expect("the parameters are an object of ours");
    let comma: &[u8] = if inside == b"{" { b"" } else { b"," };
    let source = serde_json::to_vec(source).expect("texts and a number are JSON");
    [inside, comma, b"\"remote_kv_source\":", &source, b"}"].concat().into()
}

/// Whether both name the same engine.
fn same(one: &Endpoint, other: &Endpoint) -> bool {
    one.port() == other.port() && same_host(one.host(), other.host())
}

/// Addresses are the same in all of their spellings, names in upper and lower case.
fn same_host(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one.to_canonical() == other.to_canonical(),
        _ => one.eq_ignore_ascii_case(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn only_engines_with_a_tier_can_pull_from_a_source() {
        for (connector, p2p_pull, expected) in [
            ("offloading", false, true),
            ("nixlv2", true, true),
            ("nixlv2", false, false),
            // The flag is nixlv2's.
            ("sglang", true, false),
            ("mooncake", true, false),
            ("atom", true, false),
        ] {
            let options = Options { p2p_pull, ..Options::default() };
            let connector = super::super::by_name(connector, &options).unwrap();
            assert_eq!(connector.pulls_from_source(), expected, "{connector:?} {p2p_pull}");
        }
    }

    #[test]
    fn the_port_of_a_tier_follows_from_the_rank_in_the_engines_port() {
        for (ranks, port, engine, expected) in [
            (4, 8000, "10.0.0.5:8000", 7777),
            (4, 8000, "10.0.0.5:8002", 7779),
            (4, 8000, "10.0.0.5:8003", 7780),
            (4, 8000, "http://10.0.0.5:8002", 7779),
            (4, 8000, "[fd00::5]:8001", 7778),
            // No rank's port.
            (4, 8000, "10.0.0.5:7999", 7777),
            (4, 8000, "10.0.0.5:8004", 7777),
            // No ranks, or no port to count from.
            (1, 8000, "10.0.0.5:8003", 7777),
            (4, 0, "10.0.0.5:2", 7777),
            (4, 0, "10.0.0.5:8002", 7777),
        ] {
            let options = Options { p2p_port: 7777, port, ranks, ..Options::default() };
            assert_eq!(Tier::new(&options).port_of(&endpoint(engine)), expected, "{ranks} {port} {engine}");
        }
    }

    #[test]
    fn an_engine_is_the_same_however_it_is_spelled() {
        for (one, other, expected) in [
            ("10.0.0.5:8000", "10.0.0.5:8000", true),
            ("http://10.0.0.5:8000", " 10.0.0.5:8000", true),
            ("[2001:db8::7]:8000", "[2001:0db8:0:0:0:0:0:7]:8000", true),
            ("[::ffff:10.0.0.5]:8000", "10.0.0.5:8000", true),
            ("Prefill-0.pool.svc:8000", "prefill-0.pool.svc:8000", true),
            // Another rank of the same pod is another engine.
            ("10.0.0.5:8000", "10.0.0.5:8001", false),
            ("10.0.0.5:8000", "10.0.0.6:8000", false),
            ("[2001:db8::7]:8000", "[2001:db8::8]:8000", false),
        ] {
            assert_eq!(same(&endpoint(one), &endpoint(other)), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_sidecar_knows_the_port_that_a_request_came_to_as_its_own() {
        let tier = |pod_ip: Option<&str>| {
            Tier::new(&Options { pod_ip: pod_ip.map(Into::into), ..Options::default() })
        };
        for (pod_ip, source, port, expected) in [
            (Some("10.9.9.9"), "10.9.9.9:8000", 8000, true),
            (Some("10.9.9.9"), "10.9.9.9:8000", 8001, false),
            (Some("10.9.9.8"), "10.9.9.9:8000", 8000, false),
            (Some("fd00:0::9"), "[fd00::9]:8000", 8000, true),
            (None, "10.9.9.9:8000", 8000, false),
        ] {
            assert_eq!(tier(pod_ip).is_ours(&endpoint(source), port), expected, "{pod_ip:?} {source} {port}");
        }
    }

    #[test]
    fn a_source_is_added_to_parameters_as_json_whatever_its_host() {
        let odd = endpoint("[fe80::1%eth0]:8001");
        let tier = Tier::new(&Options { ranks: 2, ..Options::default() });
        let peer = tier.peer(&odd, "id".into());
        let source =
            r#""remote_kv_source":{"kv_request_id":"id","remote_host":"fe80::1%eth0","remote_port":7778}"#;
        assert_eq!(extend("{}", Some(&peer)), format!("{{{source}}}"));
        assert_eq!(extend("{\"a\":1}", Some(&peer)), format!("{{\"a\":1,{source}}}"));
        assert_eq!(extend("{\"a\":1}", None), "{\"a\":1}");
    }
}
