//! The settings by topic. A topic's file holds its rows, its fields and the rules between them.

pub(crate) mod deprecated;
pub(crate) mod destinations;
pub(crate) mod engines;
pub(crate) mod environment;
pub(crate) mod failover;
pub(crate) mod handoff;
pub(crate) mod legs;
pub(crate) mod limits;
pub(crate) mod listener;
pub(crate) mod moriio;
pub(crate) mod nixl;
pub(crate) mod observability;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod shortcuts;

use crate::flag::{Flag, Group};
use crate::yaml;

/// All flags, as `--help` shows them: what every deployment sets comes first.
pub const GROUPS: &[Group] = &[
    ports::PORTS,
    ports::DATA_PARALLEL,
    handoff::HANDOFF,
    shortcuts::SHORTCUTS,
    nixl::NIXL,
    engines::ENGINES,
    handoff::ENCODERS,
    moriio::MORIIO,
    failover::FAILOVER,
    destinations::DESTINATIONS,
    listener::LISTENER,
    legs::LEGS,
    limits::LIMITS,
    observability::OBSERVABILITY,
    process::PROCESS,
    yaml::CONFIGURATION,
    observability::WITHOUT_EFFECT,
    deprecated::DEPRECATED,
];

/// Every row of every table.
pub(crate) fn flags() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// The row of a name.
pub(crate) fn flag(name: &str) -> Option<&'static Flag> {
    flags().find(|flag| flag.name == name)
}
