//! Routing headers: the scheduler sets them, the sidecar obeys and removes them.
//!
//! Each has an old and a new spelling. The scheduler writes both; the sidecar reads the old one first, because every
//! scheduler overwrites or strips the old name, while older ones would let a client's forged new name through.

/// One routing header under both of its names, lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutingHeader {
    /// The name that every scheduler knows; it wins when both are present.
    pub old: &'static str,
    /// The later name; the same as `old` where there never was a second one.
    pub new: &'static str,
}

/// `host:port` of the prefill worker, or a list of candidates with the first one primary.
pub const PREFILLER: RoutingHeader =
    RoutingHeader { old: "x-prefiller-host-port", new: "x-llm-d-prefiller-host-port" };

/// `host:port` list of encode workers.
pub const ENCODERS: RoutingHeader =
    RoutingHeader { old: "x-encoder-hosts-ports", new: "x-llm-d-encoder-hosts-ports" };

/// `host:port` of an engine that already holds KV cache of this prompt.
pub const KV_SOURCE: RoutingHeader =
    RoutingHeader { old: "x-kv-cache-source-host-port", new: "x-llm-d-kv-cache-source-host-port" };

/// `host:port` of the data-parallel rank to use; deprecated, never renamed.
pub const DATA_PARALLEL: RoutingHeader =
    RoutingHeader { old: "x-data-parallel-host-port", new: "x-data-parallel-host-port" };

/// `true` asks to prefill a chat's next turn as far as it is known, once this one is answered; never renamed.
pub const SPECULATIVE_PREFILL: RoutingHeader =
    RoutingHeader { old: "x-speculative-prefill", new: "x-speculative-prefill" };

/// Every routing header: none of them may reach an engine, on any route.
pub const ALL: [RoutingHeader; 5] = [PREFILLER, ENCODERS, KV_SOURCE, DATA_PARALLEL, SPECULATIVE_PREFILL];

/// The id that joins a request's legs in the engines' logs. Upstream sees exactly one value.
pub const REQUEST_ID: &str = "x-request-id";
