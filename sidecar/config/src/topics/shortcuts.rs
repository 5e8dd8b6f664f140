//! What may be done sooner than asked for, so that a first token comes sooner.

use serde::Serialize;

use super::handoff::{Handoff, KV_CONNECTOR, NIXLV2};
use super::{moriio, nixl};
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::values::Values;

const FIRST_TOKEN: &str = "first-token-forwarding";
const WARM_UP: &str = "pair-warm-up";
const SPECULATIVE: &str = "enable-speculative-prefill";

pub(crate) const SHORTCUTS: Group = Group {
    heading: "Time to first token",
    flags: &[
        Flag::bool(
            FIRST_TOKEN,
            false,
            "Send the prefill's first token to the client at once, where the result is exactly the same",
        ),
        Flag::bool(
            WARM_UP,
            false,
            "Run a tiny request through a new pair of engines before users pay for their handshake",
        ),
        Flag::bool(
            SPECULATIVE,
            false,
            "Prefill a chat's next turn as far as it is known once this one is answered, where x-speculative-prefill is true",
        ),
    ],
};

/// What may be done sooner than asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Shortcuts {
    /// Send the prefill's first token at once where that is exact.
    pub first_token_forwarding: bool,
    /// Run a tiny request through a new pair first.
    pub pair_warm_up: bool,
    /// Prefill a chat's next turn as far as it is known, for requests that ask for it.
    pub enable_speculative_prefill: bool,
}

impl Shortcuts {
    pub(crate) fn read(
        values: &Values,
        handoff: &Handoff,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Invalid> {
        let shortcuts = Self {
            first_token_forwarding: values.bool(FIRST_TOKEN)?,
            pair_warm_up: values.bool(WARM_UP)?,
            enable_speculative_prefill: values.bool(SPECULATIVE)?,
        };
        if shortcuts.first_token_forwarding {
            // Only where prefill's answer ends before decode begins, and its KV is fetched, is there a token to send.
            let writes = values.bool(nixl::PUSH)? || values.bool(moriio::WRITE_MODE)?;
            if handoff.kv_connector != NIXLV2 || writes {
                warnings.push(format!(
                    "--{FIRST_TOKEN} has no effect here: it works with --{KV_CONNECTOR}={NIXLV2} alone, without --{} \
                     and --{}",
                    nixl::PUSH,
                    moriio::WRITE_MODE
                ));
            }
        }
        Ok(shortcuts)
    }
}
