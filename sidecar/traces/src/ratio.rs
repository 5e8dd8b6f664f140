//! Which of the traces that begin here are recorded: a share of them, told by their ids alone, so that every instance, of
//! this program and of others, decides alike. It is OpenTelemetry's `TraceIdRatioBased` without what that gathers for
//! samplers of other kinds: every request asks.

use opentelemetry::trace::TraceId;

/// How many values the bits have that decide.
const ALL: u64 = 1 << 63;

/// A share of all traces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ratio {
    /// The deciding bits of those that are recorded are below.
    below: u64,
}

impl Ratio {
    /// `share`: from 0, none, to 1, all of them.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a power of two is exact, and its share by a number from 0 to 1 is in range"
    )]
    pub(crate) fn new(share: f64) -> Self {
        Self { below: (share.clamp(0.0, 1.0) * ALL as f64) as u64 }
    }

    /// Whether this trace is recorded.
    pub(crate) fn takes(self, trace: TraceId) -> bool {
        let lower_half = u128::from_be_bytes(trace.to_bytes()) & u128::from(u64::MAX);
        lower_half >> 1 < u128::from(self.below)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::SpanKind;
    use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample};

    use super::*;

    #[test]
    fn it_decides_as_the_standards_sampler_does() {
        let ids = RandomIdGenerator::default();
        for share in [0.0, 1e-9, 0.1, 0.25, 0.5, 0.999, 1.0] {
            let standard = Sampler::TraceIdRatioBased(share);
            for trace in
                (0..200).map(|_| ids.new_trace_id()).chain([TraceId::from(u128::MAX), TraceId::from(1)])
            {
                let said = standard.should_sample(None, trace, "", &SpanKind::Server, &[], &[]).decision;
                let takes = Ratio::new(share).takes(trace);
                assert_eq!(takes, said == SamplingDecision::RecordAndSample, "{share} of {trace}");
            }
        }
    }

    #[test]
    fn the_first_id_that_is_left_out_is_the_one_at_the_share() {
        let half = Ratio::new(0.5);
        assert!(half.takes(TraceId::from(u128::from(u64::MAX / 2))));
        assert!(!half.takes(TraceId::from(u128::from(u64::MAX / 2 + 1))));
    }
}
