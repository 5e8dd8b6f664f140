//! The fabrics of one side, each of which may be missing.

use std::net::IpAddr;
use std::sync::Arc;

use kvferry_agent::Carrier;
use kvferry_transfer::fabric::shm::{self, Shm};
use kvferry_transfer::fabric::tcp::{self, TcpFabric, TcpOptions};
use kvferry_transfer::fabric::ucx::{UcxFabric, UcxOptions};
use kvferry_transfer::fabric::{Backend, Fabric};
use kvferry_transfer::{AgentName, Epoch, Error};
use serde::Serialize;

use super::Setup;

/// All that there are, in the order of preference.
pub(super) const ALL: [Backend; 3] = [Backend::Shm, Backend::Ucx, Backend::Tcp];

/// A fabric that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Which.
    pub fabric: &'static str,
    /// In words, with what to do.
    pub why: String,
}

/// Who a side is.
#[derive(Debug, Clone)]
pub(super) struct Me {
    pub(super) name: AgentName,
    pub(super) epoch: Epoch,
    /// Where peers reach it.
    pub(super) at: IpAddr,
}

impl Me {
    /// A name that no other process has, and a life that began now.
    pub(super) fn new(at: IpAddr, role: &str) -> Self {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let host = host.unwrap_or_else(|| "host".to_owned());
        let name = AgentName::new(&format!("doctor-{role}/{host}/{}", std::process::id()));
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        // Half a millennium of nanoseconds.
        let epoch = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let fallback = || AgentName::new("doctor").expect("a plain word is a name");
        Self { name: name.unwrap_or_else(fallback), epoch: Epoch(epoch), at }
    }
}

/// Opens these fabrics, as far as they can be.
pub(super) fn open(me: &Me, which: &[Backend], setup: &Setup) -> (Vec<Carrier>, Vec<Refused>) {
    let (mut carriers, mut refused) = (Vec::new(), Vec::new());
    for backend in which {
        match fabric(me, *backend, setup) {
            Ok(fabric) => carriers.push(Carrier::new(fabric)),
            Err(error) => refused.push(Refused { fabric: backend.name(), why: error.to_string() }),
        }
    }
    (carriers, refused)
}

fn fabric(me: &Me, backend: Backend, setup: &Setup) -> Result<Arc<dyn Fabric>, Error> {
    let (name, epoch) = (me.name.clone(), me.epoch);
    Ok(match backend {
        Backend::Shm => Arc::new(Shm::open(shm::Options::new(name, epoch))?),
        Backend::Tcp => {
            let mut options = TcpOptions::new(name, epoch, (me.at, 0).into());
            options.secret = setup.secret.as_deref().map(tcp::Secret::new);
            Arc::new(TcpFabric::open(options)?)
        }
        Backend::Ucx | Backend::Nixl => {
            let mut options = UcxOptions::new(name, epoch);
            options.library.clone_from(&setup.ucx_library);
            options.want = setup.lanes();
            Arc::new(UcxFabric::open(options)?)
        }
    })
}
