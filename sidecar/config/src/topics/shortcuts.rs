//! What may be done sooner than asked for, so that a first token comes sooner.

use serde::Serialize;

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
            "After a chat turn, prefill the next one's likely prefix for requests that ask for it",
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
    /// Prefill a chat's likely next turn.
    pub enable_speculative_prefill: bool,
}

impl Shortcuts {
    pub(crate) fn read(values: &Values) -> Result<Self, Invalid> {
        Ok(Self {
            first_token_forwarding: values.bool(FIRST_TOKEN)?,
            pair_warm_up: values.bool(WARM_UP)?,
            enable_speculative_prefill: values.bool(SPECULATIVE)?,
        })
    }
}
