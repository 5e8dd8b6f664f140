//! The two collections that are read, as paths, selectors and words for messages.

use kube::api::{ListParams, WatchParams};
use kube::core::{Request, request};

use crate::pool::PoolSpec;
use crate::pool_ref::PoolRef;

/// Objects per page of a listing: some 4 MiB of pods, which are parsed and dropped before the next page is asked for.
const PAGE_OBJECTS: u32 = 200;

/// After this many seconds the API server ends a watch, and it is opened again where it ended. Two minutes keep a
/// connection that died without a word from going unnoticed for long.
pub(crate) const WATCH_SECONDS: u32 = 120;

/// One collection of one namespace, narrowed by a selector.
#[derive(Debug, Clone)]
pub(crate) struct Collection {
    path: String,
    narrowed: Narrowed,
    pub(crate) plural: &'static str,
    pub(crate) namespace: String,
    /// Group and version, empty for the core API.
    pub(crate) group: Option<(&'static str, &'static str)>,
}

#[derive(Debug, Clone)]
enum Narrowed {
    ByField(String),
    ByLabels(String),
}

impl Collection {
    /// The one pool.
    pub(crate) fn pool(pool: &PoolRef) -> Self {
        let (group, version, namespace) = (pool.group().name(), pool.group().version(), pool.namespace());
        Self {
            path: format!("/apis/{group}/{version}/namespaces/{namespace}/inferencepools"),
            narrowed: Narrowed::ByField(format!("metadata.name={}", pool.name())),
            plural: "inferencepools",
            namespace: namespace.to_owned(),
            group: Some((group, version)),
        }
    }

    /// The pods that a pool selects.
    pub(crate) fn pods(pool: &PoolRef, spec: &PoolSpec) -> Self {
        let namespace = pool.namespace();
        Self {
            path: format!("/api/v1/namespaces/{namespace}/pods"),
            narrowed: Narrowed::ByLabels(spec.selector()),
            plural: "pods",
            namespace: namespace.to_owned(),
            group: None,
        }
    }

    /// Asks for a page: the first one, or the one that a continue token stands for.
    pub(crate) fn list(&self, token: Option<String>) -> Result<http::Request<Vec<u8>>, request::Error> {
        let params = ListParams { limit: Some(PAGE_OBJECTS), continue_token: token, ..ListParams::default() };
        let params = match &self.narrowed {
            Narrowed::ByField(selector) => params.fields(selector),
            Narrowed::ByLabels(selector) => params.labels(selector),
        };
        Request::new(self.path.as_str()).list(&params)
    }

    /// Asks for every change after a version.
    pub(crate) fn watch(&self, version: &str) -> Result<http::Request<Vec<u8>>, request::Error> {
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let params = match &self.narrowed {
            Narrowed::ByField(selector) => params.fields(selector),
            Narrowed::ByLabels(selector) => params.labels(selector),
        };
        Request::new(self.path.as_str()).watch(&params, version)
    }
}
