//! What only NIXL's engines can do: a prefill engine that pushes, and KV that goes back for the next turn.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;

use super::handoff::Handoff;
use super::{moriio, process};
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::go;
use crate::values::Values;

pub(crate) const PUSH: &str = "nixl-push-mode";
const BIDIRECTIONAL: &str = "bidirectional-kv";
const SESSION_HEADER: &str = "bidirectional-session-header";
const CACHE_SIZE: &str = "bidirectional-cache-size";
const CACHE_TTL: &str = "bidirectional-cache-ttl";

pub(crate) const NIXL: Group = Group {
    heading: "NIXL",
    flags: &[
        Flag::bool(PUSH, false, "Prefill engines push KV (vLLM's NixlPushConnector); only with nixlv2"),
        Flag::bool(
            BIDIRECTIONAL,
            false,
            "Hand KV of a chat back from decode to prefill for its next turn; only with nixlv2",
        ),
        Flag::text(
            SESSION_HEADER,
            "HEADER",
            "x-session-token",
            "Header that says which pod served a chat last",
        ),
        Flag::amount(CACHE_SIZE, "1024", "Chats remembered for their next turn"),
        // What vLLM's decode engines keep blocks for, unless set.
        Flag::duration(
            CACHE_TTL,
            "480s",
            "How long a chat is remembered: no longer than engines keep its KV",
        ),
    ],
};

/// What only NIXL's engines can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Nixl {
    /// Prefill engines push KV. Only with `nixlv2`, and never with MoRI-IO's WRITE mode.
    pub nixl_push_mode: bool,
    /// KV goes back to prefill for a chat's next turn. Only with `nixlv2`.
    pub bidirectional_kv: bool,
    /// Header that says which pod served a chat last, in lower case.
    pub bidirectional_session_header: String,
    /// Chats remembered.
    pub bidirectional_cache_size: NonZeroUsize,
    /// How long each is remembered, above 0.
    #[serde(serialize_with = "go::serialize")]
    pub bidirectional_cache_ttl: Duration,
}

impl Nixl {
    pub(crate) fn read(
        values: &Values,
        handoff: &Handoff,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Invalid> {
        let nixl = Self {
            nixl_push_mode: values.bool(PUSH)?,
            bidirectional_kv: values.bool(BIDIRECTIONAL)?,
            bidirectional_session_header: header(values)?,
            bidirectional_cache_size: values.size(CACHE_SIZE)?,
            bidirectional_cache_ttl: values.positive_duration(CACHE_TTL)?,
        };
        if nixl.nixl_push_mode {
            handoff.require_nixlv2(PUSH)?;
            if values.bool(moriio::WRITE_MODE)? {
                return Err(Invalid::new(format!(
                    "--{PUSH} and --{} are mutually exclusive: both say who writes KV; give one",
                    moriio::WRITE_MODE
                )));
            }
        }
        if nixl.bidirectional_kv {
            handoff.require_nixlv2(BIDIRECTIONAL)?;
            let (name, namespace) = (process::POD_NAME, process::POD_NAMESPACE);
            if values.text(name).is_empty() || values.text(namespace).is_empty() {
                warnings.push(format!(
                    "--{BIDIRECTIONAL} cannot tell this pod's chats from others' without --{name} and --{namespace}"
                ));
            }
        }
        Ok(nixl)
    }
}

fn header(values: &Values) -> Result<String, Invalid> {
    let name = values.text(SESSION_HEADER);
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(legal) {
        return Err(Invalid::new(format!("--{SESSION_HEADER} must be the name of a header, got {name:?}")));
    }
    Ok(name.to_ascii_lowercase())
}
