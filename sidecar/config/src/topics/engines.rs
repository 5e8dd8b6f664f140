//! Where the engines of Mooncake and of vLLM's P2P tier listen beside their API. (SGLang's port has no flag; see
//! `environment`.)

use std::num::NonZeroU16;

use serde::Serialize;

use super::handoff::Handoff;
use super::ports::{self, Ports};
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::values::Values;

const MOONCAKE_PORT: &str = "mooncake-bootstrap-port";
const P2P_PORT: &str = "p2p-connector-port";
const P2P_PULL: &str = "enable-p2p-pull";

pub(crate) const ENGINES: Group = Group {
    heading: "Mooncake, SGLang, P2P",
    flags: &[
        Flag::port(MOONCAKE_PORT, "8998", "Port on which prefill engines tell their Mooncake identity")
            .env("MOONCAKE_BOOTSTRAP_PORT"),
        Flag::port(P2P_PORT, "7777", "Port of the engines' P2P tier; rank r uses this + r")
            .env("P2P_CONNECTOR_PORT"),
        Flag::bool(P2P_PULL, false, "The engines have a P2P tier beside NIXL; only with nixlv2"),
    ],
};

/// Where engines listen beside their API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Engines {
    /// Port on which prefill engines tell their Mooncake identity.
    pub mooncake_bootstrap_port: NonZeroU16,
    /// Port of rank 0's P2P tier. Each further rank's is one higher, and all are valid ports.
    pub p2p_connector_port: NonZeroU16,
    /// The engines have a P2P tier beside NIXL. Only with `nixlv2`; `offloading` has one of itself.
    pub enable_p2p_pull: bool,
}

impl Engines {
    pub(crate) fn read(values: &Values, ports: &Ports, handoff: &Handoff) -> Result<Self, Invalid> {
        let engines = Self {
            mooncake_bootstrap_port: values.port(MOONCAKE_PORT)?,
            p2p_connector_port: ports::first_port(values, P2P_PORT, ports.data_parallel_size)?,
            enable_p2p_pull: values.bool(P2P_PULL)?,
        };
        if engines.enable_p2p_pull {
            handoff.require_nixlv2(P2P_PULL)?;
        }
        Ok(engines)
    }
}
