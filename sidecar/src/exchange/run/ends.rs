//! Ends: what a leg, a question or a release has brought, as the core's event and as something for the client.

use bytes::Bytes;
use http::response;
use kvferry_handoff::{Again, Event, Stage};
use kvferry_metrics::{Direction, Failover};

use super::Reply;
use super::state::State;
use crate::connector::Accepted;
use crate::error::{Broken, Error};
use crate::exchange::answer::WholeBody;
use crate::exchange::chunked::Growing;
use crate::exchange::held::Held;
use crate::exchange::legs::{DecodeEnd, PrefillEnd, after_refusal};
use crate::exchange::tasks::TaskEnd;
use crate::record::Record;
use crate::upstream::Sent;

/// What a leg brought for the client.
pub(super) enum Brought {
    Sent(Sent),
    Held(Sent, Held),
    Grows(response::Parts, Box<Growing>),
    Whole(response::Parts, WholeBody),
    Error(Error),
}

impl Brought {
    /// `refused`: the outcome if it is an engine's own error.
    pub(super) fn reply(self, refused: &'static str) -> Reply {
        match self {
            Self::Sent(sent) if sent.response.status().is_success() => Reply::Stream(sent, Held::default()),
            Self::Held(sent, held) => Reply::Stream(sent, held),
            Self::Grows(head, growing) => Reply::Grows(head, growing),
            Self::Sent(sent) => Reply::Refused(sent, refused),
            Self::Whole(head, body) => Reply::Whole(head, body),
            Self::Error(error) => Reply::Error(error),
        }
    }
}

impl State {
    /// Turns the end of a task into the core's event, and keeps what it brought.
    pub(super) fn ended(&mut self, end: TaskEnd, record: Option<&mut Record>) -> Event {
        match end {
            TaskEnd::Asked(Ok(answer)) => self.begin(Some(&answer)),
            TaskEnd::Asked(Err(error)) => self.prefill_failed(error, Again::Elsewhere),
            TaskEnd::Prefill(end) => {
                let mut record = record;
                if let Some(record) = &mut record {
                    let how = match &end {
                        PrefillEnd::Answered(_) => Ok(200),
                        PrefillEnd::Refused(sent) => Ok(sent.response.status().as_u16()),
                        PrefillEnd::Failed(error, _) => Err(error.code()),
                    };
                    record.prefill_ended(how, self.sent_at.elapsed());
                }
                match end {
                    PrefillEnd::Answered(answer) => {
                        self.worker.settings.failover.answered(&self.target);
                        self.accept(&answer, record)
                    }
                    PrefillEnd::Refused(sent) => {
                        self.worker.settings.failover.answered(&self.target);
                        let again = after_refusal(sent.response.status());
                        self.worker.settings.connector.forget(&self.target);
                        self.from_prefill = Some(Box::new(Brought::Sent(sent)));
                        Event::PrefillRefused(again)
                    }
                    PrefillEnd::Failed(error, again) => self.prefill_failed(error, again),
                }
            }
            TaskEnd::Decode(end) => {
                let (brought, event) = match end {
                    DecodeEnd::Stream(sent) => (Brought::Sent(sent), Event::DecodeStarted),
                    DecodeEnd::Whole(head, body) => (Brought::Whole(head, body), Event::DecodeStarted),
                    DecodeEnd::Refused(sent) => (Brought::Sent(sent), Event::DecodeRefused),
                    DecodeEnd::Failed(error) => (Brought::Error(error), Event::DecodeFailed),
                    DecodeEnd::Held(sent, held) => (Brought::Held(sent, held), Event::DecodeStarted),
                    DecodeEnd::Resumed(sent) => {
                        self.resumed = true;
                        (Brought::Sent(sent), Event::DecodeStarted)
                    }
                    DecodeEnd::Grows(head, growing) => (Brought::Grows(head, growing), Event::DecodeStarted),
                    DecodeEnd::Declined => return Event::DecodeFailed,
                };
                if event != Event::DecodeStarted {
                    self.worker.settings.connector.forget(&self.target);
                }
                let doubted = event != Event::DecodeStarted && self.doubts(&brought);
                self.from_decode = Some(Box::new(brought));
                if doubted {
                    self.doubted = Some(event);
                    return Event::Tick;
                }
                event
            }
            TaskEnd::Release(taken) => Event::ReleaseEnded(taken),
        }
    }

