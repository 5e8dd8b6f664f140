//! Where the sidecar listens and where the decode engine listens, for each data-parallel rank.

use std::num::NonZeroU16;

use serde::Serialize;

use super::deprecated::VLLM_PORT;
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::values::Values;

const PORT: &str = "port";
const MODEL_SERVER_PORT: &str = "model-server-port";
const DATA_PARALLEL_SIZE: &str = "data-parallel-size";

pub(crate) const PORTS: Group = Group {
    heading: "Ports",
    flags: &[
        Flag::port(PORT, "8000", "Port to listen on, on all interfaces"),
        Flag::port(MODEL_SERVER_PORT, "8200", "Port of the decode engine in this pod"),
    ],
};

pub(crate) const DATA_PARALLEL: Group = Group {
    heading: "Data parallel",
    flags: &[Flag::integer(
        DATA_PARALLEL_SIZE,
        "1",
        "Ranks in this pod: rank r listens on --port + r, its engine on --model-server-port + r",
    )],
};

/// Where the sidecar listens and where the decode engine listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ports {
    /// Port of rank 0. Each further rank's is one higher, and all are valid ports.
    pub port: NonZeroU16,
    /// Port of rank 0's decode engine. Each further rank's is one higher, and all are valid ports.
    pub model_server_port: NonZeroU16,
    /// Ranks in this pod.
    pub data_parallel_size: NonZeroU16,
}

impl Ports {
    /// For each rank, from 0 on: the port to listen on and the decode engine's.
    pub fn ranks(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let (port, engine) = (self.port.get(), self.model_server_port.get());
        (0..self.data_parallel_size.get()).map(move |rank| (port + rank, engine + rank))
    }

    /// Whether a port is one of the listener's or of the decode engine's.
    pub(crate) fn taken(&self, port: NonZeroU16) -> bool {
        self.ranks().any(|(listener, engine)| port.get() == listener || port.get() == engine)
    }

    pub(crate) fn read(values: &Values) -> Result<Self, Invalid> {
        let data_parallel_size = data_parallel_size(values)?;
        let port = first_port(values, PORT, data_parallel_size)?;
        let engine = values.strongest(&[MODEL_SERVER_PORT, VLLM_PORT]);
        let engine_flag = engine.unwrap_or(MODEL_SERVER_PORT);
        let model_server_port = first_port(values, engine_flag, data_parallel_size)?;
        if port.get().abs_diff(model_server_port.get()) < data_parallel_size.get() {
            return Err(Invalid::new(format!(
                "--{PORT} {port} and --{engine_flag} {model_server_port} overlap with {data_parallel_size} rank(s): \
                 the sidecar would be its own decode engine; give ports further apart"
            )));
        }
        Ok(Self { port, model_server_port, data_parallel_size })
    }
}

fn data_parallel_size(values: &Values) -> Result<NonZeroU16, Invalid> {
    let number = values.integer(DATA_PARALLEL_SIZE)?;
    if number < 1 {
        return Err(Invalid::new(format!("--{DATA_PARALLEL_SIZE} must be a positive integer, got {number}")));
    }
    u16::try_from(number)
        .ok()
        .filter(|size| *size < u16::MAX)
        .and_then(NonZeroU16::new)
        .ok_or_else(|| Invalid::new(format!("--{DATA_PARALLEL_SIZE} must be below 65535, got {number}")))
}

/// The port of rank 0, if those of all other ranks fit above it.
pub(super) fn first_port(values: &Values, flag: &str, ranks: NonZeroU16) -> Result<NonZeroU16, Invalid> {
    let port = values.port(flag)?;
    let last = u32::from(port.get()) + u32::from(ranks.get()) - 1;
    if last > u32::from(u16::MAX) {
        return Err(Invalid::new(format!(
            "--{flag} {port} leaves no port for rank {}: {last} exceeds 65535; give a lower one",
            ranks.get() - 1
        )));
    }
    Ok(port)
}
