//! How KV cache is handed over: the connectors, and what holds for all of them.

use std::num::NonZeroU32;

use serde::Serialize;

use super::deprecated::CONNECTOR;
use crate::Known;
use crate::choice::choice;
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::values::Values;

pub(crate) const KV_CONNECTOR: &str = "kv-connector";
pub(crate) const EC_CONNECTOR: &str = "ec-connector";
const SAMPLING: &str = "enable-prefiller-sampling";
const PREFILL_LIMITS: &str = "prefill-limits";
const CHUNK_SIZE: &str = "decode-chunk-size";

/// The connector on which several other settings depend.
pub const NIXLV2: &str = "nixlv2";

/// What the first sidecar called its connectors, and what they are called today.
const RENAMED: [(&str, &str); 2] = [("nixl", NIXLV2), ("lmcache", "shared-storage")];

pub(crate) const HANDOFF: Group = Group {
    heading: "Handoff",
    flags: &[
        Flag::text(KV_CONNECTOR, "NAME", NIXLV2, "How prefill and decode engines hand KV cache over"),
        Flag::bool(SAMPLING, false, "Use a random entry of the prefill header's list instead of the first")
            .env("ENABLE_PREFILLER_SAMPLING"),
        Flag::text(
            PREFILL_LIMITS,
            "RULE",
            "per-api",
            "How a prefill leg is limited to one token. per-api: only the fields its API has. compat: as llm-d 0.10 \
             did, all of max_tokens, max_completion_tokens and min_tokens",
        ),
        Flag::integer(
            CHUNK_SIZE,
            "0",
            "Decode chat completions in chunks of this many tokens; 0: not in chunks",
        ),
    ],
};

pub(crate) const ENCODERS: Group = Group {
    heading: "Encoders",
    flags: &[Flag::text(
        EC_CONNECTOR,
        "NAME",
        "",
        "How encoders hand their output over; empty: the encoders' header is ignored",
    )],
};

choice! {
    /// How the prefill leg is limited to one token.
    pub enum PrefillLimits {
        /// Only the fields of the request's API; a minimum is removed.
        PerApi = "per-api",
        /// As llm-d 0.10 did: all of `max_tokens`, `max_completion_tokens` and `min_tokens`.
        Compat = "compat",
    }
}

/// How KV cache is handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Handoff {
    /// One of the known connectors' names.
    pub kv_connector: String,
    /// One of the known connectors' names; `None`: no encoder stage.
    pub ec_connector: Option<String>,
    /// A random entry of the prefill header's list, not the first.
    pub enable_prefiller_sampling: bool,
    /// How the prefill leg is limited to one token.
    pub prefill_limits: PrefillLimits,
    /// Tokens of one chunk; `None`: decode is not chunked.
    pub decode_chunk_size: Option<NonZeroU32>,
}

impl Handoff {
    pub(crate) fn read(
        values: &Values,
        known: &Known<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Invalid> {
        let ec_connector = values.optional(EC_CONNECTOR);
        if let Some(name) = &ec_connector {
            check(EC_CONNECTOR, name, known.ec_connectors)?;
        }
        Ok(Self {
            kv_connector: kv_connector(values, known.kv_connectors, warnings)?,
            ec_connector,
            enable_prefiller_sampling: values.bool(SAMPLING)?,
            prefill_limits: values.choice(PREFILL_LIMITS)?,
            decode_chunk_size: chunk_size(values)?,
        })
    }

    /// Refuses a setting that needs the connector `nixlv2`.
    pub(crate) fn require_nixlv2(&self, flag: &str) -> Result<(), Invalid> {
        if self.kv_connector == NIXLV2 {
            return Ok(());
        }
        Err(Invalid::new(format!(
            "--{flag} requires --{KV_CONNECTOR}={NIXLV2} (got {:?})",
            self.kv_connector
        )))
    }
}

fn kv_connector(values: &Values, known: &[&str], warnings: &mut Vec<String>) -> Result<String, Invalid> {
    let given = values.text(values.strongest(&[KV_CONNECTOR, CONNECTOR]).unwrap_or(KV_CONNECTOR));
    let today = RENAMED.iter().find(|(old, _)| *old == given).map(|(_, today)| *today);
    if let Some(today) = today.filter(|today| known.contains(today)) {
        warnings.push(format!("connector {given:?} is deprecated; use --{KV_CONNECTOR}={today}"));
        return Ok(today.to_owned());
    }
    check(KV_CONNECTOR, given, known)?;
    Ok(given.to_owned())
}

fn check(flag: &str, name: &str, known: &[&str]) -> Result<(), Invalid> {
    if known.contains(&name) {
        return Ok(());
    }
    Err(Invalid::new(format!("--{flag} must be one of: {} (got {name:?})", known.join(", "))))
}

fn chunk_size(values: &Values) -> Result<Option<NonZeroU32>, Invalid> {
    let number = values.integer(CHUNK_SIZE)?;
    u32::try_from(number).map(NonZeroU32::new).map_err(|_| {
        Invalid::new(format!(
            "--{CHUNK_SIZE} must be a non-negative integer of at most {} (0: not in chunks), got {number}",
            u32::MAX
        ))
    })
}
