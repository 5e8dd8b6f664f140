//! The loop: waits for whatever comes first, and hands it to whom it concerns.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use kvferry_transfer::fabric::Event as FabricEvent;
use kvferry_transfer::{PeerId, TransferId};
use tokio::io::unix::AsyncFd;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep_until;

use super::checks::Check;
use super::lanes::Path;
use super::link::Link;
use super::meet::Own;
use super::moves::Moving;
use super::peers::Met;
use super::wait::{listen, newcomer, readable, watched};
use super::{MAX_MAIL, MAX_MAIL_KIB, Mail, Order};
use crate::Error;
use crate::agent::Shared;
use crate::core::{ChunkNo, Command, Core, LaneNo, PeerNo, Time, TransferNo};
use crate::events::Event;
use crate::options::Options;
use crate::roster::{LinkNo, Roster};

/// Orders and mail that are taken before fabrics, time and newcomers have their turn again.
const AT_ONCE: usize = 256;

/// Everything that the agent's thread has.
pub(super) struct Shell {
    pub(super) shared: Arc<Shared>,
    pub(super) own: Arc<Own>,
    pub(super) about: Bytes,
    pub(super) silence: Time,
    pub(super) events: mpsc::UnboundedSender<Event>,
    start: Instant,
    pub(super) core: Core,
    pub(super) roster: Roster,
    /// Room for what peers say.
    pub(super) room: Arc<Semaphore>,
    pub(super) links: HashMap<LinkNo, Link>,
    pub(super) peers: HashMap<PeerNo, Met>,
    /// Each lane's fabrics, and the peer's number at this side's.
    pub(super) lanes: HashMap<LaneNo, Path>,
    /// The same, the other way round.
    pub(super) paths: HashMap<(usize, PeerId), LaneNo>,
    /// Lanes that go on once such a number is free.
    pub(super) behind: HashMap<(usize, PeerId), Vec<LaneNo>>,
    pub(super) transfers: HashMap<TransferNo, Moving>,
    pub(super) tickets: HashMap<u64, TransferNo>,
    /// Which transfer of which fabric a chunk is, over which lane; and the other way round.
    pub(super) chunks: HashMap<ChunkNo, (LaneNo, usize, TransferId)>,
    pub(super) ids: HashMap<(usize, TransferId), ChunkNo>,
    pub(super) checks: HashMap<ChunkNo, Check>,
    /// Connections to here that are being made, and those from here.
    pub(super) strangers: usize,
    pub(super) calls: usize,
    next_link: u64,
    /// When silence is looked for again, if anybody could be silent.
    pub(super) alive_at: Option<Time>,
    closing: bool,
}

/// Starts the thread.
///
/// # Errors
/// What the machine says.
pub(crate) fn start(
    options: Options,
    shared: Arc<Shared>,
    orders: mpsc::UnboundedReceiver<Order>,
    events: mpsc::UnboundedSender<Event>,
) -> Result<(Option<SocketAddr>, JoinHandle<()>), Error> {
    let failed = |what| move |error: std::io::Error| Error::System(what, error.to_string());
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(options.check_threads)
        .thread_name("kv-agent-sums")
        .build()
        .map_err(failed("starting the agent's runtime"))?;
    let entered = runtime.enter();
    let listener = options.listen.map(listen).transpose().map_err(failed("listening for agents"))?;
    let listening = listener.as_ref().map(TcpListener::local_addr).transpose();
    let listening = listening.map_err(failed("the listener's address"))?;
    let mut fds = Vec::new();
    for carrier in &options.carriers {
        let fd = carrier.fabric.wake_fd().try_clone_to_owned().map_err(failed("a fabric's descriptor"))?;
        fds.push(watched(fd).map_err(failed("waiting for a fabric"))?);
    }
    drop(entered);
    let (mail, letters) = mpsc::channel(MAX_MAIL);
    let own = Own {
        name: options.name,
        epoch: options.epoch,
        secret: options.secret,
        tls: options.tls,
        within: options.meet_within,
        mail,
    };
    let shell = Shell {
        shared,
        own: Arc::new(own),
        about: options.about,
        silence: options.silence,
        events,
        start: Instant::now(),
        core: Core::new(options.pace),
        roster: Roster::default(),
        room: Arc::new(Semaphore::new(MAX_MAIL_KIB)),
        links: HashMap::new(),
        peers: HashMap::new(),
        lanes: HashMap::new(),
        paths: HashMap::new(),
        behind: HashMap::new(),
        transfers: HashMap::new(),
        tickets: HashMap::new(),
        chunks: HashMap::new(),
        ids: HashMap::new(),
        checks: HashMap::new(),
        strangers: 0,
        calls: 0,
        next_link: 0,
        alive_at: None,
        closing: false,
    };
    let thread = std::thread::Builder::new().name("kv-agent".into()).spawn(move || {
        runtime.block_on(shell.run(orders, letters, listener, &fds));
        // Checksums of what nobody waits for any more are not waited for.
        runtime.shutdown_background();
    });
    Ok((listening, thread.map_err(failed("starting the agent's thread"))?))
}

impl Shell {
    pub(super) fn now(&self) -> Time {
        self.start.elapsed()
    }

    /// A time of the core's, as fabrics want it.
    pub(super) fn instant(&self, time: Time) -> Option<Instant> {
        self.start.checked_add(time)
    }

