//! The decorator itself: calls go to the inner fabric, events come through the pump, in a thread of its own.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use kvferry_transfer::fabric::{Backend, Event, Fabric, Lane, Request};
use kvferry_transfer::memory::Region;
use kvferry_transfer::{Error, Lease, PeerId, RegionId, Token, TransferId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use crate::memory::Memory;
use crate::plan::{Counts, Plan};
use crate::pump::{Asked, State};
use crate::queue::{counter, fd};

/// See the [crate].
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Inner {
    fabric: Box<dyn Fabric>,
    state: Mutex<State>,
    /// Readable while there are events.
    wake: EventFd,
    /// Ends the thread.
    stop: EventFd,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faulty").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Faulty {
    /// Around that fabric.
    ///
    /// # Errors
    /// If the machine has no descriptors or threads to give.
    pub fn new(fabric: Box<dyn Fabric>, plan: Plan) -> Result<Self, Error> {
        let (state, wake, stop) = (Mutex::new(State::new(plan)), counter()?, counter()?);
        let inner = Arc::new(Inner { fabric, state, wake, stop });
        let pumped = Arc::clone(&inner);
        let thread = std::thread::Builder::new()
            .name("kv-faults".into())
            .spawn(move || pumped.run())
            .map_err(|error| Error::system("starting a thread", &error))?;
        Ok(Self { inner, thread: Mutex::new(Some(thread)) })
    }

    /// Another plan from now on; the dice roll on.
    pub fn plan(&self, plan: Plan) {
        self.inner.state().plan = plan;
    }

    /// What went wrong so far.
    pub fn counts(&self) -> Counts {
        self.inner.state().counts
    }

    /// The regions that are registered here: for whoever writes to this side and is to spoil it.
    pub fn memory(&self) -> Memory {
        self.inner.state().own.clone()
    }

    /// Writes from here go to those regions (of a fabric in this process), where bytes can be spoiled.
    pub fn writes_to(&self, memory: Memory) {
        self.inner.state().far = Some(memory);
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let due = self.state().due();
            let wait = due.map_or(PollTimeout::NONE, |due| {
                let millis = due.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [
                PollFd::new(self.fabric.wake_fd(), PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            // Interrupted or not: it is looked at what there is.
            let _ = poll(&mut fds, wait);
            if fds[1].any().unwrap_or(false) {
                return;
            }
            self.pump(false);
        }
    }

    /// Takes the inner fabric's events, and says what is to be said.
    fn pump(&self, all: bool) {
        let mut lose = Vec::new();
        {
            let mut state = self.state();
            let (mut events, now) = (Vec::new(), Instant::now());
            self.fabric.poll(&mut events);
            for event in events {
                lose.extend(state.take(event, now, &self.wake));
            }
            state.release(now, all, &self.wake);
        }
        for peer in lose {
            self.fabric.disconnect(peer);
        }
    }
}

impl Fabric for Faulty {
    fn backend(&self) -> Backend {
        self.inner.fabric.backend()
    }

    fn register(&self, region: Region) -> Result<RegionId, Error> {
        let id = self.inner.fabric.register(region.clone())?;
        self.inner.state().own.insert(id, region);
        Ok(id)
    }

    fn deregister(&self, region: RegionId) -> Result<(), Error> {
        self.inner.fabric.deregister(region)?;
        self.inner.state().own.remove(region);
        Ok(())
    }

    fn metadata(&self) -> Result<Bytes, Error> {
        self.inner.fabric.metadata()
    }

    fn connect(&self, metadata: &[u8]) -> Result<PeerId, Error> {
        self.inner.fabric.connect(metadata)
    }

    fn disconnect(&self, peer: PeerId) {
        self.inner.fabric.disconnect(peer);
    }

    fn grant(&self, lease: Lease) -> Result<(), Error> {
        self.inner.fabric.grant(lease)
    }

    fn revoke(&self, token: Token) {
        self.inner.fabric.revoke(token);
    }

    fn submit(&self, request: Request) -> Result<TransferId, Error> {
        // Held until it is known, so that its end is not seen before.
        let mut state = self.inner.state();
        let chance = state.plan.fail_submit;
        if state.rolls(chance) {
            state.counts.failed_submits += 1;
            return Err(Error::System("a fault of the plan", 5));
        }
        let Request { peer, direction, .. } = request;
        let segments = Arc::clone(&request.segments);
        let id = self.inner.fabric.submit(request)?;
        state.asked.insert(id, Asked { peer, direction, segments });
        Ok(id)
    }

    fn cancel(&self, transfer: TransferId) {
        self.inner.fabric.cancel(transfer);
    }

    fn notify(&self, peer: PeerId, message: Bytes) -> Result<(), Error> {
        self.inner.fabric.notify(peer, message)
    }

    fn poll(&self, events: &mut Vec<Event>) -> usize {
        self.inner.state().queue.drain(events, &self.inner.wake)
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        fd(&self.inner.wake)
    }

    fn lane(&self, peer: PeerId) -> Option<Lane> {
        self.inner.fabric.lane(peer)
    }

    fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        self.inner.fabric.close();
        // A counter takes 1.
        let _ = self.inner.stop.write(1);
        // If it panicked there is nobody left to wait for.
        let _ = thread.join();
        self.inner.state().plan = Plan::default();
        self.inner.pump(true);
        self.inner.state().own.clear();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.close();
    }
}
