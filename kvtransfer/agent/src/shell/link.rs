//! A control connection that is complete: one task reads, one writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Mail;
use super::stream::{self, Duplex};
use crate::Error;
use crate::core::Time;
use crate::limits::{LAST_WORDS, MAX_FRAME, MAX_UNSENT};
use crate::protocol::Frame;
use crate::roster::LinkNo;

/// Frames that are written before the stream is flushed, and before time is counted anew.
const AT_ONCE: usize = 64;

/// See the module. Dropping it ends both tasks, the writing one after all was written or [`LAST_WORDS`] have passed.
#[derive(Debug)]
pub(super) struct Link {
    out: mpsc::UnboundedSender<Bytes>,
    /// Bytes that wait to be written.
    unsent: Arc<AtomicUsize>,
    reading: JoinHandle<()>,
    writing: Option<JoinHandle<()>>,
    /// When the peer was last heard.
    pub(super) heard: Time,
    /// Whether something was said since the last time that was asked.
    said: bool,
}

impl Link {
    pub(super) fn new(
        no: LinkNo,
        stream: Box<dyn Duplex>,
        mail: mpsc::Sender<Mail>,
        room: Arc<Semaphore>,
        silence: Duration,
        now: Time,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        let (out, frames) = mpsc::unbounded_channel();
        let unsent = Arc::new(AtomicUsize::new(0));
        let writing = tokio::spawn(write(no, writer, frames, Arc::clone(&unsent), mail.clone(), silence));
        let reading = tokio::spawn(read(no, reader, mail, room));
        Self { out, unsent, reading, writing: Some(writing), heard: now, said: true }
    }

    /// Says something. `false` if the peer is too far behind with reading.
    #[must_use]
    pub(super) fn say(&mut self, frame: Bytes) -> bool {
        self.said = true;
        let waiting = self.unsent.fetch_add(frame.len(), Ordering::Relaxed) + frame.len();
        // If the task has ended, so has the connection; that is told by another way.
        self.out.send(frame).ok();
        waiting <= MAX_UNSENT
    }

    /// Says that this side is there, unless that is known.
    pub(super) fn ping(&mut self) {
        if !std::mem::take(&mut self.said) {
            // A ping is not worth losing a peer for.
            let _ = self.say(Frame::Ping.encode());
            self.said = false;
        }
    }

    /// Ends the connection. What it returns ends when all was written, or when the peer has not taken it in time.
    pub(super) fn end(mut self) -> Option<JoinHandle<()>> {
        self.writing.take().map(last_words)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reading.abort();
        if let Some(writing) = self.writing.take() {
            drop(last_words(writing));
        }
    }
}

/// Lets it write what is left, for a while: a peer that does not read must not keep sockets and memory of connections that
/// have ended.
fn last_words(mut writing: JoinHandle<()>) -> JoinHandle<()> {
    tokio::spawn(async move {
        if timeout(LAST_WORDS, &mut writing).await.is_err() {
            writing.abort();
        }
    })
}

async fn read(no: LinkNo, reader: ReadHalf<Box<dyn Duplex>>, mail: mpsc::Sender<Mail>, room: Arc<Semaphore>) {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    loop {
        let bytes = stream::frame(&mut reader, MAX_FRAME).await;
        let kib = bytes.as_ref().map_or(0, |bytes| (bytes.len() >> 10) + 1);
        // It is never closed, and has room for several of the longest.
        let taken = Arc::clone(&room).acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX)).await.ok();
        let said = bytes.and_then(|bytes| Frame::decode(&bytes));
        let over = said.is_err();
        if mail.send(Mail::Said(no, said, taken)).await.is_err() || over {
            return;
        }
    }
}

async fn write(
    no: LinkNo,
    writer: WriteHalf<Box<dyn Duplex>>,
    mut frames: mpsc::UnboundedReceiver<Bytes>,
    unsent: Arc<AtomicUsize>,
    mail: mpsc::Sender<Mail>,
    silence: Duration,
) {
    let mut writer = BufWriter::with_capacity(64 << 10, writer);
    let millis = silence.as_millis().try_into().unwrap_or(u64::MAX);
    while let Some(frame) = frames.recv().await {
        let written = timeout(silence, async {
            let mut next = Some(frame);
            for left in (0..AT_ONCE).rev() {
                let Some(frame) = next else { break };
                writer.write_all(&frame).await?;
                unsent.fetch_sub(frame.len(), Ordering::Relaxed);
                next = (left > 0).then(|| frames.try_recv().ok()).flatten();
            }
            writer.flush().await
        });
        let error = match written.await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => Error::PeerLost(error.to_string()),
            Err(_) => Error::Silent(millis),
        };
        // Nobody reads it once the agent is closed.
        mail.send(Mail::Said(no, Err(error), None)).await.ok();
        return;
    }
    // It may be gone.
    timeout(silence, writer.shutdown()).await.ok();
}
