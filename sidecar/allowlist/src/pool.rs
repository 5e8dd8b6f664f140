//! What an InferencePool says of its pods: which labels they have and on which ports they serve.
//!
//! Read leniently and field by field, so that a pool that says too little is a fault with a name and not a
//! listing that cannot be parsed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::pool_ref::PoolGroup;

/// A pool as the API server sends it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PoolObject {
    metadata: Metadata,
    #[serde(default)]
    spec: Value,
}

#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    name: String,
}

/// The part of a pool that decides who is a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolSpec {
    /// Labels that a pod must have, never empty.
    pub(crate) labels: BTreeMap<String, String>,
    /// Ports that the pods serve, never empty.
    pub(crate) ports: BTreeSet<u16>,
}

/// Why a pool names no targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PoolFault {
    NoSelector(&'static str),
    BadSelector(&'static str),
    Expressions,
    NoPort(&'static str),
    BadPort(&'static str),
}

impl PoolObject {
    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// What the pool says, in the shape of its API group.
    pub(crate) fn spec(&self, group: PoolGroup) -> Result<PoolSpec, PoolFault> {
        let spec = &self.spec;
        let (labels, ports) = match group {
            PoolGroup::Stable => {
                // Ignoring an expression would allow more pods than the pool has.
                let expressions = &spec["selector"]["matchExpressions"];
                if expressions.as_array().is_some_and(|list| !list.is_empty()) {
                    return Err(PoolFault::Expressions);
                }
                let ports = spec["targetPorts"].as_array().map(Vec::as_slice).unwrap_or_default();
                let labels = labels(&spec["selector"]["matchLabels"], "spec.selector.matchLabels")?;
                (labels, numbers(ports.iter().map(|port| &port["number"]), "spec.targetPorts[].number")?)
            }
            PoolGroup::Alpha => {
                let port = Some(&spec["targetPortNumber"]).filter(|port| !port.is_null());
                let labels = labels(&spec["selector"], "spec.selector")?;
                (labels, numbers(port.into_iter(), "spec.targetPortNumber")?)
            }
        };
        Ok(PoolSpec { labels, ports })
    }
}

impl PoolSpec {
    /// The labels as a label selector.
    pub(crate) fn selector(&self) -> String {
        let terms: Vec<_> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        terms.join(",")
    }
}

fn labels(value: &Value, field: &'static str) -> Result<BTreeMap<String, String>, PoolFault> {
    // An empty selector would select every pod of the namespace.
    let map = value.as_object().filter(|map| !map.is_empty()).ok_or(PoolFault::NoSelector(field))?;
    let pair = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    map.iter().map(pair).collect::<Option<_>>().ok_or(PoolFault::BadSelector(field))
}

fn numbers<'a>(
    values: impl Iterator<Item = &'a Value>,
    field: &'static str,
) -> Result<BTreeSet<u16>, PoolFault> {
    let port = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    let ports: BTreeSet<u16> = values.map(port).collect::<Option<_>>().ok_or(PoolFault::BadPort(field))?;
    if ports.is_empty() { Err(PoolFault::NoPort(field)) } else { Ok(ports) }
}

impl fmt::Display for PoolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSelector(field) => write!(f, "it selects no pods; set {field}"),
            Self::BadSelector(field) => write!(f, "a value in {field} is not text; correct it"),
            Self::Expressions => f.write_str("it uses matchExpressions; use spec.selector.matchLabels only"),
            Self::NoPort(field) => write!(f, "it has no target port; set {field}"),
            Self::BadPort(field) => write!(f, "{field} is not a number from 1 to 65535; correct it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(group: PoolGroup, spec: &Value) -> Result<PoolSpec, PoolFault> {
        let object: PoolObject =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        object.spec(group)
    }

    #[test]
    fn both_shapes_give_labels_and_ports() {
        let stable = json!({
            "selector": {"matchLabels": {"role": "prefill", "app": "llm"}},
            "targetPorts": [{"number": 8001}, {"number": 8000}],
            "endpointPickerRef": {"name": "epp"},
        });
        let spec = read(PoolGroup::Stable, &stable).unwrap();
        assert_eq!(
            (spec.selector().as_str(), spec.ports),
            ("app=llm,role=prefill", BTreeSet::from([8000, 8001]))
        );

        let alpha = json!({"selector": {"app": "llm"}, "targetPortNumber": 8000});
        let spec = read(PoolGroup::Alpha, &alpha).unwrap();
        assert_eq!((spec.selector().as_str(), spec.ports), ("app=llm", BTreeSet::from([8000])));
    }

    #[test]
    fn a_pool_that_names_no_targets_says_what_it_lacks() {
        let labels = json!({"matchLabels": {"app": "llm"}});
        let ports = json!([{"number": 8000}]);
        let stable = PoolGroup::Stable;
        for (group, spec, fault) in [
            (stable, json!(null), PoolFault::NoSelector("spec.selector.matchLabels")),
            (stable, json!({"targetPorts": ports}), PoolFault::NoSelector("spec.selector.matchLabels")),
            (
                stable,
                json!({"selector": {"matchLabels": {}}, "targetPorts": ports}),
                PoolFault::NoSelector("spec.selector.matchLabels"),
            ),
            (
                stable,
                json!({"selector": {"matchLabels": {"app": 1}}, "targetPorts": ports}),
                PoolFault::BadSelector("spec.selector.matchLabels"),
            ),
            (
                stable,
                json!({"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{}]}, "targetPorts": ports}),
                PoolFault::Expressions,
            ),
            (stable, json!({"selector": labels}), PoolFault::NoPort("spec.targetPorts[].number")),
            (
                stable,
                json!({"selector": labels, "targetPorts": []}),
                PoolFault::NoPort("spec.targetPorts[].number"),
            ),
            (
                stable,
                json!({"selector": labels, "targetPorts": [{"number": 65536}]}),
                PoolFault::BadPort("spec.targetPorts[].number"),
            ),
            (PoolGroup::Alpha, json!({"selector": {"a": "b"}}), PoolFault::NoPort("spec.targetPortNumber")),
            (
                PoolGroup::Alpha,
                json!({"selector": {"a": "b"}, "targetPortNumber": "8000"}),
                PoolFault::BadPort("spec.targetPortNumber"),
            ),
            // The stable shape under the alpha group is a selector with a value that is no text.
            (
                PoolGroup::Alpha,
                json!({"selector": labels, "targetPortNumber": 8000}),
                PoolFault::BadSelector("spec.selector"),
            ),
        ] {
            assert_eq!(read(group, &spec), Err(fault), "{spec}");
        }
    }
}
