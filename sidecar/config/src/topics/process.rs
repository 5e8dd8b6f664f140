//! The process and its pod: how it starts, works and stops.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;

use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::go;
use crate::values::Values;
use crate::world::World;

const SHUTDOWN_TIMEOUT: &str = "shutdown-timeout";
const WORKERS: &str = "workers";
const READY: &str = "ready-when-decoder-answers";
pub(crate) const POD_NAME: &str = "pod-name";
pub(crate) const POD_NAMESPACE: &str = "pod-namespace";

/// Workers unless set: a proxy needs few cores, and the engine beside it needs the rest.
const MAX_DEFAULT_WORKERS: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");

pub(crate) const PROCESS: Group = Group {
    heading: "Process",
    flags: &[
        Flag::duration(SHUTDOWN_TIMEOUT, "60s", "How long requests may go on after SIGTERM"),
        Flag::amount(WORKERS, "", "Threads that serve requests [default: the cores available, at most 4]"),
        Flag::bool(READY, false, "Be ready only while the decode engine answers"),
        Flag::text(POD_NAME, "NAME", "", "Name of this pod").env("POD_NAME"),
        Flag::text(POD_NAMESPACE, "NAMESPACE", "", "Namespace of this pod").env("POD_NAMESPACE"),
    ],
};

/// The process and its pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Process {
    /// How long requests may go on after SIGTERM.
    #[serde(serialize_with = "go::serialize")]
    pub shutdown_timeout: Duration,
    /// Threads that serve requests.
    pub workers: NonZeroUsize,
    /// Ready only while the decode engine answers.
    pub ready_when_decoder_answers: bool,
    /// Name of this pod.
    pub pod_name: Option<String>,
    /// Namespace of this pod.
    pub pod_namespace: Option<String>,
}

impl Process {
    pub(crate) fn read(values: &Values, world: &World<'_>) -> Result<Self, Invalid> {
        let workers = if values.text(WORKERS).is_empty() {
            world.cores.min(MAX_DEFAULT_WORKERS)
        } else {
            values.size(WORKERS)?
        };
        Ok(Self {
            shutdown_timeout: values.duration(SHUTDOWN_TIMEOUT)?,
            workers,
            ready_when_decoder_answers: values.bool(READY)?,
            pod_name: values.optional(POD_NAME),
            pod_namespace: values.optional(POD_NAMESPACE),
        })
    }
}
