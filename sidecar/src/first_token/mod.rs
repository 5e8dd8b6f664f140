//! First-token forwarding (`--first-token-forwarding`): the client gets the token that prefill computed before decode has
//! begun.
//!
//! The decode leg stays what it is without it. Its engine computes the first token once more and streams the ordinary
//! answer, so what was sent in advance is a beginning that the answer must turn out to have: [`Seam`] compares the two,
//! cuts the beginning out and lets the rest pass untouched. Where the engines disagree (two tokens of the same
//! probability, told apart by rounding), the answer goes on from the token that was sent ([`FirstToken::resume`]).
//!
//! What no comparison can mend must not begin: [`Plan`] names the requests for which all of this is exact.
//! `docs/first-token.md` says why decode is not simply asked to go on behind the token with prefill's KV.
//!
//! Pure: no I/O, no clock.

mod plan;
mod seam;
mod token;

pub use plan::Plan;
pub use seam::{Seam, Verdict};
pub use token::FirstToken;

/// The member that makes prefill name the prompt's tokens and its own, without which no answer could go on from it.
pub const RETURN_TOKEN_IDS: &str = "return_token_ids";

/// How an API tells of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// `/v1/completions`: as text.
    Text,
    /// `/inference/v1/generate`: as ids.
    Ids,
}

/// What was said so far, or is still to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Text(String),
    Ids(Vec<u32>),
}

impl Said {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Ids(ids) => ids.is_empty(),
        }
    }

    /// What is left of `self` behind `beginning`, or `None` if it begins otherwise.
    fn behind(&self, beginning: &Self) -> Option<Self> {
        match (self, beginning) {
            (Self::Text(text), Self::Text(beginning)) => {
                text.strip_prefix(beginning.as_str()).map(|rest| Self::Text(rest.to_owned()))
            }
            (Self::Ids(ids), Self::Ids(beginning)) => {
                ids.strip_prefix(beginning.as_slice()).map(|rest| Self::Ids(rest.to_vec()))
            }
            _ => None,
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
            Self::Ids(ids) => serde_json::Value::from(ids.as_slice()).to_string(),
        }
    }
}
