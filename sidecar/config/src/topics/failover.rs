//! What happens when a prefill leg fails.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::Serialize;

use crate::choice::choice;
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::go;
use crate::values::{Source, Values};

const POLICY: &str = "prefill-failure-policy";
const LOCAL_RATIO: &str = "prefill-local-ratio";
const LOCAL_MIN_RATE: &str = "prefill-local-min-rate";
const BREAKER_FAILURES: &str = "prefill-breaker-failures";
const BREAKER_PAUSE: &str = "prefill-breaker-pause";
const MAX_RETRIES: &str = "prefill-max-retries";
const RETRY_BACKOFF: &str = "prefill-retry-backoff";

/// The pause between retries unless set. Engines answer 503 while they start or swap models, so a shorter one would
/// mostly meet the same state again.
const DEFAULT_BACKOFF: &str = "200ms";

pub(crate) const FAILOVER: Group = Group {
    heading: "Failover",
    flags: &[
        Flag::amount(
            MAX_RETRIES,
            "0",
            "Further attempts at the same engine after its 502, 503 or 504, or a broken connection; one that cannot be \
             reached is left at once for another candidate, if the policy allows one",
        ),
        Flag::duration(RETRY_BACKOFF, DEFAULT_BACKOFF, "Pause before each of them"),
        Flag::text(
            POLICY,
            "POLICY",
            "fail",
            "Then: fail (answer the client), retry-other (go through the other candidates of the prefill header), or \
             local (those, then prefill on the decode engine)",
        ),
        // As in linkerd's retry budgets: enough for a lost pod or two, far too little to turn an outage of prefill
        // into one of decode.
        Flag::fraction(LOCAL_RATIO, "0.2", "Local prefills allowed for each prefill request, 0 to 1"),
        Flag::amount(LOCAL_MIN_RATE, "10", "Local prefills allowed per second however few the requests"),
        Flag::amount(
            BREAKER_FAILURES,
            "5",
            "Failed connections in a row after which an engine is put aside; 0: never",
        ),
        Flag::duration(BREAKER_PAUSE, "10s", "How long it is put aside before it is tried again"),
    ],
};

choice! {
    /// What to do when a prefill leg has failed and is not retried at the same engine.
    pub enum PrefillFailurePolicy {
        /// Answer the client with the failure.
        Fail = "fail",
        /// Go through the other candidates of the prefill header.
        RetryOther = "retry-other",
        /// Go through those, then prefill on the decode engine, within a budget.
        Local = "local",
    }
}

/// What happens when a prefill leg fails.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Failover {
    /// Further attempts at the same engine after its 502, 503 or 504, or when it could not be reached and there is no other
    /// candidate to go to.
    pub prefill_max_retries: u32,
    /// Pause before each of them; above 0 if there are any.
    #[serde(serialize_with = "go::serialize")]
    pub prefill_retry_backoff: Duration,
    /// What to do after them.
    pub prefill_failure_policy: PrefillFailurePolicy,
    /// Local prefills allowed for each prefill request, 0 to 1.
    pub prefill_local_ratio: f64,
    /// Local prefills allowed per second however few the requests.
    pub prefill_local_min_rate: u32,
    /// Failed connections in a row after which an engine is put aside; `None`: never.
    #[serde(serialize_with = "or_zero")]
    pub prefill_breaker_failures: Option<NonZeroU32>,
    /// How long it is put aside; above 0.
    #[serde(serialize_with = "go::serialize")]
    pub prefill_breaker_pause: Duration,
}

impl Failover {
    pub(crate) fn read(values: &Values, warnings: &mut Vec<String>) -> Result<Self, Invalid> {
        let prefill_max_retries = values.count(MAX_RETRIES)?;
        Ok(Self {
            prefill_max_retries,
            prefill_retry_backoff: backoff(values, prefill_max_retries, warnings)?,
            prefill_failure_policy: values.choice(POLICY)?,
            prefill_local_ratio: values.ratio(LOCAL_RATIO)?,
            prefill_local_min_rate: values.count(LOCAL_MIN_RATE)?,
            prefill_breaker_failures: NonZeroU32::new(values.count(BREAKER_FAILURES)?),
            prefill_breaker_pause: values.positive_duration(BREAKER_PAUSE)?,
        })
    }
}

/// The pause between retries. One that is spelled wrong in YAML does not keep the process from starting: it never did.
fn backoff(values: &Values, retries: u32, warnings: &mut Vec<String>) -> Result<Duration, Invalid> {
    let nanos = match values.nanos(RETRY_BACKOFF) {
        Err(invalid) if values.source(RETRY_BACKOFF) == Some(Source::Yaml) => {
            warnings.push(format!("{invalid}; using {DEFAULT_BACKOFF}"));
            go::nanos(DEFAULT_BACKOFF).expect("the default is a duration")
        }
        nanos => nanos?,
    };
    if retries > 0 && nanos <= 0 {
        return Err(Invalid::new(format!(
            "--{RETRY_BACKOFF} must be positive when --{MAX_RETRIES} > 0, got {}",
            values.text(RETRY_BACKOFF)
        )));
    }
    Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference to the field"
)]
fn or_zero<S: serde::Serializer>(count: &Option<NonZeroU32>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32(count.map_or(0, NonZeroU32::get))
}
