//! The handle that the rest of the sidecar asks: cheap to clone, never blocking, and the owner of the watcher.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kvferry_contract::Endpoint;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::pool_ref::PoolRef;
use crate::rules::Rule;
use crate::source::ClientSource;
use crate::verdict::{List, Verdict, judge};
use crate::view::{Report, View};
use crate::watch::{Board, run};

/// Which targets may be dialled. Clones share one list; the last one that is dropped ends its watcher.
#[derive(Debug, Clone)]
pub struct Allowlist(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Box<[Rule]>,
    board: Arc<Board>,
    watcher: Option<AbortHandle>,
}

/// Why there is no allowlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowlistError {
    /// A pool can only be watched from within a tokio runtime.
    NoRuntime,
}

/// How current the list is, for metrics and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How long ago the API server last said anything of use about the pool or its pods, by whichever of the two
    /// has been silent for longer. None when that never happened, and when no pool is watched. It stays below about
    /// two minutes while all is well, because a watch is opened anew that often.
    pub since_contact: Option<Duration>,
    /// Which calls to the API server fail at present and what to do about it.
    pub trouble: Option<Arc<str>>,
    /// How many endpoints the pool's ready pods have; 0 when no pool is watched.
    pub endpoints: usize,
}

impl Allowlist {
    /// Everything is allowed.
    pub fn open() -> Self {
        Self::fixed(Vec::new())
    }

    /// What these rules name is allowed; without any rule everything is, as with [`Allowlist::open`].
    pub fn fixed(rules: Vec<Rule>) -> Self {
        let report = Report { list: List::Unneeded, complaint: None, trouble: None };
        Self(Arc::new(Inner { rules: rules.into(), board: Arc::new(Board::new(report)), watcher: None }))
    }

    /// What these rules name is allowed, and the ready pods of a pool on the pool's ports.
    ///
    /// Returns at once and whatever the API server does: until pool and pods were listed once, a target that no
    /// rule names is [`Verdict::Unknown`].
    ///
    /// # Errors
    /// When it is called outside a tokio runtime.
    pub fn watch(pool: PoolRef, rules: Vec<Rule>, source: ClientSource) -> Result<Self, AllowlistError> {
        let runtime = Handle::try_current().map_err(|_| AllowlistError::NoRuntime)?;
        let board = Arc::new(Board::new(View::new(pool.clone()).report()));
        let task = runtime.spawn(run(Arc::clone(&board), pool, source));
        Ok(Self(Arc::new(Inner { rules: rules.into(), board, watcher: Some(task.abort_handle()) })))
    }

    /// Whether a target may be dialled. Takes a read lock for the length of two hash lookups.
    pub fn check(&self, target: &Endpoint) -> Verdict {
        judge(&self.0.rules, &self.0.board.report.borrow().list, target)
    }

    /// Whether everything is allowed, which deserves a warning at start.
    pub fn is_open(&self) -> bool {
        self.0.watcher.is_none() && self.0.rules.is_empty()
    }

    /// Whether the list is fit for work.
    ///
    /// # Errors
    /// When it is needed and was never complete, or its pool was deleted: why, and what to do.
    pub fn readiness(&self) -> Result<(), String> {
        let Some(complaint) = self.0.board.report.borrow().complaint.clone() else { return Ok(()) };
        if self.0.board.since_contact().is_some() {
            return Err(complaint.to_string());
        }
        let waited = self.0.board.age().as_secs();
        Err(format!("{complaint} (no complete answer from the API server in {waited} s)"))
    }

    /// How current the list is.
    pub fn status(&self) -> Status {
        Status {
            since_contact: self.0.board.since_contact(),
            trouble: self.0.board.report.borrow().trouble.clone(),
            endpoints: self.0.board.endpoints.borrow().len(),
        }
    }

    /// Every address of every ready pod with every port of the pool, now and at each change; always empty when no
    /// pool is watched. The channel ends with the last clone of this list.
    pub fn subscribe(&self) -> watch::Receiver<Arc<[Endpoint]>> {
        self.0.board.endpoints.subscribe()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
    }
}

impl fmt::Display for AllowlistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRuntime => f.write_str("a pool can only be watched from within a tokio runtime"),
        }
    }
}

impl std::error::Error for AllowlistError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn without_kubernetes_the_rules_alone_decide_and_without_rules_all_is_open() {
        let open = Allowlist::open();
        assert!(open.is_open());
        assert_eq!(open.check(&endpoint("198.51.100.1:22")), Verdict::Allowed);
        let fixed = Allowlist::fixed(vec!["10.0.0.0/8:8000".parse().unwrap()]);
        assert!(!fixed.is_open());
        assert_eq!(fixed.check(&endpoint("10.0.0.1:8000")), Verdict::Allowed);
        assert_eq!(fixed.check(&endpoint("10.0.0.1:22")), Verdict::Denied);
        for list in [open, fixed] {
            assert_eq!(list.readiness(), Ok(()));
            assert_eq!(list.status(), Status { since_contact: None, trouble: None, endpoints: 0 });
            assert!(list.subscribe().borrow().is_empty());
        }
    }

    #[test]
    fn a_pool_is_not_watched_outside_a_runtime() {
        let pool = PoolRef::new("llm", "pool", "inference.networking.k8s.io").unwrap();
        let error = Allowlist::watch(pool, Vec::new(), ClientSource::Infer).unwrap_err();
        assert_eq!(error, AllowlistError::NoRuntime);
    }
}
