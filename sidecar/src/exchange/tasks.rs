//! What runs for one request: at most one exchange with the prefill side (a question, the leg, a release) and one decode
//! leg beside it, and the time at which to look again.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;

use super::legs::{DecodeEnd, PrefillEnd};
use crate::error::Error;

/// How something that ran has ended.
pub(super) enum TaskEnd {
    Asked(Result<Bytes, Error>),
    Prefill(PrefillEnd),
    Decode(DecodeEnd),
    Release(bool),
}

pub(super) type Task = Pin<Box<dyn Future<Output = TaskEnd> + Send>>;

#[derive(Default)]
pub(super) struct Tasks {
    prefill: Option<Task>,
    decode: Option<Task>,
}

impl Tasks {
    /// Runs `task` for the prefill side, in place of what ran there.
    pub(super) fn run_prefill(&mut self, task: impl Future<Output = TaskEnd> + Send + 'static) {
        self.prefill = Some(Box::pin(task));
    }

    /// Runs `task` as the decode leg.
    pub(super) fn run_decode(&mut self, task: impl Future<Output = TaskEnd> + Send + 'static) {
        self.decode = Some(Box::pin(task));
    }

    /// Drops what runs for the prefill side, which cancels it.
    pub(super) fn cancel_prefill(&mut self) {
        self.prefill = None;
    }

    /// Drops the decode leg, which cancels it.
    pub(super) fn cancel_decode(&mut self) {
        self.decode = None;
    }

    /// Takes what runs for the prefill side, for somebody else to go on with.
    pub(super) fn take_prefill(&mut self) -> Self {
        Self { prefill: self.prefill.take(), decode: None }
    }

    pub(super) fn prefill_runs(&self) -> bool {
        self.prefill.is_some()
    }

    /// The next end, or `None` once it is `wake`. An end of prefill comes first: its error explains decode's.
    pub(super) async fn next(&mut self, wake: Option<Instant>) -> Option<TaskEnd> {
        let mut sleep = pin!(wake.map(|at| tokio::time::sleep_until(at.into())));
        poll_fn(|cx| {
            for slot in [&mut self.prefill, &mut self.decode] {
                if let Some(task) = slot
                    && let Poll::Ready(end) = task.as_mut().poll(cx)
                {
                    *slot = None;
                    return Poll::Ready(Some(end));
                }
            }
            match sleep.as_mut().as_pin_mut() {
                Some(sleep) => sleep.poll(cx).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    }
}
