//! How requests ended, by a list of outcomes that is fixed when the process starts.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

use crate::cells::Counter;

/// The outcome of a request that was answered as its engine answered it.
pub const OK: &str = "ok";

/// The outcome of a request whose client went away.
pub const CLIENT_LEFT: &str = "client_left";

/// What an outcome counts as that is not in the list: the list bounds the series.
pub const OTHER: &str = "other";

/// A counter per outcome.
#[derive(Debug, Clone)]
pub(crate) struct Outcomes(Arc<[(&'static str, Counter)]>);

impl Outcomes {
    /// Of these codes, besides the three that always exist.
    pub(crate) fn new(codes: &[&'static str]) -> Self {
        // OTHER first: see `count`.
        let mut names = vec![OTHER, OK, CLIENT_LEFT];
        for code in codes {
            if !names.contains(code) {
                names.push(code);
            }
        }
        Self(names.into_iter().map(|name| (name, Counter::default())).collect())
    }

    pub(crate) fn count(&self, outcome: &str) {
        // A handful of short names: looking through them is quicker than hashing.
        let found = self.0.iter().find(|(name, _)| *name == outcome);
        if let Some((_, counter)) = found.or_else(|| self.0.first()) {
            counter.add(1);
        }
    }
}

impl EncodeMetric for Outcomes {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (name, counter) in &*self.0 {
            counter.encode(encoder.encode_family(&[("outcome", *name)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
