//! Which InferencePool the list follows, checked before anything asks the API server for it.

use std::fmt;

/// The API group of the pool, and with it the shape of its spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolGroup {
    /// `inference.networking.k8s.io`, version `v1`.
    Stable,
    /// `inference.networking.x-k8s.io`, version `v1alpha2`.
    Alpha,
}

/// A pool's namespace, name and API group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRef {
    namespace: String,
    name: String,
    group: PoolGroup,
}

/// Why a pool cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolRefError {
    /// The group is neither of the two.
    UnknownGroup(String),
    /// The namespace is no name that Kubernetes gives.
    BadNamespace(String),
    /// The name is no name that Kubernetes gives.
    BadName(String),
}

/// The longest namespace Kubernetes gives (a DNS label), in bytes.
const NAMESPACE_BYTES: usize = 63;
/// The longest name Kubernetes gives (a DNS subdomain), in bytes.
const NAME_BYTES: usize = 253;

impl PoolGroup {
    /// The group's name as it stands in `--pool-group`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stable => "inference.networking.k8s.io",
            Self::Alpha => "inference.networking.x-k8s.io",
        }
    }

    /// The version of the group that is read.
    pub fn version(self) -> &'static str {
        match self {
            Self::Stable => "v1",
            Self::Alpha => "v1alpha2",
        }
    }
}

impl PoolRef {
    /// The pool `namespace/name` of an API group, both of which Kubernetes would accept.
    ///
    /// # Errors
    /// When the group is unknown, or a name has a character that no such name has (they become part of a URL).
    pub fn new(namespace: &str, name: &str, group: &str) -> Result<Self, PoolRefError> {
        let group = [PoolGroup::Stable, PoolGroup::Alpha]
            .into_iter()
            .find(|known| known.name() == group)
            .ok_or_else(|| PoolRefError::UnknownGroup(group.to_owned()))?;
        if !is_name(namespace, NAMESPACE_BYTES, false) {
            return Err(PoolRefError::BadNamespace(namespace.to_owned()));
        }
        if !is_name(name, NAME_BYTES, true) {
            return Err(PoolRefError::BadName(name.to_owned()));
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), group })
    }

    /// The namespace of the pool and of its pods.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pool's API group.
    pub fn group(&self) -> PoolGroup {
        self.group
    }
}

fn is_name(text: &str, longest: usize, dots: bool) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (dots && b == b'.');
    text.len() <= longest
        && text.bytes().all(inner)
        && edge(text.bytes().next())
        && edge(text.bytes().next_back())
}

impl fmt::Display for PoolRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InferencePool {}/{} ({})", self.namespace, self.name, self.group.name())
    }
}

impl fmt::Display for PoolRefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownGroup(group) => write!(
                f,
                "unknown --pool-group {group:?}: give {} or {}",
                PoolGroup::Stable.name(),
                PoolGroup::Alpha.name()
            ),
            Self::BadNamespace(text) => write!(
                f,
                "{text:?} is no namespace: give --inference-pool as namespace/name, in lower case letters, digits and -"
            ),
            Self::BadName(text) => write!(
                f,
                "{text:?} is no pool name: give --inference-pool in lower case letters, digits, - and ."
            ),
        }
    }
}

impl std::error::Error for PoolRefError {}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "inference.networking.k8s.io";

    #[test]
    fn both_groups_are_known_with_their_versions() {
        for (group, version) in [(STABLE, "v1"), ("inference.networking.x-k8s.io", "v1alpha2")] {
            let pool = PoolRef::new("llm", "pool-1", group).unwrap();
            assert_eq!((pool.group().name(), pool.group().version()), (group, version));
        }
    }

    #[test]
    fn what_kubernetes_would_not_accept_is_refused_at_once() {
        let unknown = PoolRef::new("llm", "pool", "networking.k8s.io").unwrap_err();
        assert_eq!(unknown, PoolRefError::UnknownGroup("networking.k8s.io".into()));
        assert!(unknown.to_string().contains(STABLE), "it says what to give: {unknown}");
        for (namespace, name) in
            [("", "pool"), ("a/b", "pool"), ("LLM", "pool"), ("a.b", "pool"), ("-a", "pool")]
        {
            let error = PoolRef::new(namespace, name, STABLE).unwrap_err();
            assert_eq!(error, PoolRefError::BadNamespace(namespace.into()));
        }
        for name in ["", "../secrets", "pool?x", "pool.", "Pool"] {
            assert_eq!(PoolRef::new("llm", name, STABLE), Err(PoolRefError::BadName(name.into())));
        }
        assert!(PoolRef::new(&"a".repeat(64), "pool", STABLE).is_err());
    }
}
