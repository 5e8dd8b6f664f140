//! The progress thread: it alone talks to UCX. Each turn it does what callers want, lets UCX work, looks at what came of it,
//! posts more, and sleeps when none of that had anything to do.
//!
//! - [`meet`] and [`part`]: peers come and go;
//! - [`hear`]: what they say, message by message, in order;
//! - [`ask`]: transfers of this side, and [`pump`], which posts their operations in turns;
//! - [`ends`]: what became of operations;
//! - [`serve`]: what peers do under this side's leases;
//! - [`hash`]: checksums, a little at a time;
//! - [`regions`], [`clock`].

mod ask;
mod clock;
mod ends;
mod hash;
mod hear;
mod meet;
mod part;
mod peer;
mod pump;
mod regions;
mod serve;

use std::collections::{HashMap, VecDeque};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::ask::Transfer;
use self::clock::Due;
use self::hash::Hashing;
use self::peer::Peer;
use super::limits::{CLOSE_WITHIN, DOZE, LONGEST_SLEEP, PROGRESS_TURNS};
use super::message::Link;
use super::metadata::Metadata;
use super::options::UcxOptions;
use super::raw::{Mapped, News, Status, Worker};
use super::shared::{Command, Shared};
use crate::fabric::common::Timers;
use crate::{Error, PeerId, RegionId, TransferId};

/// What an operation is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// The way to a new peer.
    Meet(PeerId),
    /// A message of so many bytes.
    Message(PeerId, usize),
    /// So many bytes of a transfer.
    Data(PeerId, TransferId, u64),
    /// That all of a transfer's bytes have arrived.
    Flush(PeerId, TransferId),
    /// That the last message has.
    Bye(PeerId),
    /// The end of the way.
    Close(PeerId),
}

impl Op {
    const fn peer(self) -> PeerId {
        match self {
            Self::Meet(peer)
            | Self::Message(peer, _)
            | Self::Data(peer, ..)
            | Self::Flush(peer, _)
            | Self::Bye(peer)
            | Self::Close(peer) => peer,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Engine {
    shared: Arc<Shared>,
    me: Metadata,
    options: UcxOptions,
    mapped: HashMap<RegionId, Rc<Mapped>>,
    peers: HashMap<PeerId, Peer>,
    by_link: HashMap<Link, PeerId>,
    transfers: HashMap<TransferId, Transfer>,
    /// Peers that may have something to post.
    active: VecDeque<PeerId>,
    hashing: VecDeque<Hashing>,
    timers: Timers<Due>,
    /// Operations that ended when they were posted.
    ended: Vec<(Op, Result<(), Status>)>,
    /// Empty between turns; kept for its room.
    news: News<Op>,
    closing: Option<Instant>,
    /// Last: what the fields above hold is let go of before it.
    worker: Worker<Op>,
}

impl Engine {
    pub(super) fn new(shared: Arc<Shared>, me: Metadata, options: UcxOptions, worker: Worker<Op>) -> Self {
        Self {
            shared,
            me,
            options,
            mapped: HashMap::new(),
            peers: HashMap::new(),
            by_link: HashMap::new(),
            transfers: HashMap::new(),
            active: VecDeque::new(),
            hashing: VecDeque::new(),
            timers: Timers::default(),
            ended: Vec::new(),
            news: News::default(),
            closing: None,
            worker,
        }
    }

    /// Runs until the fabric is closed.
    pub(super) fn run(mut self) {
        loop {
            let commands = self.shared.inbox.take();
            let mut busy = !commands.is_empty();
            for command in commands {
                self.obey(command);
            }
            busy |= self.worker.progress(PROGRESS_TURNS);
            busy |= self.hear();
            busy |= self.pump();
            busy |= self.hash();
            busy |= !self.ended.is_empty();
            self.look_at_clock(Instant::now());
            if self.closing.is_some_and(|until| self.peers.is_empty() || until <= Instant::now()) {
                break;
            }
            if !busy && !self.options.busy_poll {
                self.sleep();
            }
        }
        self.end_what_is_left();
        self.shared.clear();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Register(id, region, answer) => {
                // Nobody waits any more, at worst.
                drop(answer.send(self.register(id, &region)));
            }
            Command::Deregister(id, answer) => {
                self.deregister(id);
                answer.send(()).ok();
            }
            Command::Connect(peer, identity, address) => self.connect(peer, identity, &address),
            Command::Disconnect(peer) => self.lose(peer, &Error::Cancelled),
            Command::Watch(token, deadline) => {
                self.timers.add(deadline, Due::Lease(token));
            }
            Command::Revoked(token) => self.stop_serving(token, crate::lease::Refused::NoLease),
            Command::Submit(id, request) => self.begin(id, request),
            Command::Cancel(id) => self.give_up(id, Error::Cancelled),
            Command::Notify(peer, message) => self.notify(peer, &message),
            Command::Resume => self.give_credit(),
            Command::Close => self.close(),
        }
    }

    fn sleep(&mut self) {
        if !self.shared.inbox.sleep() {
            return;
        }
        if self.worker.arm() {
            let now = Instant::now();
            let mut most = LONGEST_SLEEP;
            if self.worker.under_way() > 0 {
                most = DOZE;
            }
            let left = self.timers.next().map_or(most, |next| next.saturating_duration_since(now).min(most));
            // The kernel counts in whole milliseconds: rather late than early.
            let millis = left.as_millis() + u128::from(!left.subsec_nanos().is_multiple_of(1_000_000));
            let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            let mut watched = [
                PollFd::new(self.worker.event_fd(), PollFlags::POLLIN),
                PollFd::new(self.shared.inbox.bell().as_fd(), PollFlags::POLLIN),
            ];
            // Woken for nothing, at worst.
            poll(&mut watched, timeout).ok();
            if watched[1].any() != Some(false) {
                return self.shared.inbox.woken();
            }
        }
        // What was rung meanwhile is heard at the next sleep.
        self.shared.inbox.get_up();
    }

    fn close(&mut self) {
        if self.closing.is_some() {
            return;
        }
        self.closing = Some(Instant::now() + CLOSE_WITHIN);
        let mut peers: Vec<PeerId> = self.peers.keys().copied().collect();
        peers.sort_unstable();
        for peer in peers {
            self.lose(peer, &Error::Closed);
        }
    }
}
