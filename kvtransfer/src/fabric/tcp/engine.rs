//! What a progress thread does: it waits for sockets, lets every stream that can get on have its turn, obeys orders, and
//! watches the clock. Streams belong to one engine for life.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::limits::TICK;
use super::numbers::ByNumber;
use super::orders::{Key, Order};
use super::shared::{CLOCK, KICK, Shared, Worker, scratch};
use super::socket::Listener;
use super::stream::{Context, Stream};
use crate::{Error, PeerId};

/// Events taken from the system at once.
pub(super) const EVENTS: usize = 256;
/// By a caller who helps: it waits for few streams at a time.
const HELPED: usize = 16;
/// Numbers of listeners count down from here; streams count from 0.
const LISTENERS: u64 = CLOCK - 1;

/// See the module.
#[derive(Debug)]
pub(super) struct Engine {
    index: usize,
    streams: ByNumber<u64, Held>,
    /// Streams that can get on.
    line: VecDeque<u64>,
    listeners: Vec<Listener>,
    /// Accepting rests until the next tick: there is no descriptor left.
    resting: bool,
    ticked: Instant,
    /// When the clock wakes somebody.
    armed: Option<Instant>,
    /// Whether it has: whoever hears of it looks at the time.
    late: bool,
    /// Whether it is to be set: whoever is the last to work sees to it.
    unset: bool,
    scratch: Vec<u8>,
}

#[derive(Debug)]
struct Held {
    stream: Stream,
    stranger: bool,
}

impl Engine {
    pub(super) fn new(index: usize, listeners: Vec<Listener>, now: Instant) -> Self {
        Self {
            index,
            streams: ByNumber::default(),
            line: VecDeque::new(),
            listeners,
            resting: false,
            ticked: now,
            armed: None,
            late: false,
            unset: false,
            scratch: scratch(),
        }
    }

