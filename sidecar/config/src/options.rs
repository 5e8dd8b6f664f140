//! The result: every setting in force, typed, by topic.

use serde::Serialize;

use crate::Known;
use crate::exit::Invalid;
use crate::topics::destinations::Destinations;
use crate::topics::engines::Engines;
use crate::topics::environment::Environment;
use crate::topics::failover::Failover;
use crate::topics::handoff::Handoff;
use crate::topics::legs::Legs;
use crate::topics::limits::Limits;
use crate::topics::listener::Listener;
use crate::topics::moriio::Moriio;
use crate::topics::nixl::Nixl;
use crate::topics::observability::Observability;
use crate::topics::ports::Ports;
use crate::topics::process::Process;
use crate::topics::shortcuts::Shortcuts;
use crate::values::Values;
use crate::world::World;

/// Every setting in force. A field has the name of its flag.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Options {
    /// Where to listen and where the decode engine listens.
    #[serde(flatten)]
    pub ports: Ports,
    /// How KV cache is handed over.
    #[serde(flatten)]
    pub handoff: Handoff,
    /// What may be done sooner than asked for.
    #[serde(flatten)]
    pub shortcuts: Shortcuts,
    /// What only NIXL's engines can do.
    #[serde(flatten)]
    pub nixl: Nixl,
    /// Where other connectors' engines listen.
    #[serde(flatten)]
    pub engines: Engines,
    /// MoRI-IO's WRITE mode.
    #[serde(flatten)]
    pub moriio: Moriio,
    /// What happens when a prefill leg fails.
    #[serde(flatten)]
    pub failover: Failover,
    /// How clients are met.
    #[serde(flatten)]
    pub listener: Listener,
    /// How engines are met.
    #[serde(flatten)]
    pub legs: Legs,
    /// Whom routing headers may name.
    #[serde(flatten)]
    pub destinations: Destinations,
    /// How long and how much.
    #[serde(flatten)]
    pub limits: Limits,
    /// What is told of it all.
    #[serde(flatten)]
    pub observability: Observability,
    /// The process and its pod.
    #[serde(flatten)]
    pub process: Process,
    /// What no flag sets.
    pub environment: Environment,
}

impl Options {
    /// The configuration in force as one object, with the flags' names as keys; under `environment` what only the
    /// environment sets. Credentials of proxies are left out.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("plain data with texts as keys is JSON")
    }

    pub(crate) fn read(
        values: &Values,
        known: &Known<'_>,
        world: &World<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Invalid> {
        let environment = Environment::read(world, warnings);
        let ports = Ports::read(values)?;
        let handoff = Handoff::read(values, known, warnings)?;
        let shortcuts = Shortcuts::read(values, &handoff, warnings)?;
        let listener = Listener::read(values, known, warnings)?;
        let legs = Legs::read(values)?;
        let destinations = Destinations::read(values, known, warnings)?;
        let failover = Failover::read(values, warnings)?;
        let limits = Limits::read(values)?;
        let engines = Engines::read(values, &ports, &handoff)?;
        let nixl = Nixl::read(values, &handoff, warnings)?;
        let observability = Observability::read(values, &ports, &environment, warnings)?;
        let process = Process::read(values, world)?;
        // Last, since it asks the name server.
        let moriio = Moriio::read(values, &handoff, &environment, world, warnings)?;
        Ok(Self {
            ports,
            handoff,
            shortcuts,
            nixl,
            engines,
            moriio,
            failover,
            listener,
            legs,
            destinations,
            limits,
            observability,
            process,
            environment,
        })
    }
}
