//! The decode side of a meeting: goes to where the prefill's KV is or will be on offer, and brings it home.

use std::io;
use std::sync::Arc;

use tokio::time::Instant;

use super::bootstrap::{Door, locate};
use super::key::Space;
use crate::engine::Engine;
use crate::pool::BlockHold;
use crate::transfer::line::{Line, PEER_SILENCE};
use crate::transfer::wire::{Ask, What};

/// Where and under which name two legs meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meeting {
    pub(crate) space: Space,
    pub(crate) id: String,
    pub(crate) place: Place,
    /// Whether a request that is dropped or rejected tells the prefill engine to let go. Otherwise only the
    /// prefill's own end or time limit frees its blocks.
    pub(crate) releases: bool,
}

/// How the engine that computes is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Its bootstrap server says who and where it is.
    Bootstrap { host: String, port: u16 },
    /// Its bootstrap server at this URL lists engines; only this one will do.
    Listed { url: String, engine_id: String },
    /// Its KV port, under its id.
    Engine { host: String, port: u16, engine_id: String },
    /// Its p2p port, which knows no engine ids.
    P2p { host: String, port: u16 },
}

impl Meeting {
    /// The meeting for the prompt at `index` of a request: each prompt of a list has its own.
    pub(crate) fn at(&self, index: usize) -> Self {
        Self { id: numbered(&self.id, index), ..self.clone() }
    }

    /// Waits for the offer, then fills the first `wanted` blocks of `hold`.
    async fn receive(&self, engine: &Engine, hold: &mut BlockHold, wanted: usize) -> io::Result<()> {
        let patience = engine.config().rendezvous_timeout;
        let door = locate(&self.place).await?;
        let mut line = Line::connect(&door.host, door.port).await?;
        let ask = |what| Ask { engine_id: door.engine_id.clone(), request_id: self.id.clone(), what };
        let grant = line.ask(&ask(What::Meet { space: self.space, blocks: wanted }), patience).await?;
        let start = Instant::now();
        let bytes = line.read_blocks(hold, wanted, grant, engine.pool.block_bytes()).await?;
        engine.stats.pulled(bytes, start.elapsed());
        // The data is here; should this get lost, the other side waits for its deadline.
        let _ = line.ask(&ask(What::Release), PEER_SILENCE).await;
        Ok(())
    }

    /// Tells the prefill engine that nobody will read, now or as soon as it has computed.
    async fn release(self) -> io::Result<()> {
        let Door { host, port, engine_id } = locate(&self.place).await?;
        let what = What::Meet { space: self.space, blocks: 0 };
        let ask = Ask { engine_id, request_id: self.id, what };
        Line::connect(&host, port).await?.ask(&ask, PEER_SILENCE).await.map(drop)
    }
}

/// The name of the prompt at `index` of a request that has this name.
pub(crate) fn numbered(id: &str, index: usize) -> String {
    if index == 0 { id.to_owned() } else { format!("{id}#{index}") }
}

/// A decode request's claim on a meeting. Dropped before the meeting ended, it releases the other side where
/// the protocol has a way to.
pub(crate) struct MeetClaim {
    meeting: Option<Meeting>,
    engine: Arc<Engine>,
}

impl MeetClaim {
    /// Arms a claim.
    pub(crate) fn new(meeting: Meeting, engine: &Arc<Engine>) -> Self {
        Self { meeting: Some(meeting), engine: Arc::clone(engine) }
    }

    /// Receives the KV. Whatever comes of it, the claim is settled; only a drop on the way releases.
    pub(crate) async fn receive(mut self, hold: &mut BlockHold, wanted: usize) -> io::Result<()> {
        let meeting = self.meeting.clone().expect("a claim is settled once, by value");
        let outcome = meeting.receive(&self.engine, hold, wanted).await;
        self.meeting = None;
        outcome.inspect_err(|_| self.engine.stats.pull_refused.inc())
    }
}

impl Drop for MeetClaim {
    fn drop(&mut self) {
        if let Some(meeting) = self.meeting.take().filter(|meeting| meeting.releases) {
            self.engine.tasks.spawn(async move {
                // Best effort; the offer's deadline is the safety net.
                let _ = meeting.release().await;
            });
        }
    }
}
