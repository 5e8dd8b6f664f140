//! Sends: the legs and releases that the core commands, as the connector wants them.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use kvferry_handoff::{Decode, Event, Handoff, Target};
use kvferry_metrics::{ReleaseReason, Retry};

use super::state::State;
use crate::connector::{Outgoing, UsageEdit};
use crate::exchange::beside::decode_beside;
use crate::exchange::chunked::Start;
use crate::exchange::legs::{Engines, ask, decode, prefill, release};
use crate::exchange::tasks::TaskEnd;
use crate::exchange::{ahead, first};
use crate::record::Record;

impl State {
    /// Makes an attempt ready. `None`: its question has to be answered first.
    pub(super) fn prepare(&mut self, target: Target, record: Option<&mut Record>) -> Option<Event> {
        if target == Target::Next {
            self.candidate += 1;
            let next = self.request().targets.get(self.candidate).cloned();
            self.target = next.expect("the core goes to no more candidates than there are");
        }
        if let Some(record) = record {
            if self.attempts > 0 {
                record.metrics().retried(if target == Target::Next { Retry::Other } else { Retry::Same });
            }
            record.goes_to(&self.target);
        }
        self.attempts += 1;
        self.prefilled = false;
        self.tasks.cancel_prefill();
        match self.worker.settings.connector.question(&self.target) {
            None => Some(self.begin(None)),
            Some(question) => {
                let upstream = self.worker.legs.bootstrap.clone();
                self.tasks.run_prefill(async move { TaskEnd::Asked(ask(upstream, question).await) });
                None
            }
        }
    }

    /// Sends the prefill leg of the present attempt.
    pub(super) fn send_prefill(&mut self, record: Option<&mut Record>) {
        let request = self.request();
        let mut leg = self.attempt().prefill(&request.asked);
        if let Some(record) = record {
            record.prefill_sent(&self.target, &mut leg.headers, leg.body.len());
        }
        let (upstream, target) = (self.worker.legs.prefill.clone(), Arc::clone(&self.target));
        self.sent_at = Instant::now();
        self.tasks.run_prefill(prefill(upstream, request, target, leg).map(TaskEnd::Prefill));
    }

    /// Gives KV back. Returns the event that follows at once if the attempt knows of no way to.
    pub(super) fn send_release(&mut self) -> Option<Event> {
        let Some(request) = self.attempt().release() else { return Some(Event::ReleaseEnded(false)) };
        self.worker.metrics.released(self.release_reason);
        let (id, authorization) = (self.id.clone(), self.authorization.clone());
        let engines = Engines { prefill: Arc::clone(&self.target), decode: Arc::clone(&self.decoder) };
        let legs = self.worker.legs.clone();
        self.tasks.run_prefill(release(legs, engines, request, id, authorization).map(TaskEnd::Release));
        None
    }

    /// Returns the event with which the client's answer begins at once, if it does.
    pub(super) fn send_decode(&mut self, how: Decode, record: Option<&mut Record>) -> Option<Bytes> {
        let request = self.request();
        let asked = &request.asked;
        let mut leg: Outgoing = match how {
            Decode::AfterPrefill => self.attempt().decode(asked),
            Decode::BesidePrefill => self
                .attempt()
                .beside(asked)
                .expect("an attempt that overlaps has a leg to send beside prefill"),
            Decode::Alone => {
                (self.cached_tokens, self.prefilled) = (None, false);
                let alone = self.worker.settings.connector.alone(asked);
                alone.unwrap_or_else(|| asked.intake.body.clone().into())
            }
        };
        if how != Decode::Alone {
            self.observer = self.attempt().observer(asked);
        }
        let usage = self.cached_tokens.and_then(|cached| UsageEdit::new(asked.api, cached));
        // Without a client there is nobody to send it to.
        let ahead = how == Decode::AfterPrefill && record.is_some() && !request.encoded;
        let first_token = ahead.then(|| self.attempt().first_token()).flatten();
        if let Some(record) = record {
            record.decode_sent(&self.decoder, &mut leg.headers);
        }
        let upstream = self.worker.legs.decode.clone();
        if how != Decode::BesidePrefill {
            // The leg holds the last reference: the body goes as soon as it is sent and answered.
            self.request = None;
        }
        if let Some(first) = self.first.take() {
            self.tasks.run_decode(first::attempt(upstream, request, leg, first).map(TaskEnd::Decode));
            return None;
        }
        if let Some(first) = first_token {
            let event = first.event();
            self.tasks.run_decode(ahead::decode(upstream, request, leg, first).map(TaskEnd::Decode));
            return Some(event);
        }
        // Beside prefill all is set up for one leg, and embeddings are there for one.
        let whole = how == Decode::BesidePrefill || request.encoded;
        let chunk = self.worker.settings.decode_chunk.filter(|_| !whole);
        let start = Start::of(request.asked.api, leg, chunk);
        self.tasks.run_decode(async move {
            TaskEnd::Decode(match start {
                // Boxed, like the next: most legs are neither, and the task keeps room for the largest.
                Ok(start) => Box::pin(start.send(upstream, request, usage)).await,
                Err(leg) if how == Decode::BesidePrefill => {
                    Box::pin(decode_beside(upstream, request, leg, usage)).await
                }
                Err(leg) => decode(upstream, request, leg, usage).await,
            })
        });
        None
    }

    /// Hands what is left of the present attempt to a core of its own.
    pub(super) fn orphan(&mut self) {
        let named = self.attempt.as_ref().is_some_and(|attempt| attempt.named());
        let (ledger, limits) = (self.worker.ledger.clone(), Arc::clone(&self.worker.settings.limits));
        let runs = self.tasks.prefill_runs();
        let (core, commands) = Handoff::orphan(ledger, limits, runs, named, self.worker.now());
        let mut orphan = Box::new(Self {
            tasks: self.tasks.take_prefill(),
            candidate: self.candidate,
            attempt: self.attempt.take(),
            attempts: self.attempts,
            release_reason: ReleaseReason::Superseded,
            sent_at: self.sent_at,
            id: self.id.clone(),
            authorization: self.authorization.clone(),
            target: Arc::clone(&self.target),
            ..Self::new(Arc::clone(&self.worker), self.request(), None, core)
        });
        drop(orphan.follow(commands, None));
        orphan.finish_in_background();
    }
}
