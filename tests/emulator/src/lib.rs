//! An engine emulator: it speaks vLLM's HTTP API and keeps real KV bytes, without a model.
//!
//! It exists so that everything around an engine (proxying, handoff, release, failures) can be tested in
//! milliseconds and on any machine, and so that a dead data plane cannot pass: a decode emulator generates its
//! tokens *from the KV bytes it received*, so wrong, stale, short or missing KV changes the answer or is an
//! error. An engine that serves a request alone gives the same answer as a pair.
//!
//! ```no_run
//! # async fn test() -> std::io::Result<()> {
//! use kvferry_emulator::{Config, Emulator, Faults, Role};
//!
//! let prefill = Emulator::start(Config { role: Role::Prefill, ..Config::default() }).await?;
//! prefill.set_faults(Faults { status: Some(503), times: Some(1), ..Faults::default() });
//! let header = ("x-prefiller-host-port", prefill.host_port());
//! // ... send requests, then:
//! assert!(prefill.state().idle(), "{:?}", prefill.state());
//! # Ok(()) }
//! ```
//!
//! # Routes
//!
//! `POST /v1/chat/completions`, `/v1/completions`, `/v1/messages`, `/v1/responses`, `/inference/v1/generate` and
//! sglang's `/generate`, streaming and not; `/inference/v1/abort_requests` (by answer id) and `/abort_request` (by
//! `rid`); `GET /health`, `/v1/models`, `/metrics`, `/version`. Honoured: the output limits, `n`, `stream`,
//! `stream_options.include_usage`, `return_token_ids`, lists of prompts, `kv_transfer_params`, the first
//! `x-request-id`, and `min_tokens` and `ignore_eos` against an early end ([`Config::stop_after`]). Accepted without
//! effect: sampling fields, tools (they are part of the prompt). Refused, since ignoring them would change the answer:
//! stop strings and log probabilities. Every answer carries `x-emulator-role`.
//!
//! # Handoff protocols
//!
//! The fields of a request say which protocol it speaks, unless the engine is configured for one
//! ([`Config::connector`]). P is the leg that computes, D the leg that receives.
//!
//! | protocol | P is told by | D is told by | P's blocks wait |
//! |---|---|---|---|
//! | NIXL pull | `do_remote_decode` | the handle in P's answer | `kv_lease` |
//! | NIXL push | the same and `transfer_id` | P's identity and `transfer_id`, no blocks | `kv_lease` |
//! | Mooncake | `do_remote_decode`, `transfer_id` and nothing of NIXL's | `remote_bootstrap_addr`, `remote_engine_id`, `transfer_id` | `abort_timeout` |
//! | MoRI-IO WRITE | `remote_notify_port` (of D), `remote_host`, `remote_dp_rank`, `transfer_id` | P's handshake address as engine id, `remote_dp_rank`, `transfer_id` | `kv_lease` |
//! | offloading | `remote_decoder` | `remote_prefiller` (P's p2p port) | `kv_lease` |
//! | sglang | `bootstrap_room`, role prefill | all three `bootstrap_` fields, role decode | `rendezvous_timeout`, before P answers |
//! | shared store | nothing | nothing; `cache_hit_threshold` declines a prompt that is not there | never |
//!
//! Beside any of them: `remote_kv_source` takes the cached start of a prompt from a third engine's p2p port; blocks
//! that a decode engine kept ([`Config::decoder_kv_ttl`]) come back in the next turn's prefill params;
//! `ec_transfer_params` says where the bytes of multimodal parts are ([`Role::Encode`], [`Config::encoder_store`]).
//!
//! The legs of a pair may come in either order, but for those that need an answer of the other. A D that P does
//! not come to ends in an error after [`Config::rendezvous_timeout`]. No D falls back to computing, except where
//! [`KvLoadFailure::Recompute`] says so; [`Totals::computed_prompts`] counts what an engine computed.
//!
//! # Who frees a prefill's blocks, and when
//!
//! This is NIXL's pull. The others have no heartbeats, and a decode request that is dropped before its last block
//! came always releases; MoRI-IO's decode side sends the carrier away also after an error. sglang's side never
//! hears of the other's end: each frees its own blocks at once when its client leaves.
//!
//! | event | what happens |
//! |---|---|
//! | the client leaves during prefill | freed at once |
//! | prefill done | held under a lease (`kv_lease`), the handle in the answer |
//! | decode read them | its notification frees them |
//! | decode request rejected in its handler (unknown model, empty prompt, bad limit) | zero-block release frees them; not on `generate`, as in vLLM |
//! | decode request dropped while it waits for blocks | zero-block release frees them |
//! | decode request dropped during the pull | the pull runs to its end, then as after a read |
//! | body that is not JSON or has wrong types | nothing; the lease runs out |
//! | pull failed | nothing; the lease runs out |
//! | decode waits or reads for long | heartbeats and reads prolong the lease by two thirds |
//!
//! A freed block is overwritten at once. A pull is refused when the engine id is from before a restart, the
//! lease is gone, a block is not part of it, or the block sizes differ; the request then ends with an error
//! (status 500, or an error frame in a stream) or recomputes, see [`KvLoadFailure`].
//!
//! # Steering
//!
//! | request | effect |
//! |---|---|
//! | `GET /emulator/state` | [`State`]: blocks, leases, requests, totals |
//! | `POST /emulator/faults` | replaces the [`Faults`]; `{}` clears; `GET` shows what is left |
//! | `POST /emulator/speeds` | replaces the [`Speeds`] |
//! | `POST /emulator/restart` | new engine id, no KV, counters at zero, every other connection reset |
//! | `GET /emulator/requests?last=N` | the last [`SeenRequest`]s (at most 256), oldest first |
//! | `/emulator/echo` | any method: the request back as JSON |
//! | `/emulator/upgrade` | `101`, then every byte back |
//!
//! # Differences from vLLM that matter
//!
//! - A decode request pulls all its prompt's blocks; the prefix cache only counts.
//! - Blocks for the whole output are taken at admission; there is no preemption, a request waits instead.
//! - `usage` of a decode request counts pulled tokens as cached, although the handle carries
//!   `remote_prefill_cached_tokens`: a proxy that should report the prefill's count has something to correct.
//!
//! With `--zero` ([`Zero`]) none of this runs: canned answers, for measuring a proxy.

mod aborts;
mod api;
mod claim;
mod config;
mod emulator;
mod encoder;
mod engine;
mod error;
mod faults;
mod finish;
mod handoff;
mod host_cache;
mod http;
mod kv;
mod lease;
mod listening;
mod metrics;
mod params;
mod pool;
mod prefix;
mod prompt;
mod report;
mod sequence;
mod server;
mod state;
mod stats;
mod store;
mod tasks;
mod tokens;
mod transfer;
mod zero;

pub use config::{Config, Connector, KvLoadFailure, Role, Speeds};
pub use emulator::Emulator;
pub use faults::Faults;
pub use http::seen::SeenRequest;
pub use state::{BlockState, EncoderState, HeldState, LeaseState, RequestState, State, Totals};
pub use store::SharedStore;
pub use zero::{Zero, ZeroConfig};
