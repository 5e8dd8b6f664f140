//! KV that goes back: a decode engine keeps the KV of a chat for a while, and the prefill leg of the chat's next turn is
//! told where, so that prefill reads it instead of computing it (spec/sidecar.md 12.4).
//!
//! The decode answer's offer is captured on its way to the client, under a key made from everything that shapes the prompt
//! and from all messages with the reply. The next turn finds it by its own history. An offer is taken at most once, and
//! only by a request whose session token says that this pod served the chat before.
//!
//! What it relies on: under the model's chat template, the tokens of a turn and its reply are where the next turn's tokens
//! begin. The prefill engine cannot check that. So only replies that every ordinary template renders as they were generated
//! count (see [`capture`]), and the flag stays off unless the operator knows the template.
//!
//! - [`canonical`]: when two JSON texts are the same; [`chat`]: the keys of a request
//! - [`capture`]: reads the answer; [`offer`]: what the engine offers; [`store`]: keeps it; [`token`]: whose chat it is

mod canonical;
mod capture;
mod chat;
mod offer;
mod store;
mod token;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;

use super::Observer;
use crate::request::Asked;

use capture::Capture;
use chat::{Chat, Turn};
use store::Store;
use token::Pod;

pub(super) use chat::WATCH;

/// What the operator sets, under the flags' names.
#[derive(Debug, Clone)]
pub struct BidirectionalOptions {
    /// Header with the session token.
    pub session_header: HeaderName,
    /// Chats remembered.
    pub cache_size: NonZeroUsize,
    /// How long: no longer than decode engines keep KV.
    pub cache_ttl: Duration,
    /// `<namespace>/<name>` of this pod.
    pub pod: Option<String>,
}

impl Default for BidirectionalOptions {
    fn default() -> Self {
        Self {
            session_header: HeaderName::from_static("x-session-token"),
            cache_size: NonZeroUsize::new(1024).expect("not zero"),
            // vLLM's `decoder_kv_blocks_ttl`.
            cache_ttl: Duration::from_secs(480),
            pod: None,
        }
    }
}

/// What decode engines offered. One for the process.
#[derive(Debug)]
pub(super) struct Memory {
    session_header: HeaderName,
    pod: Pod,
    store: Mutex<Store>,
}

/// A chat's request on its way.
#[derive(Debug)]
pub(super) struct Begun {
    /// `kv_transfer_params` of the prefill leg, if an offer was found.
    pub(super) params: Option<Bytes>,
    turn: Turn,
}

impl Memory {
    /// `ranks`: engines in this pod.
    pub(super) fn new(options: BidirectionalOptions, ranks: u16) -> Self {
        Self {
            session_header: options.session_header,
            pod: Pod::new(options.pod, ranks),
            store: Mutex::new(Store::new(options.cache_size, options.cache_ttl)),
        }
    }

    /// Looks at a request. `None`: it is no chat that could be continued.
    pub(super) fn begin(&self, asked: &Asked) -> Option<Begun> {
        let Chat { earlier, asked: turn } = Chat::read(asked)?;
        let token = asked.headers.get(&self.session_header);
        let ours = token.is_some_and(|token| self.pod.is_named_by(token.as_bytes()));
        let offer = if ours { self.store().take(&earlier, Instant::now()) } else { None };
        Some(Begun { params: offer.map(|offer| offer.params), turn })
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    /// Who captures the offer in the answer.
    pub(super) fn observer(&self, memory: &Arc<Memory>, asked: &Asked) -> Box<dyn Observer> {
        Box::new(Capture::new(Arc::clone(memory), self.turn.clone(), asked.port))
    }
}
