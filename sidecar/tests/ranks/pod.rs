//! A pod of several ranks, and a prefill engine elsewhere.

use std::net::{Ipv4Addr, SocketAddr};

use crate::common::{Ask, LEASE, Sidecar, eventually};
use kvferry_emulator::{Config, Emulator, SeenRequest};
use socket2::{Domain, Protocol, Socket, Type};

/// Ranks of every pod here: the first, the last, and one between.
pub(crate) const RANKS: u16 = 3;

/// So many ports in a row that nobody else gets while the sockets live.
pub(crate) fn reserve_ports(count: u16) -> (u16, Vec<Socket>) {
    loop {
        let Some(first) = reserve(0) else { continue };
        let port = first.local_addr().unwrap().as_socket().unwrap().port();
        let others: Vec<Socket> =
            (1..count).map_while(|next| port.checked_add(next)).map_while(reserve).collect();
        if others.len() == usize::from(count) - 1 {
            return (port, std::iter::once(first).chain(others).collect());
        }
    }
}

/// `None`: somebody has it.
fn reserve(port: u16) -> Option<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    socket.bind(&address.into()).ok().map(|()| socket)
}

pub(crate) async fn engine(port: u16) -> Emulator {
    Emulator::start(Config { port, kv_lease: LEASE, ..Config::default() }).await.unwrap()
}

/// The engines of a pod, without a sidecar.
pub(crate) struct Engines {
    pub(crate) first_port: u16,
    ranks: Vec<Option<Emulator>>,
    _reserved: Vec<Socket>,
}

impl Engines {
    pub(crate) async fn start() -> Self {
        let (first_port, reserved) = reserve_ports(RANKS);
        let mut ranks = Vec::new();
        for rank in 0..RANKS {
            ranks.push(Some(engine(first_port + rank).await));
        }
        Self { first_port, ranks, _reserved: reserved }
    }

    /// One that runs.
    pub(crate) fn of(&self, rank: u16) -> &Emulator {
        self.ranks[usize::from(rank)].as_ref().unwrap()
    }

    pub(crate) fn stop(&mut self, rank: u16) {
        self.ranks[usize::from(rank)].take().unwrap().stop();
    }

    pub(crate) async fn start_again(&mut self, rank: u16) {
        self.ranks[usize::from(rank)] = Some(engine(self.first_port + rank).await);
    }

    /// What each engine has seen since this was asked last.
    pub(crate) fn seen(&self) -> Vec<Vec<SeenRequest>> {
        let take = |engine: &Option<Emulator>| {
            let seen = engine.as_ref().map(Emulator::requests).unwrap_or_default();
            engine.iter().for_each(Emulator::clear_requests);
            seen
        };
        self.ranks.iter().map(take).collect()
    }

    /// The one request since this was asked last, and the rank that got it.
    pub(crate) fn only(&self) -> (u16, SeenRequest) {
        let seen = self
            .seen()
            .into_iter()
            .zip(0..)
            .flat_map(|(seen, rank)| seen.into_iter().map(move |it| (rank, it)));
        let mut all: Vec<_> = seen.collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    pub(crate) fn idle(&self) -> bool {
        self.ranks.iter().flatten().all(|engine| engine.state().idle())
    }
}

/// Engines, a sidecar before them, and a prefill engine in another pod.
pub(crate) struct Pod {
    pub(crate) prefill: Emulator,
    pub(crate) engines: Engines,
    pub(crate) sidecar: Sidecar,
    pub(crate) port: u16,
    _reserved: Vec<Socket>,
}

impl Pod {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let (port, reserved) = reserve_ports(RANKS);
        let engines = Engines::start().await;
        let (size, first) = (format!("--data-parallel-size={RANKS}"), format!("--port={port}"));
        let all = [&[size.as_str(), first.as_str()], flags].concat();
        let sidecar = Sidecar::start(engines.first_port, &all);
        Self { prefill: engine(0).await, engines, sidecar, port, _reserved: reserved }
    }

    /// Where clients reach a rank.
    pub(crate) fn rank(&self, rank: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port + rank).into()
    }

    /// The same as the header names it.
    pub(crate) fn named(&self, rank: u16) -> String {
        self.rank(rank).to_string()
    }

    /// A request that is to be disaggregated.
    pub(crate) fn ask(&self, path: &str, body: impl Into<Vec<u8>>) -> Ask {
        Ask::post(path, body).prefill(&self.prefill.host_port())
    }

    /// Ends a test: nothing may be left.
    pub(crate) async fn end(self) {
        eventually("every engine is empty", || self.prefill.state().idle() && self.engines.idle()).await;
        self.sidecar.end().await;
    }
}
