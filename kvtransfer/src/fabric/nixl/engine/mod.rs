//! The progress thread: it alone talks to NIXL. Each turn it does what callers want, hears what peers say, looks at the
//! requests that are under way, posts more, and rests when none of that had anything to do. While nothing is under way it
//! sleeps until somebody calls; while something is, it looks again soon, for NIXL has nothing that could wake it.
//!
//! - [`meet`] and [`part`]: peers come and go;
//! - [`hear`]: what they say, message by message, in order;
//! - [`ask`]: transfers of this side, and [`pump`], which posts their requests in turns;
//! - [`serve`]: what peers do under this side's leases;
//! - [`hash`]: checksums, a little at a time;
//! - [`regions`], [`keys`]: this side's memory, and what opens the peers'.

mod ask;
mod clock;
mod hash;
mod hear;
mod keys;
mod meet;
mod part;
mod peer;
mod pump;
mod regions;
mod serve;

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::sync::Arc;
use std::time::Instant;

use self::ask::Transfer;
use self::clock::Due;
use self::hash::Hashing;
use self::peer::Peer;
use self::pump::Running;
use self::regions::Mapped;
use super::limits::CLOSE_WITHIN;
use super::message::Proof;
use super::options::NixlOptions;
use super::patience::Patience;
use super::raw::Agent;
use super::shared::{Command, Shared};
use crate::fabric::common::{Identity, Timers};
use crate::fabric::{Event, Fabric};
use crate::lease::Refused;
use crate::{Error, PeerId, RegionId, TransferId};

/// See the module.
#[derive(Debug)]
pub(super) struct Engine {
    shared: Arc<Shared>,
    me: Identity,
    options: NixlOptions,
    agent: Agent,
    /// Where peers reach the plugin.
    info: Vec<u8>,
    mapped: HashMap<RegionId, Mapped>,
    peers: HashMap<PeerId, Peer>,
    /// Peers that NIXL knows, by the name that it knows them by.
    names: HashMap<CString, PeerId>,
    /// Proofs that came before their senders were known.
    proofs: HashMap<CString, Proof>,
    /// Peers that messages wait for.
    held_back: VecDeque<PeerId>,
    transfers: HashMap<TransferId, Transfer>,
    running: Vec<Running>,
    /// Peers that may have something to post.
    active: VecDeque<PeerId>,
    hashing: VecDeque<Hashing>,
    timers: Timers<Due>,
    heard: Vec<Event>,
    patience: Patience,
    closing: Option<Instant>,
}

impl Engine {
    pub(super) fn new(
        shared: Arc<Shared>,
        me: Identity,
        options: NixlOptions,
        agent: Agent,
        info: Vec<u8>,
    ) -> Self {
        Self {
            shared,
            me,
            options,
            agent,
            info,
            mapped: HashMap::new(),
            peers: HashMap::new(),
            names: HashMap::new(),
            proofs: HashMap::new(),
            held_back: VecDeque::new(),
            transfers: HashMap::new(),
            running: Vec::new(),
            active: VecDeque::new(),
            hashing: VecDeque::new(),
            timers: Timers::default(),
            heard: Vec::new(),
            patience: Patience::default(),
            closing: None,
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
            busy |= self.hear();
            busy |= self.look();
            busy |= self.look_for_proofs();
            busy |= self.pump();
            busy |= self.hash();
            busy |= self.send_held_back();
            self.look_at_clock(Instant::now());
            if self.closing.is_some_and(|until| self.peers.is_empty() || until <= Instant::now()) {
                break;
            }
            if busy {
                self.patience.begin_anew();
            } else {
                let (under_way, shared) = (self.must_look(), &self.shared);
                let control = Some(shared.control.wake_fd());
                self.patience.rest(under_way, &shared.inbox, control, self.timers.next());
            }
        }
        self.end_what_is_left();
        self.shared.control.close();
        self.shared.ledger.clear();
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
            Command::Blocks(id, len, answer) => drop(answer.send(self.prepare(id, len))),
            Command::Connect(peer, identity) => self.connect(peer, identity),
            Command::Disconnect(peer) => self.lose(peer, &Error::Cancelled),
            Command::Watch(token, deadline) => {
                self.timers.add(deadline, Due::Lease(token));
            }
            Command::Revoked(token) => self.stop_serving(token, Refused::NoLease),
            Command::Submit(id, request) => self.begin(id, request),
            Command::Cancel(id) => self.give_up(id, Error::Cancelled),
            Command::Notify(peer, message) => self.notify(peer, &message),
            Command::Resume => self.give_credit(),
            Command::Close => self.close(),
        }
    }

    /// Whether something is under way that nothing tells the end of.
    fn must_look(&self) -> bool {
        let meeting = || self.peers.values().any(Peer::is_meeting);
        // Without a thread of NIXL's own, what peers move here needs this one.
        let served =
            || !self.options.progress_thread && self.peers.values().any(|peer| !peer.serving.is_empty());
        !self.running.is_empty() || !self.held_back.is_empty() || meeting() || served()
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
