//! sglang's protocol: both legs carry the same room, and the engine's role says which side it is.
//!
//! The decode leg finds the prefill engine through its bootstrap server and waits in the room; the prefill leg
//! offers its KV there and answers when it was fetched. Neither side can tell the other that it gave up.

use std::sync::Arc;

use serde_json::Value;

use super::key::{Key, Space};
use super::meet::{Meeting, Place};
use super::{Fate, Intent, Origin};
use crate::config::{Connector, Role};
use crate::engine::Engine;
use crate::error::ApiError;
use crate::params::{port, text};
use crate::pool::BlockHold;

/// The fields that make a request a leg of a pair.
const FIELDS: [&str; 3] = ["bootstrap_host", "bootstrap_port", "bootstrap_room"];

/// Reads the three fields of the body.
pub(super) fn read(engine: &Engine, body: &Value) -> Option<Intent> {
    if FIELDS.iter().all(|field| body.get(field).is_none_or(Value::is_null)) {
        return None;
    }
    let Some(room) = room(&body["bootstrap_room"]) else {
        return Some(Intent::lacks(Connector::Sglang, "bootstrap_room"));
    };
    Some(match engine.config().role {
        Role::Prefill => {
            let leg = Intent::hand_out(Connector::Sglang, Fate::Room(room));
            Intent { one_token: true, ..leg }
        }
        Role::Decode => match (text(body, "bootstrap_host"), port(body, "bootstrap_port")) {
            (Ok(host), Ok(port)) => {
                let place = Place::Bootstrap { host, port };
                let meeting = Meeting { space: Space::Room, id: room, place, releases: false };
                Intent::receive(Connector::Sglang, Origin::Meeting(meeting))
            }
            (Err(field), _) | (_, Err(field)) => Intent::lacks(Connector::Sglang, field),
        },
        other => {
            let reason = format!("a room needs an engine of role prefill or decode, this one is {other}");
            Intent::unusable(Connector::Sglang, reason)
        }
    })
}

/// A room is a whole number of at most 64 bits, kept as the text it has in JSON.
fn room(value: &Value) -> Option<String> {
    value.as_u64().map(|room| room.to_string()).or_else(|| value.as_i64().map(|room| room.to_string()))
}

/// Offers the prompt in its room until somebody fetched it.
pub(super) async fn deliver(engine: &Arc<Engine>, room: &str, hold: BlockHold) -> Result<(), ApiError> {
    let patience = engine.config().rendezvous_timeout;
    let key = Key { space: Space::Room, engine: engine.id.clone(), id: room.to_owned() };
    let mut delivery = engine.meetings.offer(key, hold, patience).map_err(ApiError::kv_handover)?;
    if delivery.delivered().await {
        return Ok(());
    }
    Err(ApiError::kv_handover(format_args!("no decode engine came to room {room} within {patience:?}")))
}
