//! When a sidecar should be sent requests. A pure rule over what its parts say.

use serde::Serialize;

/// What readiness depends on, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// The data port is open.
    pub listening: bool,
    /// The process is on its way out: it finishes what runs and wants nothing new.
    pub draining: bool,
    /// The list of allowed targets.
    pub allowlist: Condition,
    /// The decode engine next to us.
    pub decoder: Condition,
}

/// Whether something that requests need is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It is there.
    Met,
    /// This configuration does not need it.
    NotRequired,
    /// It is not there. Says what is missing, and what an operator can do.
    Missing(String),
}

/// One reason for not being ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Which condition does not hold: a stable word for scripts.
    pub condition: &'static str,
    /// Why, for people.
    pub reason: String,
}

impl Readiness {
    /// Everything that stands against sending requests here; nothing if it is ready.
    pub fn reasons(&self) -> Vec<Reason> {
        let missing = |condition: &Condition| match condition {
            Condition::Met | Condition::NotRequired => None,
            Condition::Missing(reason) => Some(reason.clone()),
        };
        let conditions = [
            ("draining", self.draining.then(|| "the process is shutting down".to_owned())),
            ("listening", (!self.listening).then(|| "the data port is not open yet".to_owned())),
            ("allowlist", missing(&self.allowlist)),
            ("decoder", missing(&self.decoder)),
        ];
        conditions
            .into_iter()
            .filter_map(|(condition, reason)| Some(Reason { condition, reason: reason? }))
            .collect()
    }

    /// Whether requests may come.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Readiness {
        Readiness {
            listening: true,
            draining: false,
            allowlist: Condition::NotRequired,
            decoder: Condition::Met,
        }
    }

    fn conditions(readiness: &Readiness) -> Vec<&'static str> {
        readiness.reasons().into_iter().map(|reason| reason.condition).collect()
    }

    #[test]
    fn it_is_ready_when_all_that_is_needed_is_there() {
        assert!(ready().is_ready());
        assert!(
            Readiness { allowlist: Condition::Met, decoder: Condition::NotRequired, ..ready() }.is_ready()
        );
    }

    #[test]
    fn each_condition_alone_makes_it_unready_and_is_named() {
        let missing = || Condition::Missing("it is away".to_owned());
        for (readiness, named) in [
            (Readiness { draining: true, ..ready() }, "draining"),
            (Readiness { listening: false, ..ready() }, "listening"),
            (Readiness { allowlist: missing(), ..ready() }, "allowlist"),
            (Readiness { decoder: missing(), ..ready() }, "decoder"),
        ] {
            assert!(!readiness.is_ready());
            assert_eq!(conditions(&readiness), [named]);
        }
    }

    #[test]
    fn all_reasons_are_told_at_once_with_their_words() {
        let missing = |what: &str| Condition::Missing(what.to_owned());
        let readiness = Readiness {
            listening: false,
            draining: true,
            allowlist: missing("no list yet"),
            decoder: missing("connection refused"),
        };
        assert_eq!(conditions(&readiness), ["draining", "listening", "allowlist", "decoder"]);
        assert_eq!(readiness.reasons()[3].reason, "connection refused");
    }
}
