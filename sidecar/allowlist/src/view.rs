//! What the changes of the two collections mean for the list: pure, fed change by change.
//!
//! The rule behind all of it: once a set was complete it stays in force until another complete one takes its place
//! in one step, or until the pool itself says that it has no targets (deleted, or without selector or ports).

use std::sync::Arc;

use crate::follow::Change;
use crate::pods::{self, Pod, Pods};
use crate::pool::{PoolFault, PoolObject, PoolSpec};
use crate::pool_ref::PoolRef;
use crate::targets::Targets;
use crate::verdict::List;

/// Pool and pods as far as they are known.
#[derive(Debug)]
pub(crate) struct View {
    wanted: PoolRef,
    pool: Pool,
    /// The pods of the pool's present selector, once they were listed.
    pods: Option<Pods>,
    in_force: Option<Arc<Targets>>,
    pool_trouble: Option<Arc<str>>,
    pods_trouble: Option<Arc<str>>,
}

#[derive(Debug)]
enum Pool {
    /// Not listed yet.
    Unseen,
    /// Listed, and not there.
    Absent,
    /// Was there, and was deleted.
    Deleted,
    /// There, but names no targets.
    Faulty(PoolFault),
    Live(PoolSpec),
}

/// What a change asks of whoever follows the pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Stay,
    /// Follow the pods of this spec, and no longer those of an earlier one.
    Follow(PoolSpec),
    /// Follow no pods.
    Stop,
}

/// Where things stand, for all who ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) list: List,
    /// Why the list is not fit for work.
    pub(crate) complaint: Option<Arc<str>>,
    /// Which calls fail at present, whatever the list is.
    pub(crate) trouble: Option<Arc<str>>,
}

impl View {
    pub(crate) fn new(wanted: PoolRef) -> Self {
        Self {
            wanted,
            pool: Pool::Unseen,
            pods: None,
            in_force: None,
            pool_trouble: None,
            pods_trouble: None,
        }
    }

    /// A change of the pool.
    pub(crate) fn pool(&mut self, change: Change<PoolObject>) -> Step {
        let ours = |pool: &PoolObject| pool.name() == self.wanted.name();
        match change {
            Change::Listed(pools) => match pools.iter().find(|pool| ours(pool)) {
                Some(pool) => self.pool_is(pool),
                None => self.pool_is_not(),
            },
            Change::Put(pool) if ours(&pool) => self.pool_is(&pool),
            Change::Gone(pool) if ours(&pool) => self.pool_is_not(),
            Change::Put(_) | Change::Gone(_) => Step::Stay,
            Change::Trouble(text) => {
                tell(&mut self.pool_trouble, &text);
                Step::Stay
            }
            Change::Recovered => {
                self.pool_trouble = None;
                Step::Stay
            }
        }
    }

    /// A change of the pods that are followed.
    pub(crate) fn pods(&mut self, change: Change<Pod>) {
        let changed = match change {
            Change::Listed(listed) => {
                let mut pods = Pods::new();
                for pod in listed {
                    pods::put(&mut pods, pod);
                }
                self.pods = Some(pods);
                true
            }
            Change::Put(pod) => self.pods.as_mut().is_some_and(|pods| pods::put(pods, pod)),
            Change::Gone(pod) => self.pods.as_mut().is_some_and(|pods| pods.remove(&pod.name).is_some()),
            Change::Trouble(text) => {
                tell(&mut self.pods_trouble, &text);
                false
            }
            Change::Recovered => {
                self.pods_trouble = None;
                false
            }
        };
        if changed {
            self.rebuild();
        }
    }

    /// Trouble before there is anything to follow.
    pub(crate) fn no_client(&mut self, text: &str) {
        tell(&mut self.pool_trouble, text);
    }

    /// There is a client now.
    pub(crate) fn client_found(&mut self) {
        self.pool_trouble = None;
    }

    pub(crate) fn report(&self) -> Report {
        let trouble = self.pool_trouble.as_ref().or(self.pods_trouble.as_ref()).cloned();
        let Some(targets) = &self.in_force else {
            let reason: Arc<str> = format!("the allowlist is not there yet: {}", self.missing()).into();
            return Report { list: List::Waiting(Arc::clone(&reason)), complaint: Some(reason), trouble };
        };
        let deleted = matches!(self.pool, Pool::Deleted);
        let complaint =
            deleted.then(|| format!("{} was deleted: every target is denied", self.wanted).into());
        Report { list: List::Known(Arc::clone(targets)), complaint, trouble }
    }

