//! The columns: every way to hand a request over, each with the engines and flags that it needs.

use std::time::Duration;

use kvferry_emulator::{Config, Emulator, Role, SharedStore};
use serde_json::{Value, json};

use crate::common::{APIS, LEASE, prompt};
use crate::hosts::own_host;

/// Tokens of a reply that ends by itself, as only such replies are continued from.
const REPLY: usize = 8;

/// The session token of an earlier turn: base64 of `llm/decode-0-rank-0`.
pub(crate) const SESSION: &str = "bGxtL2RlY29kZS0wLXJhbmstMA==";

/// A way to hand a request over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// `nixlv2`, one leg after the other: decode pulls.
    Nixl,
    /// `nixlv2` with the first token sent ahead of decode.
    FirstToken,
    /// `nixlv2` with decode in chunks.
    Chunked,
    /// `nixlv2` with KV that goes back: the second turn of a chat, whose prefill reads the first from decode.
    Bidirectional,
    /// `nixlv2` in push mode, to a prefill engine that is known.
    Push,
    /// `nixlv2` with MoRI-IO's WRITE mode, one leg after the other.
    MoriIo,
    /// The same with both legs at once.
    MoriIoParallel,
    /// `atom`.
    Atom,
    /// `mooncake`.
    Mooncake,
    /// `sglang`.
    Sglang,
    /// `offloading`.
    Offloading,
    /// `shared-storage`.
    Shared,
    /// `shared-storage` with a decode engine that is asked first.
    DecodeFirst,
}

use Column::{
    Atom, Bidirectional, Chunked, DecodeFirst, FirstToken, Mooncake, MoriIo, MoriIoParallel, Nixl,
    Offloading, Push, Sglang, Shared,
};

impl Column {
    pub(crate) const ALL: [Self; 13] = [
        Nixl,
        FirstToken,
        Chunked,
        Bidirectional,
        Push,
        MoriIo,
        MoriIoParallel,
        Atom,
        Mooncake,
        Sglang,
        Offloading,
        Shared,
        DecodeFirst,
    ];

    /// As the document calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Nixl => "nixlv2",
            FirstToken => "nixlv2, first token ahead",
            Chunked => "nixlv2, chunked decode",
            Bidirectional => "nixlv2, bidirectional",
            Push => "nixlv2, push",
            MoriIo => "nixlv2, MoRI-IO",
            MoriIoParallel => "nixlv2, MoRI-IO parallel",
            Atom => "atom",
            Mooncake => "mooncake",
            Sglang => "sglang",
            Offloading => "offloading",
            Shared => "shared-storage",
            DecodeFirst => "shared-storage, decode first",
        }
    }

    /// The flags of a sidecar between these engines.
    pub(crate) fn flags(self, prefill: &Emulator, decode: &Emulator) -> Vec<String> {
        let connector = |name: &str| format!("--kv-connector={name}");
        match self {
            Nixl => vec![connector("nixlv2")],
            FirstToken => vec!["--first-token-forwarding".to_owned()],
            Chunked => vec!["--decode-chunk-size=4".to_owned()],
            Bidirectional => {
                ["--bidirectional-kv", "--pod-namespace=llm", "--pod-name=decode-0"].map(str::to_owned).into()
            }
            Push => vec!["--nixl-push-mode".to_owned()],
            MoriIo | MoriIoParallel => {
                let mut flags = vec![
                    "--moriio-write-mode".to_owned(),
                    "--moriio-local-pod-ip=127.0.0.1".to_owned(),
                    format!("--moriio-decode-notify-port={}", decode.notify_port()),
                    format!("--moriio-prefill-handshake-port={}", prefill.kv_port()),
                ];
                flags.extend((self == MoriIoParallel).then(|| "--moriio-parallel-dispatch".to_owned()));
                flags
            }
            Atom => vec![connector("atom")],
            Mooncake => {
                vec![connector("mooncake"), format!("--mooncake-bootstrap-port={}", prefill.bootstrap_port())]
            }
            Sglang => vec![connector("sglang")],
            Offloading => {
                vec![connector("offloading"), format!("--p2p-connector-port={}", prefill.p2p_port())]
            }
            Shared | DecodeFirst => vec![connector("shared-storage")],
        }
    }

    /// Prefill and decode. Prefill keeps KV for `lease` if nobody comes for it.
    pub(crate) fn engines(self, lease: Duration) -> (Config, Config) {
        let mut prefill = Config { kv_lease: lease, abort_timeout: lease, ..engine(Role::Prefill) };
        let mut decode = engine(Role::Decode);
        match self {
            // Where its bootstrap server is cannot be said by a flag.
            Sglang => (prefill.host, prefill.bootstrap_port) = (own_host(), 8998),
            Bidirectional => (decode.decoder_kv_ttl, decode.stop_after) = (Some(LEASE), Some(REPLY)),
            Shared | DecodeFirst => {
                let store = SharedStore::in_memory();
                (prefill.shared_store, decode.shared_store) = (Some(store.clone()), Some(store));
            }
            _ => {}
        }
        (prefill, decode)
    }

    /// The API that the client uses. Releases go by another path, so a fault on this one leaves them alone.
    pub(crate) fn path(self) -> &'static str {
        if self == FirstToken { APIS[4].path } else { APIS[0].path }
    }

    /// What the client asks for.
    pub(crate) fn body(self, stream: bool, tokens: usize) -> Value {
        if self == FirstToken {
            let mut body = APIS[4].value(&prompt(80), tokens, stream);
            // Only of a greedy answer the first token is certain.
            body["sampling_params"]["temperature"] = 0.into();
            return body;
        }
        let mut body = json!({"model": "tiny", "max_tokens": tokens, "stream": stream,
            "messages": [{"role": "user", "content": prompt(80)}]});
        if self == DecodeFirst {
            body["cache_hit_threshold"] = 0.5.into();
        }
        body
    }

    /// `body` as the turn that follows it and its `reply`.
    pub(crate) fn next_turn(mut body: Value, reply: &str) -> Value {
        let turns = body["messages"].as_array_mut().unwrap();
        turns.push(json!({"role": "assistant", "content": reply}));
        turns.push(json!({"role": "user", "content": prompt(60)}));
        // As long as it was asked to be, for what happens in the middle of it.
        body["ignore_eos"] = true.into();
        body
    }

    /// Whether this engine does and holds nothing. What decode keeps for a chat's next turn is not the sidecar's to free.
    pub(crate) fn is_idle(self, engine: &Emulator) -> bool {
        let state = engine.state();
        let keeps = self == Bidirectional && state.role == Role::Decode.as_str();
        let nothing_runs =
            state.requests.running + state.requests.waiting == 0 && state.blocks.held.running == 0;
        state.idle() || keeps && nothing_runs
    }

    /// Whether the ledger knows of its KV.
    pub(crate) fn is_accounted_for(self) -> bool {
        !matches!(self, Sglang | Offloading | Shared | DecodeFirst)
    }

    /// Whether decode is sent before prefill has answered.
    pub(crate) fn overlaps(self) -> bool {
        matches!(self, Push | MoriIoParallel | Mooncake | Sglang)
    }
}

/// An engine that waits for another for as long as it takes: whatever ends, the sidecar ended.
fn engine(role: Role) -> Config {
    Config { role, kv_lease: LEASE, rendezvous_timeout: LEASE, ..Config::default() }
}
