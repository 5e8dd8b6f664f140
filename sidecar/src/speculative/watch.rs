//! The answer as it passes: its reply is kept, within bounds, and when it is complete the next turn goes ahead of it.

use std::sync::Arc;

use kvferry_contract::Endpoint;
use kvferry_metrics::Speculative as Outcome;
use serde::de::IgnoredAny;

use super::{Turn, body, send};
use crate::chat::reply::{Reader, Unread};
use crate::chat::request::ChatRequest;
use crate::connector::Observer;

/// Longest answer that is kept until its end, in bytes: what llm-d keeps, and more than models say at once.
const MAX_REPLY: usize = 1024 * 1024;

/// An answer that is watched.
pub(super) struct Watch {
    turn: Box<Turn>,
    /// Who prefilled the turn; `None`: the decode engine itself.
    prefiller: Option<Arc<Endpoint>>,
    /// What engines say of KV is of no interest here.
    reader: Reader<IgnoredAny>,
}

impl Watch {
    pub(super) fn new(turn: Box<Turn>, prefiller: Option<Arc<Endpoint>>) -> Self {
        Self { turn, prefiller, reader: Reader::new(MAX_REPLY) }
    }

    async fn go_ahead(self) {
        let Self { turn, prefiller, reader } = self;
        let metrics = &turn.worker.metrics;
        let reply = match reader.end() {
            Ok(reply) => reply,
            Err(Unread::Useless) => return,
            Err(Unread::TooLarge) => return metrics.speculated(Outcome::SkippedLarge),
        };
        let chat = ChatRequest::of(super::Api::ChatCompletions, &turn.intake);
        let Some(body) = chat.and_then(|chat| body::next_turn(chat, &reply.text)) else { return };
        let Ok(mine) = turn.process.free.try_acquire() else {
            return metrics.speculated(Outcome::SkippedBusy);
        };
        let end = send::next_turn(&turn, prefiller, body).await;
        // Who sees it counted finds room.
        drop(mine);
        match end {
            Ok(()) => metrics.speculated(Outcome::Sent),
            Err(error) => {
                metrics.speculated(Outcome::Failed);
                tracing::debug!(error, "a chat's next turn could not be prefilled ahead");
            }
        }
    }
}

impl Observer for Watch {
    fn data(&mut self, data: &[u8]) {
        self.reader.data(data);
    }

    fn end(self: Box<Self>) {
        // Behind the answer: its last piece has not gone out yet.
        let worker = Arc::clone(&self.turn.worker);
        worker.in_background(self.go_ahead());
    }
}
