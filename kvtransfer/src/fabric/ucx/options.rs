//! What a UCX fabric can be told, and the settings of UCX that come of it.

use std::path::PathBuf;
use std::time::Duration;

use kvferry_ucx_sys::Version;

use super::limits::COPIES_AT_ONCE;
use super::raw::Setting;
use crate::{AgentName, Epoch};

/// Which lanes will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Whatever UCX finds; [`Lane`](crate::fabric::Lane) tells what it was.
    Any,
    /// One that UCX does not make of messages between the two processors: a device, or the kernel between processes of one
    /// host. What would go another way is [`Error::Lane`](crate::Error::Lane). Nothing else should carry traffic for long
    /// (see [`UcxFabric`](super::UcxFabric)).
    ZeroCopy,
    /// A device that copies by itself (InfiniBand, RoCE, EFA), and nothing else: what would go another way is
    /// [`Error::Lane`](crate::Error::Lane).
    Rdma,
}

/// What [`UcxFabric::open`](super::UcxFabric::open) is told. Begin with [`UcxOptions::new`] and change what differs.
///
/// UCX reads its own environment (`UCX_...`) too. What is said here goes before it; where [`UcxOptions::new`] says nothing,
/// or only what is usual, the environment decides.
#[derive(Debug, Clone)]
pub struct UcxOptions {
    /// What peers call this agent.
    pub name: AgentName,
    /// This life of it.
    pub epoch: Epoch,
    /// The file of UCX's library (`libucp.so.0`). `None`: the first that is found. A process has one UCX: if it also loads
    /// NIXL's wheel, name the copy in there.
    pub library: Option<PathBuf>,
    /// Transports to choose from, as in `UCX_TLS`.
    pub transports: Option<String>,
    /// Devices to choose from, as in `UCX_NET_DEVICES`.
    pub devices: Option<String>,
    /// Which lanes will do.
    pub want: Want,
    /// Whether the progress thread never sleeps: some microseconds less for every transfer, for one core.
    pub busy_poll: bool,
    /// Bytes of a TCP segment. UCX's own 8 KiB cost reading over TCP three quarters of its speed.
    pub tcp_segment: u32,
    /// How often UCX asks whether an idle peer is still there (UCX's own: 20 s).
    pub keepalive: Duration,
    /// How long a peer may take to answer when it is met.
    pub meet_within: Duration,
    /// How long a peer may take to stop what was cancelled or revoked, and what is under way to it may take to end. Then the
    /// peer is parted from, since its bytes cannot be let go of otherwise.
    pub stop_within: Duration,
    /// Further settings: the name without `UCX_`, and the value. They go last. A name that UCX does not know is an error; to
    /// versions before 1.20, it is a warning of UCX's own.
    pub set: Vec<(String, String)>,
}

/// From here on, a setting of a transport is made by the name that its variable has.
const TAKES_WHOLE_NAMES: Version = Version { major: 1, minor: 15, release: 0 };

/// From here on, UCX can be told to fail rather than to emulate.
const REFUSES_EMULATION: Version = Version { major: 1, minor: 21, release: 0 };

impl UcxOptions {
    /// What is usual.
    pub const fn new(name: AgentName, epoch: Epoch) -> Self {
        Self {
            name,
            epoch,
            library: None,
            transports: None,
            devices: None,
            want: Want::Any,
            busy_poll: false,
            tcp_segment: 256 << 10,
            keepalive: Duration::from_secs(5),
            meet_within: Duration::from_secs(10),
            stop_within: Duration::from_secs(5),
            set: Vec::new(),
        }
    }

