//! The decision itself: rules first, then the pool's set, and a third answer while that set is not there yet.

use std::sync::Arc;

use kvferry_contract::Endpoint;

use crate::host::Host;
use crate::rules::Rule;
use crate::targets::Targets;

/// What to do with a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Dial it.
    Allowed,
    /// Refuse it for good: it is no target of ours.
    Denied,
    /// Refuse it for now: the list is needed but not there yet, and this is why. The client may try again.
    Unknown(Arc<str>),
}

/// What is known of the pool's targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum List {
    /// No pool is used.
    Unneeded,
    /// A pool is used but nothing complete is known of it, for this reason.
    Waiting(Arc<str>),
    /// The complete set, perhaps an empty one.
    Known(Arc<Targets>),
}

/// Decides on one target.
///
/// Without a pool and without rules everything is allowed: this is what the sidecars in the field do by default,
/// and the drop-in contract.
pub fn judge(rules: &[Rule], list: &List, target: &Endpoint) -> Verdict {
    if rules.is_empty() && *list == List::Unneeded {
        return Verdict::Allowed;
    }
    let host = Host::new(target.host());
    let port = target.port();
    if rules.iter().any(|rule| rule.allows(&host, port)) {
        return Verdict::Allowed;
    }
    match list {
        List::Known(targets) if targets.allows(&host, port) => Verdict::Allowed,
        List::Known(_) | List::Unneeded => Verdict::Denied,
        List::Waiting(reason) => Verdict::Unknown(Arc::clone(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn known() -> List {
        let targets = Targets::with_ports(BTreeSet::from([8000])).pod("p", &["10.0.0.7".parse().unwrap()]);
        List::Known(Arc::new(targets.build()))
    }

    fn waiting() -> List {
        List::Waiting("no answer yet".into())
    }

    #[test]
    fn rules_and_the_pool_are_ored_and_only_a_missing_list_is_unknown() {
        let rule = || vec!["192.0.2.0/24:80".parse().unwrap()];
        let unknown = || Verdict::Unknown("no answer yet".into());
        for (rules, list, target, verdict) in [
            (vec![], List::Unneeded, "198.51.100.1:22", Verdict::Allowed),
            (rule(), List::Unneeded, "192.0.2.1:80", Verdict::Allowed),
            (rule(), List::Unneeded, "198.51.100.1:22", Verdict::Denied),
            (vec![], known(), "10.0.0.7:8000", Verdict::Allowed),
            (vec![], known(), "10.0.0.7:8001", Verdict::Denied),
            (rule(), known(), "192.0.2.1:80", Verdict::Allowed),
            (rule(), known(), "10.0.0.7:8000", Verdict::Allowed),
            (rule(), known(), "10.0.0.8:8000", Verdict::Denied),
            (vec![], waiting(), "10.0.0.7:8000", unknown()),
            (rule(), waiting(), "10.0.0.7:8000", unknown()),
            (rule(), waiting(), "192.0.2.1:80", Verdict::Allowed),
        ] {
            assert_eq!(
                judge(&rules, &list, &target.parse().unwrap()),
                verdict,
                "{rules:?} {list:?} {target}"
            );
        }
    }
}
