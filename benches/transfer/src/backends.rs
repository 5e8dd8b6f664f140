//! The fabrics that can be measured: a table, so that a new one is a line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use kvferry_bench_common::Result;
use kvferry_transfer::fabric::Fabric;
use kvferry_transfer::fabric::nixl::{NixlFabric, NixlOptions};
use kvferry_transfer::fabric::shm::{Options, Shm};
use kvferry_transfer::fabric::tcp::{Secret, TcpFabric, TcpOptions};
use kvferry_transfer::fabric::ucx::{UcxFabric, UcxOptions};
use kvferry_transfer::{AgentName, Epoch};

use crate::protocol::Setup;

/// Where libraries lie, as this machine's user says: never what a peer asks for.
#[derive(Debug, Clone, Default)]
pub struct Libraries {
    /// UCX's file, if not the first that is found.
    pub ucx: Option<PathBuf>,
    /// NIXL's; likewise.
    pub nixl: Option<PathBuf>,
}

/// An open fabric, and what was loaded for it.
pub struct Open {
    /// The fabric.
    pub fabric: Arc<dyn Fabric>,
    /// The same, if it is NIXL's: blocks can be prepared, and submitting costs its own thread what callers do not see.
    pub nixl: Option<Arc<NixlFabric>>,
    /// The library's version and file.
    pub library: Option<String>,
}

/// A kind of fabric.
pub struct Backend {
    /// As `--backend` spells it.
    pub name: &'static str,
    /// What it is, for those who list them.
    pub what: &'static str,
    /// Which ceiling it is held against.
    pub ceiling: &'static str,
    /// Whether it takes transports (`ucx:tcp`).
    pub transports: bool,
    open: fn(Who, &Setup, &Libraries) -> Result<Open>,
}

struct Who {
    name: AgentName,
    epoch: Epoch,
}

/// All of them.
pub const ALL: [Backend; 4] = [
    Backend { name: "shm", what: "shared memory, one host", ceiling: "memcpy", transports: false, open: shm },
    Backend { name: "tcp", what: "sockets of our own", ceiling: "sockets", transports: false, open: tcp },
    Backend { name: "ucx", what: "UCX; ucx:tcp for one transport", ceiling: "", transports: true, open: ucx },
    Backend {
        name: "nixl",
        what: "NIXL with its UCX plugin; nixl:tcp",
        ceiling: "",
        transports: true,
        open: nixl,
    },
];

/// The backend of that name.
///
/// # Errors
/// When there is none; with those that there are.
pub fn named(name: &str) -> Result<&'static Backend> {
    ALL.iter().find(|backend| backend.name == name).ok_or_else(|| {
        let known: Vec<String> =
            ALL.iter().map(|backend| format!("{} ({})", backend.name, backend.what)).collect();
        format!("no backend {name:?}; known: {}", known.join(", ")).into()
    })
}

/// Opens a fabric as `setup` says. Its name says which process it is; its epoch is drawn.
///
/// # Errors
/// What the fabric says, which tells what to do.
pub fn open(setup: &Setup, libraries: &Libraries) -> Result<Open> {
    let backend = named(&setup.backend)?;
    let name = AgentName::new(&format!("bench-{}", std::process::id())).expect("letters and digits");
    let epoch = Epoch(uuid::Uuid::new_v4().as_u64_pair().0);
    (backend.open)(Who { name, epoch }, setup, libraries)
}

fn shm(who: Who, setup: &Setup, _: &Libraries) -> Result<Open> {
    let threads = NonZeroUsize::new(setup.threads).ok_or("--threads must be 1 or more")?;
    let fabric = Shm::open(Options { threads, ..Options::new(who.name, who.epoch) })?;
    Ok(Open { fabric: Arc::new(fabric), nixl: None, library: None })
}

fn tcp(who: Who, setup: &Setup, _: &Libraries) -> Result<Open> {
    let host = setup.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let fabric = TcpFabric::open(TcpOptions {
        streams: setup.streams,
        threads: setup.threads,
        secret: setup.secret.as_ref().map(|secret| Secret::new(secret.as_bytes())),
        ..TcpOptions::new(who.name, who.epoch, SocketAddr::new(host, 0))
    })?;
    Ok(Open { fabric: Arc::new(fabric), nixl: None, library: None })
}

fn ucx(who: Who, setup: &Setup, libraries: &Libraries) -> Result<Open> {
    let fabric = UcxFabric::open(UcxOptions {
        library: libraries.ucx.clone(),
        transports: setup.transports.clone(),
        busy_poll: setup.busy,
        ..UcxOptions::new(who.name, who.epoch)
    })?;
    let library = format!("UCX {} ({})", fabric.version(), fabric.library().display());
    Ok(Open { fabric: Arc::new(fabric), nixl: None, library: Some(library) })
}

/// With the plugin's own settings. Its transports come from the environment, which whoever starts the process has set.
fn nixl(who: Who, setup: &Setup, libraries: &Libraries) -> Result<Open> {
    let host = setup.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut options = NixlOptions::new(who.name, who.epoch, SocketAddr::new(host, 0));
    options.library.clone_from(&libraries.nixl);
    options.control.secret = setup.secret.as_ref().map(|secret| Secret::new(secret.as_bytes()));
    let fabric = NixlFabric::open(options)?;
    let library = format!("NIXL {} ({})", fabric.version(), fabric.library().display());
    let nixl = Arc::new(fabric);
    let fabric = Arc::clone(&nixl) as Arc<dyn Fabric>;
    Ok(Open { fabric, nixl: Some(nixl), library: Some(library) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_an_unknown_one_is_refused_with_the_known_ones() {
        for backend in &ALL {
            assert_eq!(named(backend.name).unwrap().what, backend.what);
        }
        assert!(named("rdma").err().unwrap().to_string().contains("shm (shared memory"));
    }
}
