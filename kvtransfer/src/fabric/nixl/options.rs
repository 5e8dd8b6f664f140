//! What a NIXL fabric can be told.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use super::raw::Params;
use crate::fabric::tcp::TcpOptions;
use crate::{AgentName, Epoch, Error};

use std::net::SocketAddr;

/// What [`NixlFabric::open`](super::NixlFabric::open) is told. Begin with [`NixlOptions::new`] and change what differs.
///
/// NIXL and its plugins read their own environment (`NIXL_...`, `UCX_...`) too.
#[derive(Debug, Clone)]
pub struct NixlOptions {
    /// Who this is, and where peers reach its control connection: everything but blocks goes over that. Its secret and its
    /// encryption guard who may ask for blocks, and are none of NIXL's.
    pub control: TcpOptions,
    /// The file of NIXL's C API (`libnixl_capi.so`). `None`: the first that is found. A process has one NIXL.
    pub library: Option<PathBuf>,
    /// The plugin, as NIXL calls it: one that reaches peers, such as `UCX` or `LIBFABRIC`.
    pub plugin: String,
    /// Its parameters. [`plugins`](super::plugins) lists those that it tells of; it may know more.
    pub params: Vec<(String, String)>,
    /// Whether NIXL makes a thread that looks after what peers do here. Without one this fabric's own thread does so, as long
    /// as anything is under way: faster by some where cores are few, and peers' first requests wait a little longer.
    pub progress_thread: bool,
    /// How often that thread looks even if nothing has woken it.
    pub progress_every: Duration,
    /// Whether NIXL measures each request ([`NixlFabric::telemetry`](super::NixlFabric::telemetry)).
    pub telemetry: bool,
    /// How long a peer may take to answer when it is met.
    pub meet_within: Duration,
    /// How long a peer may take to stop what was cancelled or revoked, and what is under way to it may take to end. Then the
    /// peer is parted from, since its bytes cannot be let go of otherwise.
    pub stop_within: Duration,
}

impl NixlOptions {
    /// What is usual, with the plugin `UCX`, for an agent whose control connection listens on `listen`.
    pub fn new(name: AgentName, epoch: Epoch, listen: SocketAddr) -> Self {
        // Messages are few and short.
        let control = TcpOptions { streams: 1, threads: 1, ..TcpOptions::new(name, epoch, listen) };
        Self {
            control,
            library: None,
            plugin: "UCX".into(),
            params: Vec::new(),
            progress_thread: true,
            progress_every: Duration::from_millis(10),
            telemetry: false,
            meet_within: Duration::from_secs(10),
            stop_within: Duration::from_secs(5),
        }
    }
}

/// A plugin's name as C has it.
///
/// # Errors
/// [`Error::Library`]: it is no name.
pub(super) fn plugin_name(name: &str) -> Result<CString, Error> {
    let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let named = fits.then(|| CString::new(name).ok()).flatten();
    named.ok_or_else(|| Error::Library(format!("{name:?} is no name of a NIXL plugin, such as UCX or POSIX")))
}

/// Parameters as C has them.
///
/// # Errors
/// [`Error::Library`]: one is empty, comes twice, or holds a zero byte.
pub(super) fn plugin_params(plugin: &str, params: &[(String, String)]) -> Result<Params, Error> {
    let refused =
        |key: &str, why: &str| Error::Library(format!("NIXL plugin {plugin}: the parameter {key:?} {why}"));
    let mut taken: Vec<(CString, CString)> = Vec::with_capacity(params.len());
    for (key, value) in params {
        let text = |text: &str| CString::new(text).map_err(|_| refused(key, "holds a zero byte"));
        let (name, value) = (text(key)?, text(value)?);
        if name.is_empty() {
            return Err(refused(key, "has no name"));
        }
        if taken.iter().any(|(known, _)| *known == name) {
            return Err(refused(key, "is given twice"));
        }
        taken.push((name, value));
    }
    Ok(Params(taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_of_a_plugin_gets_nowhere() {
        assert!(plugin_name("GDS_MT").is_ok());
        for bad in ["", "../../tmp/evil", "UCX\0", "a b"] {
            assert_eq!(plugin_name(bad).unwrap_err().code(), "library", "{bad:?}");
        }
    }

    #[test]
    fn a_parameter_has_a_name_is_given_once_and_holds_no_zero() {
        let params = |all: &[(&str, &str)]| {
            let all: Vec<_> = all.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            plugin_params("UCX", &all)
        };
        assert_eq!(params(&[("num_workers", "2")]).unwrap().0, [(c"num_workers".into(), c"2".into())]);
        for bad in [&[("", "1")][..], &[("a", "1"), ("a", "2")], &[("a\0b", "1")], &[("a", "\0")]] {
            let error = params(bad).unwrap_err();
            assert!(error.to_string().contains("UCX"), "it says whose: {error}");
        }
    }
}
