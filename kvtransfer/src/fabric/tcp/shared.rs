//! What all threads of a fabric share, and how they wake each other.
//!
//! Locks are taken in this order: an engine, the registry, the state. The state's is held for a few look-ups, never during
//! a call of the system other than waking somebody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::engine::Engine;
use super::limits::{MAX_STRANGERS, SCRATCH};
use super::options::TcpOptions;
use super::orders::Order;
use super::state::State;
use crate::Error;
use crate::fabric::common::Identity;
use crate::memory::Registry;

/// A progress thread, as others see it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) epoll: Epoll,
    /// What the thread does, for whoever holds the lock: a caller who finds it free does the work at once, which saves
    /// waking the thread.
    pub(super) engine: Mutex<Engine>,
    inbox: Mutex<Vec<Order>>,
    kick: EventFd,
    /// Whether the thread must be kicked to look into its inbox.
    asleep: AtomicBool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: TcpOptions,
    pub(super) own: Identity,
    pub(super) workers: Vec<Worker>,
    pub(super) stopping: AtomicBool,
    pub(super) wake: EventFd,
    /// Accepted streams of which nobody knows yet who they are.
    pub(super) strangers: std::sync::atomic::AtomicUsize,
    registry: RwLock<Registry>,
    state: Mutex<State>,
}

/// The number of the descriptor that wakes a thread; streams count from 0.
pub(super) const KICK: u64 = u64::MAX;

/// A panic elsewhere leaves nothing half done that matters here: what is guarded is consistent between calls.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Worker {
    pub(super) fn new(engine: Engine) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| Error::System("epoll_create1", errno as i32))?;
        let kick = eventfd()?;
        epoll
            .add(&kick, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, KICK))
            .map_err(|errno| Error::System("epoll_ctl", errno as i32))?;
        Ok(Self {
            epoll,
            engine: Mutex::new(engine),
            inbox: Mutex::default(),
            kick,
            asleep: AtomicBool::new(false),
        })
    }

    pub(super) fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut lock(&self.inbox))
    }

    /// From here on others kick. `false`, and they do not, if there are orders.
    pub(super) fn lie_down(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let idle = lock(&self.inbox).is_empty();
        if !idle {
            self.get_up();
        }
        idle
    }

    pub(super) fn get_up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Somebody else has taken the kick.
    pub(super) fn was_not_kicked(&self) {
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// Wakes the thread if it sleeps.
    pub(super) fn kick(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // It can only fail by overflowing, and then it is readable anyway.
            let _ = self.kick.write(1);
        }
    }
}

fn eventfd() -> Result<EventFd, Error> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| Error::System("eventfd", errno as i32))
}

impl Shared {
    pub(super) fn new(options: TcpOptions, workers: Vec<Worker>) -> Result<Self, Error> {
        Ok(Self {
            own: Identity { name: options.name.clone(), epoch: options.epoch },
            state: Mutex::new(State::new(options.threads)),
            registry: RwLock::default(),
            stopping: AtomicBool::new(false),
            strangers: std::sync::atomic::AtomicUsize::new(0),
            wake: eventfd()?,
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
        if state.has_events() && !std::mem::replace(&mut state.signalled, true) {
            let _ = self.wake.write(1);
        }
        (result, state.take_orders())
    }

    fn put(&self, orders: Vec<Order>) {
        for order in orders {
            if let Some(worker) = self.workers.get(order.owner()) {
                lock(&worker.inbox).push(order);
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
        owners.into_iter().filter_map(|owner| self.workers.get(owner)).for_each(Worker::kick);
    }

    /// The same, but does at once what nobody is at. Whoever calls holds none of the locks.
    pub(super) fn obey(&self, orders: Vec<Order>) {
        let mut owners: Vec<usize> = orders.iter().map(Order::owner).collect();
        owners.sort_unstable();
        owners.dedup();
        self.put(orders);
        for worker in owners.into_iter().filter_map(|owner| self.workers.get(owner)) {
            if !self.help(worker) {
                worker.kick();
            }
        }
    }

    /// Does a thread's work for a moment, if nobody does. Whether its inbox has been seen to.
    pub(super) fn help(&self, worker: &Worker) -> bool {
        if self.stopping.load(Ordering::SeqCst) {
            return false;
        }
        let Ok(mut engine) = worker.engine.try_lock() else { return false };
        engine.turn(self, worker);
        // What is left is for the thread, which may be asleep.
        if engine.has_work() {
            worker.kick();
        }
        true
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