    /// What stands between here and a first complete set.
    fn missing(&self) -> String {
        let pool = &self.wanted;
        match &self.pool {
            Pool::Unseen => match &self.pool_trouble {
                Some(trouble) => trouble.to_string(),
                None => format!("{pool} was not listed yet"),
            },
            Pool::Absent | Pool::Deleted => {
                format!("{pool} does not exist: create it, or correct --inference-pool or --pool-group")
            }
            Pool::Faulty(fault) => format!("{pool} is of no use: {fault}"),
            Pool::Live(spec) => match &self.pods_trouble {
                Some(trouble) => trouble.to_string(),
                None => format!("the pods of {pool} ({}) were not listed yet", spec.selector()),
            },
        }
    }

    fn pool_is(&mut self, pool: &PoolObject) -> Step {
        let spec = match pool.spec(self.wanted.group()) {
            Ok(spec) => spec,
            Err(fault) => {
                if !matches!(&self.pool, Pool::Faulty(known) if *known == fault) {
                    tracing::warn!(pool = %self.wanted, %fault, "the allowlist's pool is of no use");
                }
                self.pool = Pool::Faulty(fault);
                self.forget_pods();
                self.in_force = None;
                return Step::Stop;
            }
        };
        let before = std::mem::replace(&mut self.pool, Pool::Live(spec.clone()));
        match before {
            Pool::Live(known) if known.labels == spec.labels => {
                if known.ports != spec.ports && self.pods.is_some() {
                    self.rebuild();
                }
                Step::Stay
            }
            Pool::Live(_) => {
                self.forget_pods();
                Step::Follow(spec)
            }
            Pool::Unseen | Pool::Absent | Pool::Deleted | Pool::Faulty(_) => {
                // A pool that is new has no last known set; until its pods are listed the answer is "not yet".
                self.in_force = None;
                Step::Follow(spec)
            }
        }
    }

    fn pool_is_not(&mut self) -> Step {
        match self.pool {
            Pool::Unseen | Pool::Absent => self.pool = Pool::Absent,
            Pool::Deleted => {}
            Pool::Faulty(_) | Pool::Live(_) => {
                tracing::warn!(pool = %self.wanted, "the allowlist's pool was deleted: every target is denied");
                self.pool = Pool::Deleted;
                self.in_force = Some(Arc::default());
            }
        }
        self.forget_pods();
        Step::Stop
    }

    fn forget_pods(&mut self) {
        self.pods = None;
        self.pods_trouble = None;
    }

    fn rebuild(&mut self) {
        let (Pool::Live(spec), Some(pods)) = (&self.pool, &self.pods) else { return };
        let builder = Targets::with_ports(spec.ports.clone());
        let targets = pods.iter().fold(builder, |set, (name, addresses)| set.pod(name, addresses)).build();
        if self.in_force.as_deref() != Some(&targets) {
            tracing::debug!(pool = %self.wanted, pods = pods.len(), "the allowlist changed");
            self.in_force = Some(Arc::new(targets));
        }
    }
}

