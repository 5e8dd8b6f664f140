//! Opening NIXL on a thread that then alone talks to it, and waiting for that thread.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use kvferry_nixl_sys::Library;

use super::limits::MAX_BLOB;
use super::options::{NixlOptions, plugin_name, plugin_params};
use super::raw::{Agent, Threads, listed};
use crate::Error;
use crate::fabric::common::Identity;

/// Opens NIXL on this thread.
pub(super) fn start(
    nixl: &Arc<Library>,
    options: &NixlOptions,
    me: &Identity,
) -> Result<(Agent, Vec<u8>), Error> {
    let threads = Threads {
        progress: options.progress_thread,
        every: u64::try_from(options.progress_every.as_micros()).unwrap_or(u64::MAX),
    };
    let agent = opened(nixl, &me.to_string(), &options.plugin, &options.params, threads, options.telemetry)?;
    let info = agent.connection_info().map_err(|status| {
        let plugin = &options.plugin;
        Error::Library(format!(
            "NIXL's plugin {plugin} reaches no peers ({status}); for files and objects, open a Storage"
        ))
    })?;
    if info.len() > MAX_BLOB {
        return Err(Error::Library(format!("what NIXL says of where it is has {} bytes", info.len())));
    }
    Ok((agent, info))
}

/// An agent with a backend of that plugin.
pub(super) fn opened(
    nixl: &Arc<Library>,
    name: &str,
    plugin: &str,
    params: &[(String, String)],
    threads: Threads,
    telemetry: bool,
) -> Result<Agent, Error> {
    let which = format!("NIXL {} ({})", nixl.version(), nixl.file().display());
    let (c_plugin, params) = (plugin_name(plugin)?, plugin_params(plugin, params)?);
    let c_name = CString::new(name).expect("names of agents are printable");
    Agent::open(Arc::clone(nixl), &c_name, &c_plugin, &params, threads, telemetry).map_err(|(status, of_plugin)| {
        if !of_plugin {
            return Error::Library(format!("{which} is of no use: {status}"));
        }
        let listed = listed(nixl).unwrap_or_default();
        Error::Library(if listed.iter().any(|known| known == plugin) {
            format!(
                "{which} lists its plugin {plugin}, which cannot be created with these parameters on this machine ({status}); \
                 what NIXL wrote to the standard error says why"
            )
        } else {
            format!("{which} has no plugin {plugin}; it has {}", listed.join(", "))
        })
    })
}

/// Lets nobody wait for a thread that has ended, however it did.
pub(super) struct ClosesOnDrop<F: Fn()>(pub(super) F);

impl<F: Fn()> Drop for ClosesOnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

pub(super) fn joined(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        debug_assert!(false, "a thread of the NIXL fabric has panicked");
    }
}

/// The progress thread's answer.
pub(super) fn waited<T>(answer: &Receiver<T>) -> Result<T, Error> {
    answer.recv().map_err(|_| Error::Closed)
}