    /// The same, the other way round.
    pub(super) fn time(&self, instant: Instant) -> Time {
        instant.saturating_duration_since(self.start)
    }

    pub(super) fn new_link(&mut self) -> LinkNo {
        self.next_link += 1;
        LinkNo(self.next_link)
    }

    async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<Order>,
        mut letters: mpsc::Receiver<Mail>,
        listener: Option<TcpListener>,
        fds: &[AsyncFd<OwnedFd>],
    ) {
        // The fabric that is looked at first: each in its turn.
        let mut next = 0;
        while !self.closing {
            self.obey();
            self.watch_silence();
            let due = [self.core.due(), self.alive_at].into_iter().flatten().min();
            let due = due.and_then(|due| self.instant(due)).map(tokio::time::Instant::from_std);
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => {
                        self.order(order);
                        for _ in 0..AT_ONCE {
                            let Ok(order) = orders.try_recv() else { break };
                            self.order(order);
                        }
                    }
                    None => self.closing = true,
                },
                Some(mail) = letters.recv() => {
                    self.mail(mail);
                    for _ in 0..AT_ONCE {
                        let Ok(mail) = letters.try_recv() else { break };
                        self.mail(mail);
                    }
                },
                fabric = readable(fds, &mut next) => self.poll(fabric),
                stream = newcomer(listener.as_ref()) => self.greet(stream),
                () = sleep_until(due.unwrap_or_else(tokio::time::Instant::now)), if due.is_some() => {}
            }
            self.shared.wakeups.fetch_add(1, Ordering::Relaxed);
            let now = self.now();
            self.core.tick(now);
        }
        self.close(orders).await;
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Connect { address, expected, answer } => {
                self.shared.wishes.fetch_sub(1, Ordering::Relaxed);
                self.call(address, expected, answer);
            }
            Order::Disconnect(peer) => self.part(peer, &Error::Cancelled),
            Order::Begin(ask, answer) => self.begin(*ask, answer),
            Order::Cancel(ticket) => {
                if let Some(transfer) = self.tickets.get(&ticket) {
                    let (transfer, now) = (*transfer, self.now());
                    self.core.cancel(now, transfer);
                }
            }
            Order::Notify(peer, message) => self.say_notify(peer, message),
            Order::Tables => {
                // Before they are looked at: what changes from here on is told once more.
                self.shared.tables.store(false, Ordering::SeqCst);
                self.say_tables();
            }
            Order::Heard(peer, messages, weight) => self.say_heard(peer, messages, weight),
            Order::Snapshot(answer) => {
                self.shared.wishes.fetch_sub(1, Ordering::Relaxed);
                drop(answer.send(self.snapshot()));
            }
            Order::Close => self.closing = true,
        }
        self.obey();
    }

    fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Arrived(who, role, answer) => drop(answer.send(self.arrived(&who, role))),
            Mail::Again(peer, wanted) => self.met_before(peer, wanted),
            Mail::Met(meeting, wanted) => self.met(*meeting, wanted),
            Mail::NotMet(error, said, wanted) => self.not_met(error, said, wanted),
            Mail::Said(link, said, _room) => self.said(link, said),
            Mail::Summed(chunk, sums) => self.summed(chunk, sums),
            Mail::SummedFor(link, number, using, sums) => self.summed_for(link, number, using, sums),
        }
        self.obey();
    }

    /// Takes a fabric's events.
    pub(super) fn poll(&mut self, fabric: usize) {
        let mut events = Vec::new();
        self.shared.carriers[fabric].fabric.poll(&mut events);
        for event in events {
            match event {
                FabricEvent::Connected(peer, way) => self.lane_connected(fabric, peer, way),
                FabricEvent::Lost(peer, error) => self.lane_lost(fabric, peer, error),
                FabricEvent::Done(id) => self.moved(fabric, id, Ok(())),
                FabricEvent::Failed(id, error) => self.moved(fabric, id, Err(error.into())),
                FabricEvent::Freed(token) => {
                    if crate::books::lock(&self.shared.grants).freed(fabric, token) {
                        self.tell(Event::Freed(token));
                    }
                }
                // Agents notify each other over the control connection.
                FabricEvent::Notified(..) => {}
            }
            self.obey();
        }
    }

    /// Does what the core wants done.
    pub(super) fn obey(&mut self) {
        while let Some(command) = self.core.next_command() {
            match command {
                Command::Reach(lane) => self.reach(lane),
                Command::Leave(lane) => self.leave(lane),
                Command::Move { chunk, lane, transfer, piece } => {
                    self.begin_chunk(chunk, lane, transfer, piece);
                }
                Command::Stop(chunk) => self.stop_chunk(chunk),
                Command::Check { chunk, transfer, piece } => self.begin_check(chunk, transfer, piece),
                Command::Forget(chunk) => drop(self.checks.remove(&chunk)),
                Command::Tell(transfer) => self.tell_peer(transfer),
                Command::End(transfer, result) => self.end(transfer, result),
                Command::FellBack { peer, to, from } => {
                    self.fell_back(peer, &to, from);
                }
                Command::Gone(peer, error) => self.gone(peer, error),
            }
        }
    }

    pub(super) fn tell(&self, event: Event) {
        let weight = event.weight();
        self.shared.unheard.add(weight);
        if self.events.send(event).is_err() {
            // Whoever has dropped the events does not want them.
            self.shared.unheard.take(weight);
        }
    }
}
