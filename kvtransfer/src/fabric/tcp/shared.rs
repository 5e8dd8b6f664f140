//! What all threads of a fabric share, and how they wake each other.
//!
//! Locks are taken in this order: an engine, the registry, the state. The state's is held for a few look-ups, never during
//! a call of the system other than waking somebody.

use std::ops::DerefMut;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use kvferry_inbox::Duty;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::attention::{Attention, Helped};
use super::engine::Engine;
use super::limits::{MAX_STRANGERS, SCRATCH};
use super::options::TcpOptions;
use super::orders::Order;
use super::state::State;
use crate::Error;
use crate::fabric::common::{Doorbell, EventQueue, Identity, Inbox};
use crate::memory::Registry;

/// A progress thread, as others see it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) epoll: Epoll,
    /// What the thread does, for whoever has the engine: a caller who finds it free does the work at once, which saves waking
    /// the thread.
    duty: Duty<Engine, Order, Doorbell>,
    clock: TimerFd,
    pub(super) helped: Helped,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: TcpOptions,
    pub(super) own: Identity,
    pub(super) workers: Vec<Worker>,
    pub(super) stopping: AtomicBool,
    /// A caller has begun a short transfer, and nothing can have come of it yet.
    pub(super) just_begun: AtomicBool,
    pub(super) events: EventQueue,
    pub(super) attention: Attention,
    /// Accepted streams of which nobody knows yet who they are.
    pub(super) strangers: std::sync::atomic::AtomicUsize,
    registry: RwLock<Registry>,
    state: Mutex<State>,
}

/// The number of the descriptor that wakes a thread; streams count from 0.
pub(super) const KICK: u64 = u64::MAX;
/// And of the one that wakes it in time.
pub(super) const CLOCK: u64 = KICK - 1;

/// A panic elsewhere leaves nothing half done that matters here: what is guarded is consistent between calls.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    pub(super) fn new(engine: Engine) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| Error::System("epoll_create1", errno as i32))?;
        let kick = Doorbell::new()?;
        epoll
            .add(&kick, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, KICK))
            .map_err(|errno| Error::System("epoll_ctl", errno as i32))?;
        let clock =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)
                .map_err(|errno| Error::System("timerfd_create", errno as i32))?;
        epoll
            .add(&clock, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, CLOCK))
            .map_err(|errno| Error::System("epoll_ctl", errno as i32))?;
        Ok(Self { epoll, duty: Duty::new(engine, kick), clock, helped: Helped::default() })
    }

    /// The engine, once nobody else is at it.
    pub(super) fn engine(&self) -> impl DerefMut<Target = Engine> {
        self.duty.engine()
    }

    /// Whether the engine is free, and leaves something that can be done without waiting.
    pub(super) fn is_left_work(&self) -> bool {
        self.duty.free_engine().is_some_and(|engine| engine.has_work())
    }

    /// What the thread is to do, and how it is woken.
    pub(super) fn orders(&self) -> &Inbox<Order> {
        self.duty.inbox()
    }

    /// Does the thread's work for a moment, if nobody does: whether it was done. `work` tells whether it leaves some.
    pub(super) fn help(&self, work: impl FnOnce(&mut Engine) -> bool) -> bool {
        self.duty.help(|engine, _| work(engine))
    }

    /// Wakes the thread after `time`, and not before for any earlier reason; or never. A timer that stays is cheaper than one
    /// for each sleep: most are not slept to their end.
    pub(super) fn wake_after(&self, time: Option<Duration>) {
        // Zero would mean never.
        let time = time.map(|time| TimeSpec::from_duration(time.max(Duration::from_micros(1))));
        let set = time.map_or_else(
            || self.clock.unset(),
            |time| self.clock.set(Expiration::OneShot(time), TimerSetTimeFlags::empty()),
        );
        debug_assert!(set.is_ok(), "a clock of our own and a time that is one: {set:?}");
    }

    /// Sleeps until it is kicked, whatever the sockets say, or until `time` has passed; whether it was kicked.
    pub(super) fn await_kick(&self, time: Duration) -> bool {
        let timeout = TimeSpec::from_duration(time);
        // If that fails, the thread goes on sooner.
        ppoll(&mut [PollFd::new(self.orders().bell().as_fd(), PollFlags::POLLIN)], Some(timeout), None)
            != Ok(0)
    }
}