    /// Watches the listeners.
    pub(super) fn watch(&self, worker: &Worker) -> Result<(), Error> {
        for (listener, number) in self.listeners.iter().zip(0..) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, LISTENERS - number);
            worker
                .epoll
                .add(listener, event)
                .map_err(|errno| Error::System("epoll_ctl of a listener", errno as i32))?;
        }
        Ok(())
    }

    /// Whether something can be done without waiting.
    pub(super) fn has_work(&self) -> bool {
        !self.line.is_empty()
    }

    /// One round for a caller: what the system says about the sockets, if that is asked for, orders, and a turn for every
    /// stream in line. Whether the sockets had something.
    pub(super) fn turn(&mut self, shared: &Shared, worker: &Worker, sockets: bool) -> bool {
        let mut events = [EpollEvent::empty(); HELPED];
        let count = if sockets { worker.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0) } else { 0 };
        // Not before: a clock that has rung must not be early.
        let now = Instant::now();
        if events[..count].iter().any(|event| event.data() == KICK) {
            // That was meant for the thread, which may sleep on: whoever has more for it must kick again.
            worker.orders().overheard();
        }
        self.notice(&events[..count], shared, now);
        self.round(shared, worker, now);
        if self.late {
            self.look(shared, now);
        }
        if self.unset {
            self.arm(shared, worker, now);
        }
        count > 0
    }

    pub(super) fn notice(&mut self, events: &[EpollEvent], shared: &Shared, now: Instant) {
        for event in events {
            let (number, flags) = (event.data(), event.events());
            if let Some(held) = self.streams.get_mut(&number) {
                let broken = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
                let hung_up = broken || flags.contains(EpollFlags::EPOLLRDHUP);
                held.stream.ready(
                    hung_up || flags.contains(EpollFlags::EPOLLIN),
                    broken || flags.contains(EpollFlags::EPOLLOUT),
                    hung_up,
                    now,
                );
                self.line_up(number);
            } else if number == CLOCK {
                (self.armed, self.late, self.unset) = (None, true, true);
            } else if number != KICK && number > LISTENERS - 64 {
                self.accept(shared);
            }
        }
    }

    pub(super) fn round(&mut self, shared: &Shared, worker: &Worker, now: Instant) {
        for order in worker.orders().take() {
            self.obey(order, shared, worker, now);
        }
        for _ in 0..self.line.len() {
            let Some(number) = self.line.pop_front() else { break };
            let Some(held) = self.streams.get_mut(&number) else { continue };
            held.stream.in_line = false;
            let mut cx = Context { shared, now, scratch: &mut self.scratch };
            match held.stream.work(&mut cx) {
                Ok(more) => {
                    if held.stranger && !held.stream.is_stranger() {
                        held.stranger = false;
                        shared.stranger_out();
                    }
                    if more {
                        self.line_up(number);
                    }
                }
                Err(error) => self.close(number, error, shared),
            }
        }
    }

    fn line_up(&mut self, number: u64) {
        if let Some(held) = self.streams.get_mut(&number)
            && !std::mem::replace(&mut held.stream.in_line, true)
        {
            self.line.push_back(number);
        }
    }

    fn obey(&mut self, order: Order, shared: &Shared, worker: &Worker, now: Instant) {
        match order {
            Order::Open { key, peer, to, address } => {
                let cx = Context { shared, now, scratch: &mut [] };
                match Stream::dial(key, peer, to, address, &cx) {
                    Ok(stream) => self.hold(key, stream, shared, worker),
                    Err(error) => not_opened(peer, key, error, shared),
                }
            }
            Order::Adopt { key, socket } => {
                let cx = Context { shared, now, scratch: &mut [] };
                match Stream::adopt(key, socket, &cx) {
                    Ok(stream) => self.hold(key, stream, shared, worker),
                    // Nobody has said who it is, so there is nobody to tell.
                    Err(_) => shared.stranger_out(),
                }
            }
            Order::Feed(key) => self.line_up(key.number),
            Order::Discard(key, transfer) => {
                if let Some(held) = self.streams.get_mut(&key.number) {
                    held.stream.discard(transfer, shared);
                }
            }
            Order::Close(key, error) => self.close(key.number, error, shared),
            Order::Credit(key, messages, bytes) => {
                if let Some(held) = self.streams.get_mut(&key.number) {
                    match held.stream.credit(messages, bytes) {
                        Ok(()) => self.line_up(key.number),
                        Err(error) => self.close(key.number, error, shared),
                    }
                }
            }
            Order::Look => (self.late, self.unset) = (true, true),
        }
    }

    fn hold(&mut self, key: Key, stream: Stream, shared: &Shared, worker: &Worker) {
        let stranger = stream.is_stranger();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        match worker.epoll.add(stream.socket(), EpollEvent::new(flags, key.number)) {
            Ok(()) => {
                self.streams.insert(key.number, Held { stream, stranger });
            }
            Err(errno) => {
                if stranger {
                    shared.stranger_out();
                }
                stream.end(Error::System("epoll_ctl of a stream", errno as i32), shared);
            }
        }
    }

    fn close(&mut self, number: u64, error: Error, shared: &Shared) {
        let Some(Held { stream, stranger }) = self.streams.remove(&number) else { return };
        if stranger {
            shared.stranger_out();
        }
        stream.end(error, shared);
    }

    fn accept(&mut self, shared: &Shared) {
        self.resting = false;
        for listener in &self.listeners {
            loop {
                match listener.accept(shared.options.silence) {
                    Ok(socket) if shared.stranger_in() => shared.with(|state| {
                        let key = state.new_key();
                        state.order(Order::Adopt { key, socket });
                    }),
                    Ok(socket) => drop(socket),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_of_the_connection(&error) => {}
                    // No descriptor or no memory: whoever waits is let in once there is.
                    Err(_) => {
                        self.resting = true;
                        break;
                    }
                }
            }
        }
    }

    /// Looks at the clock, for every stream and, in the first engine, for all that has a deadline.
    pub(super) fn look(&mut self, shared: &Shared, now: Instant) {
        self.late = false;
        if self.index == 0 {
            shared.with(|state| {
                state.asleep_until = None;
                if state.alarm().is_some_and(|alarm| alarm <= now) {
                    state.expire(now);
                }
            });
        }
        if now.saturating_duration_since(self.ticked) < TICK {
            return;
        }
        self.ticked = now;
        if self.index == 0 && shared.attention.is_wanted() && !shared.with(|state| state.is_brief()) {
            shared.attend(false);
        }
        if self.resting {
            self.accept(shared);
        }
        let overdue = shared.with(|state| state.overdue(now));
        let mut over = Vec::new();
        for (number, held) in &mut self.streams {
            let mut cx = Context { shared, now, scratch: &mut [] };
            if let Err(error) = held.stream.look(&mut cx) {
                over.push((*number, error));
            } else if !overdue.is_empty() && held.stream.uses(&overdue) {
                over.push((
                    *number,
                    Error::Lost("it does not get on with a chunk whose lease has ended".into()),
                ));
            } else if held.stream.has_words() {
                self.line.extend((!std::mem::replace(&mut held.stream.in_line, true)).then_some(*number));
            }
        }
        for (number, error) in over {
            self.close(number, error, shared);
        }
    }

    /// Sets the clock for when there is something to do next, if nothing happens: when that is; `None` for never.
    pub(super) fn arm(&mut self, shared: &Shared, worker: &Worker, now: Instant) -> Option<Instant> {
        if self.has_work() {
            return Some(now);
        }
        let until = self.alarm(shared);
        if until != self.armed {
            worker.wake_after(until.map(|until| until.saturating_duration_since(now)));
            self.armed = until;
        }
        self.unset = false;
        until
    }

    fn alarm(&self, shared: &Shared) -> Option<Instant> {
        let tick = (!self.streams.is_empty() || self.resting).then(|| self.ticked + TICK);
        if self.index > 0 {
            return tick;
        }
        shared.with(|state| {
            let until = [state.alarm(), tick].into_iter().flatten().min();
            state.asleep_until = until;
            until
        })
    }

    /// Closes all streams, after what can be said at once.
    pub(super) fn close_all(&mut self, shared: &Shared, worker: &Worker) {
        self.round(shared, worker, Instant::now());
        self.listeners.clear();
        for (_, Held { mut stream, .. }) in self.streams.drain() {
            stream.last_words(shared);
            stream.end(Error::Closed, shared);
        }
        self.line.clear();
    }
}

fn not_opened(peer: PeerId, key: Key, error: Error, shared: &Shared) {
    shared.with(|state| state.stream_closed(peer, key, error));
}

/// Errors of accept(2) that are about one connection that came and went.
fn is_of_the_connection(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EBADF | libc::EINVAL)
    )
}
