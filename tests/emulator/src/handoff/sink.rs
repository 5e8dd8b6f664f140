//! Does with a computed prompt's KV what the request asked for.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::key::Key;
use super::meet::numbered;
use super::moriio::{self, Address, Written};
use super::push::Identity;
use super::reuse::{self, Kept};
use super::sglang;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::finish::Finish;
use crate::lease;
use crate::params::{Handle, Tokens};
use crate::pool::BlockHold;

/// The fate of one prompt's KV.
pub(crate) enum Sink {
    /// Freed with the request.
    Free,
    /// Leased to whoever shows the handle.
    Lease,
    /// Offered in this room before the answer.
    Room(String),
    /// Offered after the answer.
    Offer(Offering),
    /// Carried to the decode engine after the answer.
    Carry(Address),
    /// Kept for the conversation's next turn, together with the answer's, for this long.
    Keep(Duration),
}

/// KV that waits for its reader under a name that both legs know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offering {
    pub(super) key: Key,
    /// How long it waits at most.
    pub(super) keep: Duration,
    pub(super) told: Told,
    /// A prompt whose answer ended by itself is not offered.
    pub(super) only_if_cut: bool,
}

/// What an answer says about an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing.
    Nothing,
    /// Which engine has it.
    Identity,
}

impl Offering {
    /// The offer of the prompt at `index` of a request.
    pub(super) fn at(&self, index: usize) -> Self {
        let key = Key { id: numbered(&self.key.id, index), ..self.key.clone() };
        Self { key, ..self.clone() }
    }
}

/// A prompt whose answer is complete.
pub(crate) struct Finished {
    /// The id that clients see.
    pub(crate) request: String,
    /// Its blocks, including those of the output.
    pub(crate) hold: BlockHold,
    pub(crate) tokens: Tokens,
    /// Tokens of its answer.
    pub(crate) produced: usize,
    /// Why the answer ended.
    pub(crate) finish: Finish,
}

/// `kv_transfer_params` of an answer.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum HandedOut {
    /// The handle of a lease.
    Lease(Handle),
    /// The identity of a pushing engine.
    Push(Identity),
    /// What a writing engine says.
    Write(Written),
    /// The handle of blocks that a decode engine keeps.
    Kept(Kept),
}

impl HandedOut {
    /// Whether a stream carries it too. Prefill legs do not stream.
    pub(crate) fn in_streams(&self) -> bool {
        matches!(self, Self::Kept(_))
    }
}

impl Sink {
    /// Whether this leg computes for another engine.
    pub(crate) fn is_prefill(&self) -> bool {
        !matches!(self, Self::Free | Self::Keep(_))
    }

    /// Hands over what must be handed over before the answer; the rest stays in `hold`.
    ///
    /// # Errors
    /// When nobody fetched it in time.
    pub(crate) async fn deliver(
        &self,
        engine: &Arc<Engine>,
        hold: &mut BlockHold,
        prompt: usize,
    ) -> Result<(), ApiError> {
        match self {
            Self::Free | Self::Lease | Self::Offer(_) | Self::Carry(_) | Self::Keep(_) => Ok(()),
            Self::Room(room) => {
                hold.truncate(engine.pool.blocks_for(prompt));
                sglang::deliver(engine, room, hold.take()).await
            }
        }
    }

    /// Hands over the rest and says what the answer tells about it.
    ///
    /// # Errors
    /// When the KV could not be put where the other leg looks for it.
    pub(crate) fn finish(
        self,
        engine: &Arc<Engine>,
        finished: Finished,
    ) -> Result<Option<HandedOut>, ApiError> {
        let handed_out = match self {
            Self::Free | Self::Room(_) => return Ok(None),
            Self::Lease => HandedOut::Lease(grant(engine, finished)),
            Self::Offer(offering) => match offer(engine, offering, finished)? {
                Some(identity) => HandedOut::Push(identity),
                None => return Ok(None),
            },
            Self::Keep(ttl) => HandedOut::Kept(reuse::keep(engine, finished, ttl)),
            Self::Carry(address) => HandedOut::Write(moriio::hand_over(engine, address, finished)?),
        };
        Ok((!engine.settings.faults.take_drop_kv_params()).then_some(handed_out))
    }
}

fn offer(engine: &Arc<Engine>, offering: Offering, finished: Finished) -> Result<Option<Identity>, ApiError> {
    let Finished { request, mut hold, tokens, finish, .. } = finished;
    if offering.only_if_cut && finish != Finish::Length {
        return Ok(None);
    }
    hold.truncate(engine.pool.blocks_for(tokens.prompt));
    let identity = match offering.told {
        Told::Nothing => None,
        Told::Identity => Some(Identity::new(engine, &offering.key.engine, &request, tokens)),
    };
    let delivery = engine.meetings.offer(offering.key, hold, offering.keep).map_err(ApiError::kv_handover)?;
    delivery.detach();
    Ok(identity)
}

fn grant(engine: &Engine, finished: Finished) -> Handle {
    let Finished { request, mut hold, tokens, .. } = finished;
    hold.truncate(engine.pool.blocks_for(tokens.prompt));
    let blocks = hold.ids().to_vec();
    let lease = lease::name(&request);
    engine.leases.grant(&lease, hold);
    Handle::new(&engine.id, &lease, (&engine.config().host, engine.ports.kv), blocks, tokens)
}