impl Shared {
    pub(super) fn new(options: TcpOptions, workers: Vec<Worker>) -> Result<Self, Error> {
        let events = EventQueue::new()?;
        Ok(Self {
            own: Identity { name: options.name.clone(), epoch: options.epoch },
            state: Mutex::new(State::new(options.threads)),
            registry: RwLock::default(),
            stopping: AtomicBool::new(false),
            just_begun: AtomicBool::new(false),
            strangers: std::sync::atomic::AtomicUsize::new(0),
            attention: Attention::new(events.wake_fd())?,
            events,
            workers,
            options,
        })
    }

    pub(super) fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn registry_mut(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks something up or changes it; then sends out what came of it.
    pub(super) fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        let (result, orders) = self.look(look);
        self.post(orders);
        result
    }

    /// Like [`with`](Self::with), but sends nothing out yet: that is for [`post`](Self::post) or [`obey`](Self::obey).
    pub(super) fn look<R>(&self, look: impl FnOnce(&mut State) -> R) -> (R, Vec<Order>) {
        let mut state = lock(&self.state);
        let result = look(&mut state);
        // While the lock is held, so that they come in order.
        state.take_events().into_iter().for_each(|event| self.events.push(event));
        (result, state.take_orders())
    }

    fn put(&self, orders: Vec<Order>) {
        for order in orders {
            if let Some(worker) = self.workers.get(order.owner()) {
                worker.orders().put(order);
            }
        }
    }

    /// Sends out what others are to do.
    pub(super) fn post(&self, orders: Vec<Order>) {
        if orders.is_empty() {
            return;
        }
        let mut owners: Vec<usize> = orders.iter().map(Order::owner).collect();
        owners.dedup();
        self.put(orders);
        owners
            .into_iter()
            .filter_map(|owner| self.workers.get(owner))
            .for_each(|worker| worker.orders().call());
    }

    /// From here on callers who wait are woken for sockets, or not any more.
    pub(super) fn attend(&self, wanted: bool) {
        self.attention.want(wanted, self.workers.iter().map(|worker| &worker.epoll));
    }

    /// The same, but does at once what nobody is at. Whoever calls holds none of the locks.
    pub(super) fn obey(&self, orders: Vec<Order>) {
        let mut owners: Vec<usize> = orders.iter().map(Order::owner).collect();
        owners.sort_unstable();
        owners.dedup();
        self.put(orders);
        for worker in owners.into_iter().filter_map(|owner| self.workers.get(owner)) {
            if !self.help(worker, false) {
                worker.orders().call();
            }
        }
    }

    /// Does a thread's work for a moment, if nobody does; also what `sockets` have, if so asked. Whether its inbox has been
    /// seen to.
    pub(super) fn help(&self, worker: &Worker, sockets: bool) -> bool {
        if self.stopping.load(Ordering::SeqCst) {
            return false;
        }
        worker.help(|engine| {
            if engine.turn(self, worker, sockets) {
                worker.helped.once_more();
            }
            engine.has_work()
        })
    }

    /// Counts a stranger in, if there is room for one.
    pub(super) fn stranger_in(&self) -> bool {
        let room = |count| (count < MAX_STRANGERS).then_some(count + 1);
        self.strangers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    pub(super) fn stranger_out(&self) {
        self.strangers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Bytes that are read to be thrown away.
pub(super) fn scratch() -> Vec<u8> {
    vec![0; SCRATCH]
}