    /// The settings of a UCX of that version, in the order in which to make them. `in_environment` tells whether a variable is
    /// there.
    pub(super) fn settings(&self, version: Version, in_environment: impl Fn(&str) -> bool) -> Vec<Setting> {
        let setting = |name: &str, value: String, needed| Setting { name: name.into(), value, needed };
        // With rendezvous as it is by default, and errors reported, UCX refuses lanes whose registrations it cannot take
        // back: every put and get becomes messages between the two processors. We send no message by rendezvous.
        let mut settings = vec![setting("RNDV_THRESH", "inf".into(), true)];
        if !in_environment("UCX_KEEPALIVE_INTERVAL") {
            let every = format!("{}us", self.keepalive.as_micros());
            settings.push(setting("KEEPALIVE_INTERVAL", every, false));
        }
        // UCX warns of settings that nothing takes.
        if self.transports.as_ref().is_none_or(|chosen| chosen.contains("tcp") || chosen.contains("all")) {
            let known = ["TCP_TX_SEG_SIZE", "TCP_RX_SEG_SIZE"];
            let unsaid = known.into_iter().filter(|name| !in_environment(&format!("UCX_{name}")));
            // Older ones take settings of transports by a name that no other transport has either.
            let name =
                |name: &'static str| if version < TAKES_WHOLE_NAMES { &name["TCP_".len()..] } else { name };
            settings.extend(unsaid.map(|known| setting(name(known), self.tcp_segment.to_string(), false)));
        }
        // Where the kernel copies, UCX's own setting is one copy between two looks at all its transports.
        let copies = ["cma", "sm", "shm", "all"];
        let taken = |chosen: &String| copies.iter().any(|name| chosen.split(',').any(|word| word == *name));
        let said = ["UCX_CMA_TX_QUOTA", "UCX_SCOPY_TX_QUOTA"].into_iter().any(&in_environment);
        if !said && self.transports.as_ref().is_none_or(taken) {
            let name = if version < TAKES_WHOLE_NAMES { "TX_QUOTA" } else { "CMA_TX_QUOTA" };
            settings.push(setting(name, COPIES_AT_ONCE.to_string(), false));
        }
        // What was chosen is looked at in any case.
        if self.want != Want::Any && version >= REFUSES_EMULATION {
            settings.push(setting("PROTO_EMULATION_ENABLE", "n".into(), false));
        }
        let chosen = [("TLS", &self.transports), ("NET_DEVICES", &self.devices)];
        settings
            .extend(chosen.into_iter().filter_map(|(name, value)| Some(setting(name, value.clone()?, true))));
        settings.extend(self.set.iter().map(|(name, value)| setting(name, value.clone(), true)));
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> UcxOptions {
        UcxOptions::new(AgentName::new("a").unwrap(), Epoch(1))
    }

    fn value(options: &UcxOptions, name: &str) -> Option<String> {
        value_for(22, options, name)
    }

    fn value_for(minor: u32, options: &UcxOptions, name: &str) -> Option<String> {
        let version = Version { major: 1, minor, release: 1 };
        let settings = options.settings(version, |name| name == "UCX_TCP_TX_SEG_SIZE");
        settings.into_iter().rev().find(|setting| setting.name == name).map(|setting| setting.value)
    }

    #[test]
    fn no_message_goes_by_rendezvous_unless_somebody_insists() {
        assert_eq!(value(&options(), "RNDV_THRESH").unwrap(), "inf");
        let insists = UcxOptions { set: vec![("RNDV_THRESH".into(), "auto".into())], ..options() };
        assert_eq!(value(&insists, "RNDV_THRESH").unwrap(), "auto");
    }

    #[test]
    fn the_environment_goes_before_what_is_usual_but_not_before_what_was_said() {
        assert_eq!(value(&options(), "TCP_TX_SEG_SIZE"), None);
        assert_eq!(value(&options(), "TCP_RX_SEG_SIZE").unwrap(), "262144");
        assert_eq!(value(&options(), "TLS"), None);
        let said = UcxOptions { transports: Some("rc,tcp".into()), ..options() };
        assert_eq!(value(&said, "TLS").unwrap(), "rc,tcp");
    }

    #[test]
    fn old_versions_are_told_the_segment_size_by_its_short_name_and_none_without_tcp() {
        assert_eq!(value_for(14, &options(), "RX_SEG_SIZE").unwrap(), "262144");
        assert_eq!(value_for(14, &options(), "TCP_RX_SEG_SIZE"), None);
        assert_eq!(value_for(14, &options(), "TX_SEG_SIZE"), None, "the environment says it");
        let rc = UcxOptions { transports: Some("rc".into()), ..options() };
        assert_eq!((value_for(14, &rc, "RX_SEG_SIZE"), value(&rc, "TCP_RX_SEG_SIZE")), (None, None));
    }

    #[test]
    fn the_kernel_makes_several_copies_between_two_looks_at_all_transports_where_it_makes_any() {
        let several = COPIES_AT_ONCE.to_string();
        assert_eq!(value(&options(), "CMA_TX_QUOTA").as_ref(), Some(&several));
        assert_eq!(value_for(14, &options(), "TX_QUOTA"), Some(several), "older ones know a short name");
        let among = |transports: &str| UcxOptions { transports: Some(transports.into()), ..options() };
        assert!(value(&among("cma,tcp"), "CMA_TX_QUOTA").is_some());
        assert_eq!(value(&among("tcp"), "CMA_TX_QUOTA"), None, "nothing would take it");
        let version = Version { major: 1, minor: 22, release: 1 };
        let settings = options().settings(version, |name| name == "UCX_SCOPY_TX_QUOTA");
        assert!(settings.iter().all(|setting| setting.name != "CMA_TX_QUOTA"), "the environment says it");
    }

    #[test]
    fn whoever_wants_rdma_gets_no_emulation() {
        assert_eq!(value(&options(), "PROTO_EMULATION_ENABLE"), None);
        let rdma = UcxOptions { want: Want::Rdma, ..options() };
        assert_eq!(value(&rdma, "PROTO_EMULATION_ENABLE").unwrap(), "n");
        assert_eq!(value_for(20, &rdma, "PROTO_EMULATION_ENABLE"), None, "it does not know the word");
    }
}
