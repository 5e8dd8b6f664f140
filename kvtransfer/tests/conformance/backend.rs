//! The fabrics that the suite is run against.

use std::path::PathBuf;

use kvferry_transfer::fabric::Fabric;
use kvferry_transfer::fabric::nixl::{NixlFabric, NixlOptions};
use kvferry_transfer::fabric::shm::{Listen, Options, Shm};
use kvferry_transfer::fabric::tcp::{TcpFabric, TcpOptions, Tls};
use kvferry_transfer::fabric::ucx::{UcxFabric, UcxOptions};
use kvferry_transfer::{AgentName, Epoch, Error};
use kvferry_ucx_sys::{Candidate, candidates, candidates_in, open_any};

use crate::{random, tls};

/// What a process opens.
pub struct Setup {
    pub name: AgentName,
    pub epoch: Epoch,
    /// One of the backend's places; else any address.
    pub place: Option<String>,
}

/// A fabric under test.
pub struct Backend {
    pub name: &'static str,
    pub open: fn(Setup) -> Result<Box<dyn Fabric>, Error>,
    /// A free address that two lives of an agent can have, one after the other; `None` if there are no such.
    pub place: Option<fn() -> String>,
    /// Where in the metadata the protocol's version stands.
    pub version_at: usize,
    /// What the lane may be called.
    pub lanes: &'static [&'static str],
    /// The most descriptors that stay after so many peers have died.
    pub kept: fn(usize) -> usize,
    /// Why a process may not outlive its peers, if so.
    pub frail: Option<&'static str>,
    /// Why it cannot be tried on this machine, if so.
    pub missing: fn() -> Option<String>,
}

/// All of them.
pub const ALL: &[Backend] = &[
    Backend {
        name: "shm",
        open: shm,
        place: Some(path),
        version_at: 4,
        lanes: &["shm"],
        kept: none,
        frail: None,
        missing: nothing,
    },
    Backend {
        name: "tcp",
        open: tcp,
        place: Some(port),
        version_at: 4,
        lanes: &["tcp"],
        kept: none,
        frail: None,
        missing: nothing,
    },
    Backend {
        name: "tcp+tls",
        open: tcp_tls,
        place: Some(port),
        version_at: 4,
        lanes: &["tcp"],
        kept: none,
        frail: None,
        missing: nothing,
    },
    // Before 1.20, UCX has no other lane to another process of the same machine that can tell its death.
    Backend {
        name: "ucx",
        open: ucx,
        place: None,
        version_at: 4,
        lanes: &["cma", "tcp"],
        kept: of_ucx,
        frail: None,
        missing: no_ucx,
    },
    Backend {
        name: "ucx+tcp",
        open: ucx_tcp,
        place: None,
        version_at: 4,
        lanes: &["tcp"],
        kept: of_ucx,
        frail: Some("UCX may end the process when a peer dies that reads by UCX's messages"),
        missing: no_ucx,
    },
    Backend {
        name: "nixl",
        open: nixl,
        place: Some(port),
        version_at: 4,
        lanes: &["nixl/UCX"],
        kept: of_ucx,
        frail: None,
        missing: no_nixl,
    },
];

fn shm(setup: Setup) -> Result<Box<dyn Fabric>, Error> {
    let mut options = Options::new(setup.name, setup.epoch);
    if let Some(place) = setup.place {
        options.listen = Listen::Path(place.into());
    }
    Ok(Box::new(Shm::open(options)?))
}

fn path() -> String {
    let name = format!("kvferry-{}-{}", std::process::id(), random::seed());
    std::env::temp_dir().join(name).to_str().unwrap().into()
}

fn tcp(setup: Setup) -> Result<Box<dyn Fabric>, Error> {
    open_tcp(setup, None)
}

fn tcp_tls(setup: Setup) -> Result<Box<dyn Fabric>, Error> {
    open_tcp(setup, Some(tls::tls()))
}

fn open_tcp(setup: Setup, tls: Option<Tls>) -> Result<Box<dyn Fabric>, Error> {
    let place = setup.place.unwrap_or_else(|| "127.0.0.1:0".into());
    let options = TcpOptions::new(setup.name, setup.epoch, place.parse().expect("an address"));
    Ok(Box::new(TcpFabric::open(TcpOptions { tls, ..options })?))
}

fn none(_deaths: usize) -> usize {
    0
}

/// UCX makes a timer with its first peer. And up to 1.23 it forgets a socket when nobody listens at a peer's port any more
/// and the system says so at once, as it does on one machine.
fn of_ucx(deaths: usize) -> usize {
    1 + deaths
}

fn nothing() -> Option<String> {
    None
}

fn ucx(setup: Setup) -> Result<Box<dyn Fabric>, Error> {
    open_ucx(setup, None)
}

fn ucx_tcp(setup: Setup) -> Result<Box<dyn Fabric>, Error> {
    open_ucx(setup, Some("tcp".into()))
}

fn open_ucx(setup: Setup, transports: Option<String>) -> Result<Box<dyn Fabric>, Error> {
    let mut options = UcxOptions::new(setup.name, setup.epoch);
    (options.library, options.transports) = (ucx_library(), transports);
    Ok(Box::new(UcxFabric::open(options)?))
}

/// What `KVFERRY_UCX_LIBRARY` names, or else UCX's own wheel in the checkout's environment, or else the copy inside of NIXL's.
/// In this order, since that copy (1.23) ends its process at about every hundredth death of a peer whose messages go over
/// TCP: `uct_tcp_ep_pending_purge` fails an assertion. 1.14 and 1.22 do not.
fn ucx_library() -> Option<PathBuf> {
    let named = std::env::var_os("KVFERRY_UCX_LIBRARY").map(PathBuf::from);
    named.or_else(|| {
        let installed = candidates_in(&kvferry_ffi_testing::python_folders()).into_iter();
        let files: Vec<PathBuf> = installed
            .filter_map(|found| match found {
                Candidate::File(file) => Some(file),
                Candidate::Name(_) => None,
            })
            .collect();
        let own = files.iter().find(|file| file.iter().any(|part| part == "libucx"));
        own.or(files.first()).cloned()
    })
}

fn no_ucx() -> Option<String> {
    open_any(&candidates(ucx_library().as_deref())).err().map(|missing| missing.to_string())
}

fn nixl(setup: Setup) -> Result<Box<dyn Fabric>, Error> {
    let place = setup.place.unwrap_or_else(|| "127.0.0.1:0".into());
    let mut options = NixlOptions::new(setup.name, setup.epoch, place.parse().expect("an address"));
    options.library = nixl_library();
    Ok(Box::new(NixlFabric::open(options)?))
}

/// What `KVFERRY_NIXL_LIBRARY` names, or else the newest that the checkout's environment has.
fn nixl_library() -> Option<PathBuf> {
    let named = std::env::var_os("KVFERRY_NIXL_LIBRARY").map(PathBuf::from);
    let installed = || kvferry_nixl_sys::candidates_in(&kvferry_ffi_testing::python_folders()).into_iter();
    named.or_else(|| {
        installed().find_map(|found| match found {
            Candidate::File(file) => Some(file),
            Candidate::Name(_) => None,
        })
    })
}

fn no_nixl() -> Option<String> {
    let candidates = kvferry_nixl_sys::candidates(nixl_library().as_deref());
    kvferry_nixl_sys::open_any(&candidates).err().map(|missing| missing.to_string())
}

fn port() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().to_string()
}