/// Keeps a text of trouble, and logs it when it is a new one.
fn tell(known: &mut Option<Arc<str>>, text: &str) {
    if known.as_deref() != Some(text) {
        tracing::warn!(trouble = text, "the allowlist cannot be read; it is tried again");
        *known = Some(text.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Verdict, judge};
    use serde_json::{Value, json};

    fn view() -> View {
        View::new(PoolRef::new("llm", "pool", "inference.networking.k8s.io").unwrap())
    }

    fn pool(labels: &Value, ports: &[u16]) -> PoolObject {
        let ports: Vec<_> = ports.iter().map(|port| json!({"number": port})).collect();
        let spec = json!({"selector": {"matchLabels": labels}, "targetPorts": ports});
        serde_json::from_value(json!({"metadata": {"name": "pool"}, "spec": spec})).unwrap()
    }

    fn llm(ports: &[u16]) -> PoolObject {
        pool(&json!({"app": "llm"}), ports)
    }

    fn pod(name: &str, ip: &str) -> Pod {
        Pod { name: name.into(), addresses: [ip.parse().unwrap()].into(), usable: true }
    }

    fn verdict(view: &View, target: &str) -> Verdict {
        judge(&[], &view.report().list, &target.parse().unwrap())
    }

    fn waits(view: &View, target: &str, why: &str) {
        match verdict(view, target) {
            Verdict::Unknown(reason) => assert!(reason.contains(why), "{reason:?} says {why:?}"),
            other => panic!("{other:?} for {target}"),
        }
        assert!(view.report().complaint.unwrap().contains(why), "and readiness says the same");
    }

    /// A view with one pod in force.
    fn settled() -> View {
        let mut view = view();
        assert!(matches!(view.pool(Change::Listed(vec![llm(&[8000])])), Step::Follow(_)));
        view.pods(Change::Listed(vec![pod("a", "10.0.0.1")]));
        assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Allowed);
        assert_eq!(view.report().complaint, None);
        view
    }

    #[test]
    fn nothing_is_known_before_pool_and_pods_were_listed() {
        let mut view = view();
        waits(&view, "10.0.0.1:8000", "was not listed yet");
        view.pool(Change::Trouble("no route".into()));
        waits(&view, "10.0.0.1:8000", "no route");
        view.pool(Change::Listed(vec![llm(&[8000])]));
        waits(&view, "10.0.0.1:8000", "app=llm");
        view.pods(Change::Trouble("no Role".into()));
        waits(&view, "10.0.0.1:8000", "no Role");
        view.pods(Change::Listed(vec![]));
        assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Denied, "an empty listing is an answer");
    }

    #[test]
    fn a_pool_that_does_not_exist_yet_is_awaited() {
        let mut view = view();
        assert_eq!(view.pool(Change::Listed(vec![])), Step::Stop);
        waits(&view, "10.0.0.1:8000", "does not exist");
        assert!(matches!(view.pool(Change::Put(llm(&[8000]))), Step::Follow(_)));
    }

    #[test]
    fn trouble_does_not_touch_a_set_in_force() {
        let mut view = settled();
        view.pool(Change::Trouble("gone".into()));
        view.pods(Change::Trouble("gone too".into()));
        assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Allowed);
        assert_eq!(view.report().trouble.as_deref(), Some("gone"));
        view.pool(Change::Recovered);
        assert_eq!(view.report().trouble.as_deref(), Some("gone too"));
        view.pods(Change::Recovered);
        assert_eq!(view.report().trouble, None);
    }

    #[test]
    fn a_new_listing_replaces_the_set_in_one_step() {
        let mut view = settled();
        view.pods(Change::Listed(vec![pod("b", "10.0.0.2")]));
        assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Denied);
        assert_eq!(verdict(&view, "10.0.0.2:8000"), Verdict::Allowed);
    }

    #[test]
    fn deletion_empties_the_set_at_once_and_a_new_pool_starts_over() {
        for deletion in [Change::Gone(llm(&[8000])), Change::Listed(vec![])] {
            let mut view = settled();
            assert_eq!(view.pool(deletion), Step::Stop);
            assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Denied);
            assert!(view.report().complaint.unwrap().contains("was deleted"));
            assert!(matches!(view.pool(Change::Put(llm(&[8000]))), Step::Follow(_)));
            waits(&view, "10.0.0.1:8000", "not listed yet");
            view.pods(Change::Listed(vec![pod("a", "10.0.0.1")]));
            assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Allowed);
        }
    }

    #[test]
    fn a_new_selector_keeps_the_old_set_and_its_ports_until_the_new_one_is_complete() {
        let mut view = settled();
        let step = view.pool(Change::Put(pool(&json!({"app": "new"}), &[9000])));
        assert!(matches!(step, Step::Follow(spec) if spec.selector() == "app=new"));
        assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Allowed);
        view.pods(Change::Listed(vec![pod("b", "10.0.0.2")]));
        assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Denied);
        assert_eq!(verdict(&view, "10.0.0.2:9000"), Verdict::Allowed);
    }

    #[test]
    fn new_ports_hold_at_once_for_the_pods_that_are_known() {
        let mut view = settled();
        assert_eq!(view.pool(Change::Put(llm(&[8001]))), Step::Stay);
        assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Denied);
        assert_eq!(verdict(&view, "10.0.0.1:8001"), Verdict::Allowed);
    }

    #[test]
    fn a_pool_that_names_no_targets_is_an_error_that_says_so() {
        let mut view = settled();
        assert_eq!(view.pool(Change::Put(llm(&[]))), Step::Stop);
        waits(&view, "10.0.0.1:8000", "spec.targetPorts");
        view.pool(Change::Put(pool(&json!({}), &[8000])));
        waits(&view, "10.0.0.1:8000", "spec.selector.matchLabels");
        assert!(matches!(view.pool(Change::Put(llm(&[8000]))), Step::Follow(_)));
    }

    #[test]
    fn a_pool_of_another_name_is_none_of_ours() {
        let mut view = settled();
        let other = || {
            let spec = json!({"selector": {"matchLabels": {"app": "other"}}, "targetPorts": [{"number": 1}]});
            serde_json::from_value(json!({"metadata": {"name": "other"}, "spec": spec})).unwrap()
        };
        assert_eq!(view.pool(Change::Put(other())), Step::Stay);
        assert_eq!(view.pool(Change::Gone(other())), Step::Stay);
        assert_eq!(verdict(&view, "10.0.0.1:8000"), Verdict::Allowed);
    }
}
