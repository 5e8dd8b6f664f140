//! KV that other engines carry here, and the requests that wait for it.
//!
//! A carrier says what it brings and waits until a request wants it; nothing is taken in that nobody wants. A
//! request that ended before its parcel came leaves a note, so that the carrier is sent away instead of waiting.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::meet::numbered;
use crate::engine::Engine;
use crate::pool::BlockHold;
use crate::transfer::line::{check_size, read_block, refused};
use crate::transfer::wire::{Answer, receive, send};

/// What a carrier brings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parcel {
    pub(crate) transfer_id: String,
    pub(crate) engine: String,
    pub(crate) rank: u32,
    pub(crate) block_bytes: usize,
}

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) transfer_id: String,
    /// Who must bring it.
    pub(crate) engine: String,
    /// For which rank.
    pub(crate) rank: u32,
}

/// Everything that requests of one engine wait for.
#[derive(Default)]
pub(crate) struct Inbox {
    notes: Mutex<HashMap<String, Note>>,
    bell: Notify,
}

enum Note {
    Wanted(Want),
    /// The request is gone; the note itself goes at this time.
    Unwanted(Instant),
}

struct Want {
    letter: Letter,
    blocks: usize,
    deliver: oneshot::Sender<io::Result<Vec<Vec<u8>>>>,
}

impl Inbox {
    fn leave(&self, transfer_id: &str, note: Note) {
        let mut notes = self.notes();
        let now = Instant::now();
        notes.retain(|_, note| !matches!(note, Note::Unwanted(until) if *until <= now));
        notes.insert(transfer_id.to_owned(), note);
        drop(notes);
        self.bell.notify_waiters();
    }

    /// Waits for a note under this id and takes it.
    async fn find(&self, transfer_id: &str) -> Note {
        loop {
            let mut rung = std::pin::pin!(self.bell.notified());
            rung.as_mut().enable();
            if let Some(note) = self.notes().remove(transfer_id) {
                return note;
            }
            rung.await;
        }
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<String, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's right to a parcel. Dropped without it, whatever the reason, it leaves word for the carrier.
pub(crate) struct LetterClaim {
    letter: Option<Letter>,
    engine: Arc<Engine>,
}

impl LetterClaim {
    /// Arms a claim.
    pub(crate) fn new(letter: Letter, engine: &Arc<Engine>) -> Self {
        Self { letter: Some(letter), engine: Arc::clone(engine) }
    }

    /// Waits for the parcel and fills the first `wanted` blocks of `hold`.
    pub(crate) async fn receive(mut self, hold: &mut BlockHold, wanted: usize) -> io::Result<()> {
        let engine = Arc::clone(&self.engine);
        let outcome = self.wait(hold, wanted).await;
        // A request that failed is gone like one that left: who still comes with its KV is sent away.
        if outcome.is_ok() {
            self.letter = None;
        }
        outcome.inspect_err(|_| engine.stats.pull_refused.inc())
    }

    async fn wait(&self, hold: &mut BlockHold, wanted: usize) -> io::Result<()> {
        let letter = self.letter.clone().expect("a claim is settled once, by value");
        let patience = self.engine.config().rendezvous_timeout;
        let (deliver, delivered) = oneshot::channel();
        let start = Instant::now();
        let id = letter.transfer_id.clone();
        self.engine.inbox.leave(&id, Note::Wanted(Want { letter, blocks: wanted, deliver }));
        let parcel = timeout(patience, delivered).await.map_err(|_| late(patience))?;
        let blocks = parcel.map_err(|_| refused("another request waits for the same transfer".into()))??;
        let mut bytes = 0;
        for (index, block) in blocks.iter().enumerate() {
            hold.write_block(index, block);
            bytes += block.len() as u64;
        }
        self.engine.stats.pulled(bytes, start.elapsed());
        Ok(())
    }
}

fn late(patience: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("nobody brought the KV within {patience:?}"))
}

impl Drop for LetterClaim {
    fn drop(&mut self) {
        if let Some(letter) = self.letter.take() {
            let until = Instant::now() + self.engine.config().rendezvous_timeout;
            self.engine.inbox.leave(&letter.transfer_id, Note::Unwanted(until));
        }
    }
}

/// Serves one carrier.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let Some(parcel) = receive::<Parcel>(&mut socket).await? else {
        return Ok(());
    };
    let mut byte = [0];
    let note = tokio::select! {
        // A carrier that left first: the note is for the next one.
        biased;
        // A waiting carrier has nothing to say: whatever comes, it is no longer waiting.
        _ = socket.read(&mut byte) => return Err(io::ErrorKind::ConnectionAborted.into()),
        note = engine.inbox.find(&parcel.transfer_id) => note,
    };
    let Note::Wanted(want) = note else {
        let reason = "the request that wanted this is gone".into();
        return send(&mut socket, &Answer::Refused { reason }).await;
    };
    if let Err(error) = want.letter.check(&parcel, engine.pool.block_bytes()) {
        send(&mut socket, &Answer::Refused { reason: error.to_string() }).await?;
        let _ = want.deliver.send(Err(error));
        return Ok(());
    }
    let outcome = take_in(&mut socket, &parcel, want.blocks).await;
    let taken = outcome.is_ok();
    let _ = want.deliver.send(outcome);
    if taken {
        send(&mut socket, &Answer::Granted { block_bytes: parcel.block_bytes, blocks: want.blocks }).await?;
    }
    Ok(())
}

impl Letter {
    /// The letter for the prompt at `index` of a request.
    pub(super) fn at(&self, index: usize) -> Self {
        Self { transfer_id: numbered(&self.transfer_id, index), ..self.clone() }
    }

    fn check(&self, parcel: &Parcel, block_bytes: usize) -> io::Result<()> {
        check_size(parcel.block_bytes, block_bytes)?;
        if parcel.engine != self.engine {
            let (theirs, ours) = (&parcel.engine, &self.engine);
            return Err(refused(format!("the KV came from {theirs}, the request named {ours}")));
        }
        if parcel.rank != self.rank {
            let (theirs, ours) = (parcel.rank, self.rank);
            return Err(refused(format!("the KV came for rank {theirs}, the request named {ours}")));
        }
        Ok(())
    }
}

async fn take_in(
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    parcel: &Parcel,
    blocks: usize,
) -> io::Result<Vec<Vec<u8>>> {
    let block_bytes = parcel.block_bytes;
    send(socket, &Answer::Granted { block_bytes, blocks }).await?;
    let mut taken = Vec::with_capacity(blocks);
    for _ in 0..blocks {
        let mut block = vec![0; block_bytes];
        read_block(socket, &mut block).await?;
        taken.push(block);
    }
    Ok(taken)
}
