//! Why a request ends with an error of ours: the core's cause, in the words for its client.

use std::time::Duration;

use kvferry_handoff::{Cause, Leg};
use kvferry_metrics::{Failover, ReleaseReason};

use super::ends::Brought;
use super::state::State;
use crate::error::{Broken, Error};

impl State {
    /// The request ends with an error of ours. KV that is still held is given back for this reason.
    pub(super) fn give_up(&mut self, cause: Cause) -> Error {
        if cause == Cause::Exhausted && !self.worker.settings.failover.ends_locally() {
            self.worker.metrics.failed_over(Failover::Failed);
        }
        self.release_reason = match cause {
            Cause::Failed(_) | Cause::Exhausted => ReleaseReason::DecodeFailed,
            Cause::PrefillTimeout | Cause::RequestTimeout(_) | Cause::DecodeStalled => {
                ReleaseReason::Deadline
            }
        };
        self.error(cause)
    }

    /// The error that tells a client of `cause`.
    pub(super) fn error(&mut self, cause: Cause) -> Error {
        let limits = &self.worker.settings.limits;
        let limit_ms = |limit: Option<Duration>| limit.unwrap_or_default().as_millis();
        match cause {
            Cause::Failed(leg) => {
                let (brought, target) = match leg {
                    Leg::Prefill => (self.from_prefill.take(), &self.target),
                    Leg::Decode => (self.from_decode.take(), &self.decoder),
                };
                match brought.map(|brought| *brought) {
                    Some(Brought::Error(error)) => error,
                    _ => Error::LegBroken { leg, target: target.to_string(), how: Broken::Closed },
                }
            }
            Cause::PrefillTimeout => {
                let known_as = self.worker.settings.connector.known_timeout();
                let limit_ms = limit_ms(limits.prefill);
                Error::PrefillTimeout { target: self.target.to_string(), limit_ms, known_as }
            }
            Cause::RequestTimeout(leg) => Error::RequestTimeout { leg, limit_ms: limit_ms(limits.request) },
            Cause::DecodeStalled => Error::DecodeStalled { limit_ms: limit_ms(limits.decode_stall) },
            Cause::Exhausted => Error::PrefillExhausted {
                last: match self.from_prefill.take().map(|brought| *brought) {
                    Some(Brought::Error(error)) => error.to_string(),
                    Some(Brought::Sent(sent)) => {
                        format!("prefill engine {} answered {}", self.target, sent.response.status())
                    }
                    _ => format!("prefill engine {} did not answer in time", self.target),
                },
            },
        }
    }
}
