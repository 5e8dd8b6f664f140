//! The thread that talks to NIXL for files and objects.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use kvferry_nixl_sys::Library;

use super::places::{Places, Thing};
use crate::fabric::common::{EventQueue, Inbox};
use crate::fabric::nixl::cut::Cursor;
use crate::fabric::nixl::held::Held;
use crate::fabric::nixl::limits::{POSTS_AT_ONCE, WINDOW_REQUESTS};
use crate::fabric::nixl::options::plugin_name;
use crate::fabric::nixl::patience::Patience;
use crate::fabric::nixl::raw::{Agent, Desc, Ended, Request, known};
use crate::fabric::{Direction, Event, Limits};
use crate::segment::Segment;
use crate::{Error, RegionId, TransferId};

/// The agent's name: nobody else ever hears it.
pub(super) const NAME: &str = "kvferry-storage";

/// What to do.
#[derive(Debug)]
pub(super) enum Command {
    Add(Thing, SyncSender<Result<RegionId, Error>>),
    Forget(RegionId, SyncSender<Result<(), Error>>),
    Submit(Direction, Arc<[Segment]>, SyncSender<Result<TransferId, Error>>),
    Cancel(TransferId),
    Close,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inbox: Inbox<Command>,
    pub(super) events: EventQueue,
}

#[derive(Debug)]
struct Transfer {
    direction: Direction,
    segments: Arc<[Segment]>,
    cursor: Cursor,
    /// Requests under way.
    moving: usize,
    all_posted: bool,
    /// Why it is given up.
    ending: Option<Error>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    shared: &'a Shared,
    places: Places,
    transfers: HashMap<TransferId, Transfer>,
    next_transfer: u64,
    /// Those that have something to post, in the order of their turns.
    turns: VecDeque<TransferId>,
    running: Vec<(TransferId, Request)>,
    closing: bool,
    patience: Patience,
}

/// Whether a plugin knows these parameters, if it tells of any.
///
/// # Errors
/// [`Error::Library`] names those that it knows.
pub(super) fn known_params(
    nixl: &Arc<Library>,
    plugin: &str,
    params: &[(String, String)],
) -> Result<(), Error> {
    // What cannot be loaded is told when it is created.
    let Ok(of_itself) = known(nixl, &plugin_name(plugin)?) else { return Ok(()) };
    let keys: Vec<&str> = of_itself.params.iter().map(|(key, _)| key.as_str()).collect();
    match params.iter().find(|(key, _)| !keys.is_empty() && !keys.contains(&key.as_str())) {
        Some((key, _)) => Err(Error::Library(format!(
            "NIXL's plugin {plugin} does not know the parameter {key:?}; it knows {}",
            keys.join(", ")
        ))),
        None => Ok(()),
    }
}

impl<'a> Worker<'a> {
    pub(super) fn new(shared: &'a Shared, agent: Agent, plugin: String) -> Self {
        Self {
            shared,
            places: Places::new(agent, plugin),
            transfers: HashMap::new(),
            next_transfer: 0,
            turns: VecDeque::new(),
            running: Vec::new(),
            closing: false,
            patience: Patience::default(),
        }
    }

    /// Runs until it is closed, and nothing is under way.
    pub(super) fn run(mut self) {
        while !(self.closing && self.transfers.is_empty()) {
            let commands = self.shared.inbox.take();
            let mut busy = !commands.is_empty();
            for command in commands {
                self.obey(command);
            }
            busy |= self.look();
            busy |= self.pump();
            if busy {
                self.patience.begin_anew();
            } else {
                self.patience.rest(!self.running.is_empty(), &self.shared.inbox, None, None);
            }
        }
    }

    fn obey(&mut self, command: Command) {
        // Nobody waits for an answer any more, at worst.
        match command {
            Command::Add(thing, answer) => {
                drop(answer.send(self.open().and_then(|()| self.places.add(thing))));
            }
            Command::Forget(id, answer) => drop(answer.send(self.places.forget(id))),
            Command::Submit(direction, segments, answer) => {
                drop(answer.send(self.submit(direction, segments)));
            }
            Command::Cancel(id) => self.give_up(id, Error::Cancelled),
            Command::Close => {
                self.closing = true;
                for id in self.transfers.keys().copied().collect::<Vec<_>>() {
                    self.give_up(id, Error::Closed);
                }
            }
        }
    }

    fn open(&self) -> Result<(), Error> {
        if self.closing { Err(Error::Closed) } else { Ok(()) }
    }

