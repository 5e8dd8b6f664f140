//! What the loop does now and then: looks whether peers are silent, tells how it does, and, at last, ends.

use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Order;
use super::link::Link;
use super::run::Shell;
use crate::Error;
use crate::books::lock;
use crate::core::PeerNo;
use crate::limits::LAST_WORDS;
use crate::protocol::Frame;
use crate::roster::LinkNo;
use crate::snapshot::{PeerView, Snapshot};
use crate::transfer::nothing;

/// Waits until all of these have ended, or [`LAST_WORDS`] have passed: however many peers do not read, closing takes no
/// longer.
async fn said_goodbye(writing: Vec<JoinHandle<()>>) {
    let all = async {
        for task in writing {
            task.await.ok();
        }
    };
    timeout(LAST_WORDS, all).await.ok();
}

impl Shell {
    /// Looks for peers that are silent, and lets others know that this side is there.
    pub(super) fn watch_silence(&mut self) {
        let now = self.now();
        if self.links.is_empty() {
            self.alive_at = None;
            return;
        }
        let due = *self.alive_at.get_or_insert(now + self.silence / 4);
        if now < due {
            return;
        }
        self.alive_at = Some(now + self.silence / 4);
        self.links.values_mut().for_each(Link::ping);
        let silent = |link: &Link| now.saturating_sub(link.heard) >= self.silence;
        let silent: Vec<LinkNo> =
            self.links.iter().filter(|(_, link)| silent(link)).map(|(no, _)| *no).collect();
        let error = Error::Silent(self.silence.as_millis().try_into().unwrap_or(u64::MAX));
        for link in silent {
            self.lose_link(link, &error);
        }
        self.obey();
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let view = |(_, name, epoch, lanes)| PeerView { name, epoch, lanes };
        let (transfers, chunks) = self.core.outstanding();
        Snapshot {
            peers: self.core.views(self.now()).into_iter().map(view).collect(),
            past: self.core.past(),
            transfers,
            chunks,
            leases: lock(&self.shared.grants).len(),
            unheard: self.shared.unheard.bytes(),
            wakeups: self.shared.wakeups.load(Ordering::Relaxed),
        }
    }

    /// Ends everything.
    pub(super) async fn close(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        orders.close();
        while let Ok(order) = orders.try_recv() {
            // What waits for another answer gets it: the agent is closed.
            if let Order::Begin(_, answer) = order {
                drop(answer.send(Err(Box::new(nothing(Error::Closed)))));
            }
        }
        let now = self.now();
        let peers: Vec<PeerNo> = self.peers.keys().copied().collect();
        for peer in peers {
            self.core.lost(now, peer, &Error::Closed);
        }
        self.obey();
        // They end what is under way, and say so.
        for carrier in &*self.shared.carriers {
            carrier.fabric.close();
        }
        for fabric in 0..self.shared.carriers.len() {
            self.poll(fabric);
        }
        let goodbye = Frame::Bye("it was closed".into()).encode();
        let mut writing = Vec::new();
        for (_, mut link) in self.links.drain() {
            // Whoever is too far behind will see the end of the connection.
            let _ = link.say(goodbye.clone());
            writing.extend(link.end());
        }
        said_goodbye(writing).await;
        for (_, transfer) in self.transfers.drain() {
            transfer.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_peers_do_not_read_a_goodbye_takes_no_longer() {
        let start = tokio::time::Instant::now();
        said_goodbye((0..1000).map(|_| tokio::spawn(pending())).collect()).await;
        // The clock of this test is moved by nothing but what is waited for.
        assert_eq!(start.elapsed().as_secs(), LAST_WORDS.as_secs());
        said_goodbye((0..1000).map(|_| tokio::spawn(async {})).collect()).await;
    }
}