    /// What the connector makes of a successful prefill answer.
    pub(super) fn accept(&mut self, answer: &Bytes, record: Option<&mut Record>) -> Event {
        let request = self.request();
        let attempt = self.attempt.as_mut().expect("a prefill leg belongs to an attempt");
        self.worker.metrics.bytes(Direction::FromPrefill, answer.len() as u64);
        if let Some(detail) = attempt.told_error(answer) {
            let error = Error::PrefillTold { target: self.target.to_string(), detail };
            return self.prefill_failed(error, Again::Elsewhere);
        }
        let accepted = attempt.accept(&request.asked, answer);
        if let (Ok(_), Some(unusable)) = (&accepted, attempt.unusable()) {
            let error = Error::PrefillUnknown { target: self.target.to_string(), detail: unusable.0 };
            return self.prefill_failed(error, Again::Elsewhere);
        }
        match accepted {
            Ok(Accepted { kv, cached_tokens, anew }) => {
                self.prefilled = true;
                if self.candidate > 0 {
                    self.worker.metrics.failed_over(Failover::Other);
                }
                if let Some(record) = record {
                    record.prefill_accepted();
                    record.cached_tokens = cached_tokens.or(record.cached_tokens);
                }
                if let Some(cached_tokens) = cached_tokens {
                    self.cached_tokens = Some(cached_tokens);
                    if !kv {
                        tracing::warn!(
                            target = %self.target,
                            "warning: missing 'kv_transfer_params' field in prefiller response"
                        );
                    }
                }
                Event::PrefillAccepted { kv, anew }
            }
            Err(malformed) => {
                let target = self.target.to_string();
                let error = Error::PrefillNotJson { target, detail: malformed.to_string() };
                self.prefill_failed(error, Again::Elsewhere)
            }
        }
    }

    pub(super) fn prefill_failed(&mut self, error: Error, again: Again) -> Event {
        self.worker.settings.connector.forget(&self.target);
        if error.is_unreachable() {
            self.worker.settings.failover.unreachable(&self.target, self.worker.now());
        }
        self.from_prefill = Some(Box::new(Brought::Error(error)));
        Event::PrefillFailed(again)
    }

    /// Begins an attempt at the present target. `answer`: to the connector's question.
    pub(super) fn begin(&mut self, answer: Option<&Bytes>) -> Event {
        let request = self.request();
        match self.worker.settings.connector.begin(&request.asked, &self.target, answer) {
            Ok(attempt) => {
                let (overlap, named) = (attempt.overlaps(), attempt.named());
                self.attempt = Some(attempt);
                Event::Prepared { overlap, named }
            }
            Err(unusable) => {
                let target = self.target.to_string();
                let error = Error::PrefillUnknown { target, detail: unusable.0 };
                self.prefill_failed(error, Again::Elsewhere)
            }
        }
    }

    /// Whether a decode engine's error may come from what it was told beside prefill, and not from the request.
    pub(super) fn doubts(&self, refusal: &Brought) -> bool {
        let failed = match refusal {
            Brought::Sent(sent) => sent.response.status().is_server_error(),
            Brought::Error(error) => matches!(error, Error::LegBroken { how: Broken::Told(_), .. }),
            _ => false,
        };
        let guessed = self.attempt.as_ref().is_some_and(|attempt| attempt.guesses());
        failed && guessed && self.core.stage() == Stage::Prefilling
    }
}