    fn submit(&mut self, direction: Direction, segments: Arc<[Segment]>) -> Result<TransferId, Error> {
        self.open()?;
        if self.transfers.len() >= Limits::MAX_TRANSFERS {
            return Err(Error::Full("transfers under way (16 Ki)"));
        }
        self.places.check(direction, &segments)?;
        self.places.uses(&segments, |uses| *uses += 1);
        let id = TransferId(self.next_transfer);
        self.next_transfer += 1;
        let (cursor, moving, all_posted, ending) = (Cursor::default(), 0, false, None);
        self.transfers.insert(id, Transfer { direction, segments, cursor, moving, all_posted, ending });
        self.turns.push_back(id);
        Ok(id)
    }

    fn give_up(&mut self, id: TransferId, why: Error) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.ending.get_or_insert(why);
            transfer.all_posted = true;
            self.settle(id);
        }
    }

    /// Posts some more. Returns whether anything was.
    fn pump(&mut self) -> bool {
        let mut any = false;
        for _ in 0..POSTS_AT_ONCE {
            if self.running.len() >= WINDOW_REQUESTS {
                break;
            }
            let Some(id) = self.turns.pop_front() else { break };
            any = true;
            match self.next_request(id) {
                Ok(Some(request)) => {
                    self.turns.push_back(id);
                    self.post(id, request);
                }
                Ok(None) => {
                    if let Some(transfer) = self.transfers.get_mut(&id) {
                        transfer.all_posted = true;
                    }
                    self.settle(id);
                }
                Err(why) => self.give_up(id, why),
            }
        }
        any
    }

    /// What a transfer moves next; `None` at its end.
    fn next_request(&mut self, id: TransferId) -> Result<Option<Request>, Error> {
        let Some(transfer) = self.transfers.get_mut(&id).filter(|transfer| !transfer.all_posted) else {
            return Ok(None);
        };
        let places = &self.places;
        let kind = |id| places.registered(id).map(|registered| registered.memory.kind);
        let kinds = |segment: &Segment| (kind(segment.local.region), kind(segment.remote.region));
        let moves = transfer.cursor.next(&transfer.segments, |one, other| kinds(one) == kinds(other));
        let Some(first) = moves.first() else { return Ok(None) };
        let unknown = |id| move || Error::UnknownRegion(id);
        let there = kind(first.remote.region).ok_or_else(unknown(first.remote.region))?;
        let (mut held, mut descs) = (Held::default(), Vec::with_capacity(moves.len()));
        // Memory first: the files are kept with it until the request has ended, and no move names them as memory.
        for one in &moves {
            let local = held.number(one.local.region, places.registered(one.local.region))?;
            let id = one.remote.region;
            let device = places.registered(id).ok_or_else(unknown(id))?.memory.device;
            let (offset, there) = (one.local.offset, one.remote.offset);
            descs.push(Desc { local, offset, there, device, len: one.len });
        }
        for id in moves.iter().map(|one| one.remote.region) {
            held.number(id, places.registered(id))?;
        }
        let (agent, name) = (places.agent(), places.agent().name());
        let made = Request::of(agent, transfer.direction, held.all(), (name, there), &descs);
        made.map(Some).map_err(|status| self.failed(status))
    }

    fn failed(&self, status: impl std::fmt::Display) -> Error {
        let plugin = self.places.plugin();
        Error::Library(format!(
            "NIXL's plugin {plugin} could not move it: {status}; what it wrote to the standard error says more"
        ))
    }

    fn post(&mut self, id: TransferId, mut request: Request) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.moving += 1;
        }
        match request.post() {
            Ok(Ended::NotYet) => self.running.push((id, request)),
            Ok(Ended::Yes) => self.ended(id, Ok(())),
            Err(status) => self.ended(id, Err(self.failed(status))),
        }
    }

    /// Looks after the requests under way. Returns whether any has ended.
    fn look(&mut self) -> bool {
        let (mut at, mut any) = (0, false);
        while let Some((_, request)) = self.running.get_mut(at) {
            let result = match request.look() {
                Ok(Ended::NotYet) => {
                    at += 1;
                    continue;
                }
                Ok(Ended::Yes) => Ok(()),
                Err(status) => Err(self.failed(status)),
            };
            any = true;
            let (id, request) = self.running.swap_remove(at);
            drop(request);
            self.ended(id, result);
        }
        any
    }

    fn ended(&mut self, id: TransferId, result: Result<(), Error>) {
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.moving -= 1;
        }
        match result {
            Ok(()) => self.settle(id),
            Err(why) => self.give_up(id, why),
        }
    }

    /// Tells a transfer's end, if nothing of it is left.
    fn settle(&mut self, id: TransferId) {
        let over = |transfer: &Transfer| transfer.all_posted && transfer.moving == 0;
        if !self.transfers.get(&id).is_some_and(over) {
            return;
        }
        let Some(transfer) = self.transfers.remove(&id) else { return };
        self.places.uses(&transfer.segments, |uses| *uses -= 1);
        self.shared.events.push(match transfer.ending {
            None => Event::Done(id),
            Some(why) => Event::Failed(id, why),
        });
    }
}
