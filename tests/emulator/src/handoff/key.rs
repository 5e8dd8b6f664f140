//! The names under which two legs of a request find each other.

use serde::{Deserialize, Serialize};

/// Which kind of name a key is. A name of one kind never finds KV offered under another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Space {
    /// A `bootstrap_room`.
    Room,
    /// A `transfer_id`.
    Transfer,
    /// A `kv_request_id`.
    Request,
    /// A `transfer_id` whose KV the prefill engine carries to the decode engine.
    Notify,
}

/// The name two legs share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) space: Space,
    /// The engine (and data-parallel rank) that computes; empty where the protocol does not name one.
    pub(crate) engine: String,
    pub(crate) id: String,
}
