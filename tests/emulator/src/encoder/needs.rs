//! What a prompt with multimodal parts needs before it can be computed, and from where each comes.

use std::io;
use std::sync::Arc;

use serde_json::Value;

use super::{Part, entry};
use crate::engine::Engine;
use crate::error::ApiError;
use crate::kv::Digest;
use crate::params::{port, text};
use crate::transfer::line::{Line, PEER_SILENCE};
use crate::transfer::wire::{Ask, What};

/// The parts of a prompt and where the request says their bytes are.
pub(crate) struct Needs {
    parts: Vec<Part>,
    /// `ec_transfer_params`: where the bytes are, by the part's hash.
    given: Value,
}

impl Needs {
    /// The needs of a body; `None` without parts.
    pub(crate) fn read(body: &Value) -> Option<Arc<Self>> {
        let mut parts = Part::all(body);
        // The same part twice is encoded and fetched once.
        let mut seen = std::collections::HashSet::new();
        parts.retain(|part| seen.insert(part.hash().to_owned()));
        let given = body.get("ec_transfer_params").cloned().unwrap_or_default();
        (!parts.is_empty()).then(|| Arc::new(Self { parts, given }))
    }

    /// Gets every part's bytes. The result is 0 when all are right, and otherwise tells how they are wrong.
    ///
    /// # Errors
    /// When the request says where a part's bytes are and they cannot be had there.
    pub(crate) async fn gather(&self, engine: &Engine) -> Result<u64, ApiError> {
        let mut salt: u64 = 0;
        for part in &self.parts {
            let right = part.encode(&engine.config().model);
            let bytes = self.get(engine, part, &right).await.map_err(|error| {
                ApiError::kv_load(format_args!("encoder output {}: {error}", part.hash()))
            })?;
            salt = salt.rotate_left(1) ^ digest(&bytes) ^ digest(&right);
        }
        Ok(salt)
    }

    async fn get(&self, engine: &Engine, part: &Part, right: &[u8]) -> io::Result<Vec<u8>> {
        if let Some(peer) = self.given.get(part.hash()) {
            let bytes = fetch(part, peer).await?;
            engine.stats.encoder_fetched.inc();
            return Ok(bytes);
        }
        let store = engine.config().encoder_store.as_ref();
        if let Some(bytes) = store.and_then(|store| store.get(&entry(part))) {
            engine.stats.encoder_loaded.inc();
            return Ok(bytes);
        }
        engine.stats.encoded_here.inc();
        Ok(right.to_vec())
    }
}

async fn fetch(part: &Part, peer: &Value) -> io::Result<Vec<u8>> {
    let missing = |field| io::Error::new(io::ErrorKind::InvalidInput, format!("no usable {field}"));
    let engine_id = text(peer, "engine_id").map_err(missing)?;
    let (host, port) = (text(peer, "peer_host").map_err(missing)?, port(peer, "peer_port").map_err(missing)?);
    let mut line = Line::connect(&host, port).await?;
    let ask = Ask { engine_id, request_id: part.hash().to_owned(), what: What::Encoded };
    let grant = line.ask(&ask, PEER_SILENCE).await?;
    line.read_bytes(grant).await
}

fn digest(bytes: &[u8]) -> u64 {
    let mut digest = Digest::new();
    digest.absorb(bytes);
    digest.value()
}
