//! What stands side by side in a run: our fabrics, the ceilings, and other engines.

use kvferry_bench_common::Result;

use crate::backends;
use crate::peers::{Mooncake, Nixl};
use crate::worker::{MEMCPY, SOCKETS};

/// What one side is driven by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A fabric of ours.
    Fabric {
        /// Its backend.
        backend: String,
        /// Transports for its library.
        transports: Option<String>,
        /// Whether progress never sleeps.
        busy: bool,
    },
    /// What no fabric can beat; [`MEMCPY`] or [`SOCKETS`].
    Ceiling(&'static str),
    /// NIXL's Python agent.
    Nixl(Nixl),
    /// Mooncake's transfer engine.
    Mooncake(Mooncake),
    /// UCX's own tool.
    Perftest {
        /// As in `UCX_TLS`.
        transports: Option<String>,
    },
}

/// One side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// As tables and files name it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Threads that copy or make progress.
    pub threads: usize,
    /// Streams to a peer.
    pub streams: usize,
}

impl Side {
    /// A fabric, as `--backend` spells it: a name, or `NAME:TRANSPORT+TRANSPORT`; a `!` after it keeps its progress from
    /// sleeping.
    ///
    /// # Errors
    /// When there is no such backend, or it has no transports.
    pub fn fabric(spelled: &str, threads: usize, streams: usize) -> Result<Self> {
        let (words, busy) = spelled.strip_suffix('!').map_or((spelled, false), |words| (words, true));
        let (backend, transports) = match words.split_once(':') {
            Some((backend, transports)) => (backend, Some(transports.replace('+', ","))),
            None => (words, None),
        };
        let known = backends::named(backend)?;
        if transports.is_some() && !known.transports {
            return Err(format!("--backend {spelled}: {backend} has no transports to choose from").into());
        }
        let backend = backend.to_owned();
        Ok(Self {
            name: spelled.to_owned(),
            kind: Kind::Fabric { backend, transports, busy },
            threads,
            streams,
        })
    }

    /// A ceiling.
    pub fn ceiling(name: &'static str, threads: usize, streams: usize) -> Self {
        Self { name: name.to_owned(), kind: Kind::Ceiling(name), threads, streams }
    }

    /// Another engine, with one thread and one stream of whatever it has.
    pub fn of(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind, threads: 1, streams: 1 }
    }

    /// `UCX_TLS` of its processes' environment, where that is the only way to say it.
    pub fn tls(&self) -> Option<&str> {
        match &self.kind {
            Kind::Fabric { backend, transports, .. } if backend == "nixl" => transports.as_deref(),
            _ => None,
        }
    }

    /// Which ceiling this is held against, if there is one.
    pub fn held_against(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Fabric { backend, transports, .. } => match (backend.as_str(), transports.as_deref()) {
                ("ucx" | "nixl", Some("tcp")) => Some(SOCKETS),
                (name, _) => {
                    backends::named(name).ok().map(|known| known.ceiling).filter(|name| !name.is_empty())
                }
            },
            Kind::Mooncake(_) => Some(SOCKETS),
            Kind::Nixl(nixl) => (nixl.tls.as_deref() == Some("tcp")).then_some(SOCKETS),
            Kind::Ceiling(_) | Kind::Perftest { .. } => None,
        }
    }

    /// Whether its ends are both on this host.
    pub fn is_local_only(&self) -> bool {
        match &self.kind {
            Kind::Ceiling(name) => *name == MEMCPY,
            Kind::Fabric { backend, .. } => backend == "shm",
            Kind::Nixl(_) | Kind::Mooncake(_) | Kind::Perftest { .. } => true,
        }
    }

    /// Whether there is a process at its driven end.
    pub fn is_alone(&self) -> bool {
        self.kind == Kind::Ceiling(MEMCPY)
    }

    /// Whether its processes are held still while others are measured: they never sleep by themselves (NIXL's Python agents
    /// do not), so that each of them would take a core from whoever is measured beside it.
    pub fn is_restless(&self) -> bool {
        match &self.kind {
            Kind::Nixl(_) => true,
            Kind::Fabric { busy, .. } => *busy,
            _ => false,
        }
    }

    /// Whether its bytes can be verified.
    pub fn can_verify(&self) -> bool {
        !matches!(self.kind, Kind::Ceiling(_) | Kind::Perftest { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_and_busy_progress_are_part_of_a_sides_name() {
        let side = Side::fabric("ucx:cma+tcp!", 1, 2).unwrap();
        let Kind::Fabric { backend, transports, busy } = side.kind else { panic!("another kind") };
        assert_eq!((backend.as_str(), transports.as_deref(), busy), ("ucx", Some("cma,tcp"), true));
        assert_eq!(side.name, "ucx:cma+tcp!");
        assert!(Side::fabric("tcp:lo", 1, 1).unwrap_err().to_string().contains("no transports"));
        assert!(Side::fabric("rdma", 1, 1).is_err());
    }

    #[test]
    fn sides_are_held_against_what_carries_them() {
        let against = |name| Side::fabric(name, 1, 1).unwrap().held_against();
        assert_eq!((against("shm"), against("tcp")), (Some(MEMCPY), Some(SOCKETS)));
        assert_eq!((against("ucx"), against("ucx:tcp")), (None, Some(SOCKETS)));
    }
}
