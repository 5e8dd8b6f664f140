//! Whom routing headers may name: the pods of an InferencePool, and targets listed by hand.

use std::fmt;

use serde::{Serialize, Serializer};

use super::deprecated::{POOL_NAME, POOL_NAMESPACE};
use crate::Known;
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::values::Values;

const PROTECTION: &str = "enable-ssrf-protection";
const POOL: &str = "inference-pool";
const POOL_GROUP: &str = "pool-group";
const ALLOW_TARGET: &str = "allow-target";

/// The namespace of a pool named without one.
const DEFAULT_NAMESPACE: &str = "default";

pub(crate) const DESTINATIONS: Group = Group {
    heading: "Destinations",
    flags: &[
        Flag::bool(PROTECTION, false, "Dial only ready pods of the InferencePool, on its ports"),
        Flag::text(POOL, "[NAMESPACE/]NAME", "", "The InferencePool; without a namespace: of default")
            .env("INFERENCE_POOL"),
        Flag::text(
            POOL_GROUP,
            "GROUP",
            "inference.networking.k8s.io",
            "The InferencePool's API group; also inference.networking.x-k8s.io",
        ),
        Flag::list(
            ALLOW_TARGET,
            "TARGETS",
            "Dial only these, or these beside the InferencePool's pods: host:8000, 10.0.0.7:8000, or networks such \
             as 10.0.0.0/8 (all ports) and 10.0.0.0/8:8000",
        ),
    ],
};

/// An InferencePool, printed as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Never empty.
    pub namespace: String,
    /// Never empty.
    pub name: String,
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for Pool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whom routing headers may name: anyone, if there is neither protection nor a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Destinations {
    /// Ready pods of the pool may be named, and others only if listed. There is a pool then, and it was checked.
    pub enable_ssrf_protection: bool,
    /// The pool, if one was named.
    pub inference_pool: Option<Pool>,
    /// The API group of the pool. Checked only with protection, since nobody asks for the pool otherwise.
    pub pool_group: String,
    /// May be named whatever the pool says; with one entry or more, nobody else may unless by the pool. Each was
    /// checked.
    pub allow_target: Vec<String>,
}

impl Destinations {
    /// Whether a routing header may name anyone.
    pub fn are_open(&self) -> bool {
        !self.enable_ssrf_protection && self.allow_target.is_empty()
    }

    pub(crate) fn read(
        values: &Values,
        known: &Known<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Invalid> {
        let destinations = Self {
            enable_ssrf_protection: values.bool(PROTECTION)?,
            inference_pool: pool(values)?,
            pool_group: values.text(POOL_GROUP).to_owned(),
            allow_target: values.list(ALLOW_TARGET).into_iter().map(str::to_owned).collect(),
        };
        if destinations.enable_ssrf_protection {
            let Some(pool) = &destinations.inference_pool else {
                return Err(Invalid::new(format!(
                    "--{POOL} flag or INFERENCE_POOL environment variable is required when --{PROTECTION} is true"
                )));
            };
            (known.pool)(&pool.namespace, &pool.name, &destinations.pool_group).map_err(Invalid::new)?;
        }
        for target in &destinations.allow_target {
            (known.allow_target)(target)
                .map_err(|why| Invalid::new(format!("--{ALLOW_TARGET} {target:?}: {why}")))?;
        }
        if destinations.are_open() {
            warnings.push(format!(
                "any host named in a routing header is dialled; let only a trusted gateway reach this port, or give \
                 --{PROTECTION} or --{ALLOW_TARGET}"
            ));
        }
        Ok(destinations)
    }
}

fn pool(values: &Values) -> Result<Option<Pool>, Invalid> {
    let Some(given) = values.strongest(&[POOL, POOL_NAME]) else { return Ok(None) };
    let mut text = values.text(given).to_owned();
    if given == POOL_NAME {
        // Two names that are no two parts of one would print as what cannot be read back.
        let namespace = values.optional(POOL_NAMESPACE).unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned());
        text = format!("{namespace}/{text}");
    }
    let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, &text));
    if name.contains('/') {
        return Err(Invalid::new(format!(
            "--{POOL} must be in format 'namespace/name' or 'name', got {text:?}"
        )));
    }
    if namespace.is_empty() || name.is_empty() {
        return Err(Invalid::new(format!("--{POOL} cannot have an empty namespace or name, got {text:?}")));
    }
    Ok(Some(Pool { namespace: namespace.to_owned(), name: name.to_owned() }))
}
