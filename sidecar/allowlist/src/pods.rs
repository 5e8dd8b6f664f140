//! The few facts of a pod that matter here. Everything else in a pod (some 10 KiB each) is skipped while it is
//! parsed, so that a large namespace costs no memory.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// A pod's name, addresses, and whether it may be a target now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PodObject")]
pub(crate) struct Pod {
    pub(crate) name: Box<str>,
    pub(crate) addresses: Box<[IpAddr]>,
    /// Ready, not terminating, and with an address.
    pub(crate) usable: bool,
}

/// The usable pods of one complete listing and of what changed since, by name.
pub(crate) type Pods = BTreeMap<Box<str>, Box<[IpAddr]>>;

/// Applies a pod that was added or modified; says whether that changed anything.
pub(crate) fn put(pods: &mut Pods, pod: Pod) -> bool {
    if !pod.usable {
        return pods.remove(&pod.name).is_some();
    }
    if pods.get(&pod.name) == Some(&pod.addresses) {
        return false;
    }
    pods.insert(pod.name, pod.addresses);
    true
}

#[derive(Deserialize)]
struct PodObject {
    metadata: Metadata,
    #[serde(default)]
    status: Option<PodStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Box<str>,
    #[serde(default)]
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Default, Deserialize)]
struct PodStatus {
    #[serde(default, rename = "podIP")]
    ip: Option<String>,
    #[serde(default, rename = "podIPs")]
    ips: Option<Vec<PodIp>>,
    #[serde(default)]
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: String,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl From<PodObject> for Pod {
    fn from(object: PodObject) -> Self {
        let status = object.status.unwrap_or_default();
        let texts = status.ip.into_iter().chain(status.ips.into_iter().flatten().map(|entry| entry.ip));
        let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let ready = status.conditions.iter().flatten().any(|c| c.r#type == "Ready" && c.status == "True");
        let usable = ready && object.metadata.deletion_timestamp.is_none() && !addresses.is_empty();
        Self { name: object.metadata.name, addresses: addresses.into(), usable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(metadata: &Value, status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": metadata, "spec": {"nodeName": "n"}, "status": status}))
            .unwrap()
    }

    #[test]
    fn only_a_ready_pod_with_an_address_that_is_not_terminating_is_usable() {
        let name = json!({"name": "a"});
        let ready = json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}]);
        let unready =
            json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "False"}]);
        let terminating = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (metadata, status, usable) in [
            (&name, json!({"podIP": "10.0.0.7", "conditions": ready}), true),
            (&name, json!({"podIP": "10.0.0.7", "conditions": unready}), false),
            (&name, json!({"podIP": "10.0.0.7"}), false),
            (&name, json!({"conditions": ready}), false),
            (&name, json!({"podIP": "", "podIPs": null, "conditions": ready}), false),
            (&name, json!(null), false),
            (&terminating, json!({"podIP": "10.0.0.7", "conditions": ready}), false),
        ] {
            assert_eq!(pod(metadata, &status).usable, usable, "{metadata} {status}");
        }
    }

    #[test]
    fn every_address_of_a_pod_counts_once() {
        let status = json!({"podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "2001:db8::7"}]});
        let expected: [IpAddr; 2] = ["10.0.0.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(*pod(&json!({"name": "a"}), &status).addresses, expected);
    }

    #[test]
    fn only_what_changes_the_usable_pods_is_a_change() {
        let at = |ip: &str, usable| Pod { name: "a".into(), addresses: [ip.parse().unwrap()].into(), usable };
        let mut pods = Pods::new();
        assert!(!put(&mut pods, at("10.0.0.7", false)), "a pod that starts is none yet");
        assert!(put(&mut pods, at("10.0.0.7", true)));
        assert!(!put(&mut pods, at("10.0.0.7", true)), "a new label or a restart count matters to nobody");
        assert!(put(&mut pods, at("10.0.0.8", true)), "the same name at a new address");
        assert!(put(&mut pods, at("10.0.0.8", false)));
        assert!(pods.is_empty());
    }
}
