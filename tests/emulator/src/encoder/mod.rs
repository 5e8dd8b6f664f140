//! The encode stage: an engine of role `encode` turns one multimodal part into bytes, and the engine that computes
//! the prompt needs those bytes for each of its parts.
//!
//! Right bytes leave a prompt's KV as it is without an encode stage, so that every arrangement of engines gives
//! the same answer; wrong ones change it. An engine that finds a part's bytes nowhere makes them itself, and
//! counts that, since it is what an encode stage is there to avoid.

mod needs;
mod outputs;
mod part;

use serde_json::{Value, json};

use crate::config::Role;
use crate::engine::Engine;
use crate::error::ApiError;
pub(crate) use needs::Needs;
pub(crate) use outputs::Outputs;
pub(crate) use part::Part;

/// The part that a request to an engine of role `encode` wants encoded; `None` for engines of other roles.
///
/// # Errors
/// When there is not exactly one.
pub(crate) fn task(engine: &Engine, body: &Value) -> Result<Option<Part>, ApiError> {
    if engine.config().role != Role::Encode {
        return Ok(None);
    }
    let mut parts = Part::all(body);
    if parts.len() != 1 {
        let message =
            format!("An encode request must have exactly one multimodal part, got {}.", parts.len());
        return Err(ApiError::bad_request(message, "messages"));
    }
    Ok(parts.pop())
}

/// Encodes a part and leaves it where others find it; returns what the answer tells about that.
pub(crate) fn run(engine: &Engine, part: &Part) -> Option<Value> {
    let bytes = part.encode(&engine.config().model);
    engine.stats.encoder_outputs.inc();
    if let Some(store) = &engine.config().encoder_store {
        store.put(&entry(part), &bytes);
        return None;
    }
    let size = bytes.len();
    engine.outputs.pin(part.hash(), bytes, engine.config().kv_lease);
    let peer = json!({"peer_host": engine.config().host, "peer_port": engine.ports.kv,
        "engine_id": engine.id, "size_bytes": size});
    Some(json!({part.hash(): peer}))
}

/// The name of a part's bytes in the encoder store.
fn entry(part: &Part) -> String {
    format!("ec-{}", part.hash())
}
