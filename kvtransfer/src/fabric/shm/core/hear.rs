//! What comes from peers, frame by frame. A peer that breaks the protocol is parted from: it is of another make, or means
//! ill.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;

use super::link::{Link, Received};
use super::{Core, State};
use crate::fabric::Event;
use crate::fabric::shm::device::Remote;
use crate::fabric::shm::frame::{self, Frame, Violation};
use crate::fabric::shm::source::{Mapping, Source};
use crate::memory::MAX_REGIONS;
use crate::{Error, PeerId, TransferId};

/// How often a connection is read before others have their turn.
const READS: usize = 4;

/// Something that a peer sends that cannot be: what to say about it.
type Heard = Result<(), Violation>;

impl Core {
    /// A connection has something to say, or has ended.
    pub(in super::super) fn hear(&mut self, id: u64, ended: bool) {
        let mut scratch = std::mem::take(&mut self.scratch);
        for _ in 0..READS {
            let Some(link) = self.link(id) else { break };
            if link.paused {
                if ended {
                    self.link_ended(id, "it has parted, or its process has ended");
                }
                break;
            }
            match link.receive(&mut scratch) {
                Received::Bytes(filled) => self.understand(id, &scratch[..filled]),
                Received::Nothing => break,
                Received::End(why) => {
                    self.link_ended(id, why);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    /// There is room in a connection's socket.
    pub(in super::super) fn can_send(&mut self, id: u64) {
        let epoll = Arc::clone(&self.epoll);
        if let Some(link) = self.link(id) {
            link.flush(&epoll);
        }
    }

    /// Goes on with connections from which nothing was taken, where that is possible again.
    pub(in super::super) fn resume(&mut self) {
        if self.paused.is_empty() || self.events.is_full() {
            return;
        }
        let epoll = Arc::clone(&self.epoll);
        for id in std::mem::take(&mut self.paused) {
            if self.by_link.get(&id).is_some_and(|peer| self.is_busy(*peer)) {
                self.paused.insert(id);
            } else if let Some(link) = self.link(id) {
                link.pause(&epoll, false);
            }
        }
    }

    fn link(&mut self, id: u64) -> Option<&mut Link> {
        match self.by_link.get(&id) {
            Some(peer) => self.peers.get_mut(peer)?.link.as_mut(),
            None => self.guests.get_mut(&id),
        }
    }

    fn link_ended(&mut self, id: u64, why: &str) {
        self.paused.remove(&id);
        if let Some(peer) = self.by_link.get(&id) {
            self.lose(*peer, &Error::Lost(why.into()));
        } else if let Some(guest) = self.guests.remove(&id) {
            guest.sever(&self.epoll);
        }
    }

    fn understand(&mut self, id: u64, bytes: &[u8]) {
        let mut unread = bytes;
        loop {
            let understood = frame::decode(unread).and_then(|read| match read {
                Some((frame, len)) => {
                    unread = &unread[len..];
                    self.heard(id, frame).map(|()| true)
                }
                None => Ok(false),
            });
            match understood {
                Ok(true) => {}
                Ok(false) => break,
                Err(Violation(what)) => {
                    return self.link_ended(id, &format!("it broke the protocol: {what}"));
                }
            }
        }
        let peer = self.by_link.get(&id).copied();
        let pause = self.events.is_full() || peer.is_some_and(|peer| self.is_busy(peer));
        let epoll = Arc::clone(&self.epoll);
        if let Some(link) = self.link(id) {
            link.keep(unread);
            link.flush(&epoll);
            if pause {
                link.pause(&epoll, true);
                self.paused.insert(id);
            }
        }
    }

    fn heard(&mut self, link: u64, frame: Frame<'_>) -> Heard {
        let Some(id) = self.by_link.get(&link).copied() else {
            return match frame {
                // Turned away by something that came before it.
                _ if !self.guests.contains_key(&link) => Ok(()),
                Frame::Hello { from, to } => {
                    self.guest_says(link, from, &to);
                    Ok(())
                }
                Frame::Foreign(_) => {
                    self.guest_is_foreign(link);
                    Ok(())
                }
                _ => Err(Violation("something else than who it is")),
            };
        };
        let peer = self.peers.get(&id).expect("connections of peers have one");
        match (&peer.state, frame) {
            (State::Meeting { .. }, Frame::Welcome) => {
                self.up(id);
                Ok(())
            }
            (State::Meeting { .. }, Frame::Turned(why)) => {
                self.turned_away(id, why);
                Ok(())
            }
            (State::Up, frame) => self.heard_from(id, frame),
            _ => Err(Violation("something else than an answer")),
        }
    }

    fn heard_from(&mut self, id: PeerId, frame: Frame<'_>) -> Heard {
        match frame {
            Frame::File { region } => {
                let file = self.file_of(id).ok_or(Violation("a region without its file"))?;
                match Mapping::open(file) {
                    Ok(mapping) => self.learn(id, region, Source::Mapped(mapping)),
                    Err(error) => {
                        // Without it, nothing with this peer can be copied: a limit of this machine, or the peer's fault.
                        self.lose(id, &error);
                        Ok(())
                    }
                }
            }
            Frame::Memory { region, base, len } => self.learn(id, region, Source::Process { base, len }),
            Frame::Device { region, export } => {
                let file = self.file_of(id).ok_or(Violation("a device's region without its file"))?;
                self.learn(id, region, Source::Device(Remote::new(export, file)))
            }
            Frame::Forget(region) => {
                self.peers.get_mut(&id).expect("the caller has found it").sources.remove(&region);
                Ok(())
            }
            Frame::Read { id: number, token, count, part } => {
                self.asks_to_read(id, number, token, count, part)
            }
            Frame::Write { id: number, token, count, compare, message, part } => {
                let message = message.map(Bytes::copy_from_slice);
                self.asks_to_write(id, number, token, count, compare, message, part)
            }
            Frame::MoreRanges { id: number, part } => self.more_ranges(id, number, part),
            Frame::MorePairs { id: number, part } => self.more_pairs(id, number, part),
            Frame::Go(number) => self.go(id, number),
            Frame::Stop(number, reason) => {
                self.stop_reading(number, reason);
                Ok(())
            }
            Frame::Over(number) => {
                self.over(id, number);
                Ok(())
            }
            Frame::Wrote(number) => self.answered(TransferId(number), id, Ok(())),
            Frame::No(number, reason) => self.answered(TransferId(number), id, Err(reason.error())),
            Frame::Cancel(number) => {
                self.cancelled(id, number);
                Ok(())
            }
            Frame::Notify(message) => {
                self.events.push(Event::Notified(id, Bytes::copy_from_slice(message)));
                Ok(())
            }
            Frame::Hello { .. } | Frame::Foreign(_) | Frame::Welcome | Frame::Turned(_) => {
                Err(Violation("who it is, twice"))
            }
        }
    }

    /// The file that came along.
    fn file_of(&mut self, id: PeerId) -> Option<OwnedFd> {
        self.peers.get_mut(&id)?.link.as_mut()?.files.pop_front()
    }

    fn learn(&mut self, id: PeerId, region: crate::RegionId, source: Source) -> Heard {
        let sources = &mut self.peers.get_mut(&id).expect("the caller has found it").sources;
        if sources.len() >= MAX_REGIONS || sources.contains_key(&region) {
            return Err(Violation("more regions than there may be, or one twice"));
        }
        sources.insert(region, Arc::new(source));
        Ok(())
    }
}
