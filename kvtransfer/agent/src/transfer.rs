//! A transfer, as its owner holds it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use crate::shell::Order;
use crate::{Error, Failure, Report};

/// How a transfer ended that never began.
pub(crate) fn nothing(error: Error) -> Failure {
    Failure { error, report: Report { settled: true, ..Report::default() } }
}

/// Where a transfer's end is told.
pub(crate) type Answer = oneshot::Sender<Result<Report, Box<Failure>>>;

/// A transfer under way: a future of how it went. Dropping it cancels it.
#[derive(Debug)]
#[must_use = "dropping a transfer cancels it"]
pub struct Transfer {
    ticket: u64,
    /// `None` once it was told.
    result: Option<oneshot::Receiver<Result<Report, Box<Failure>>>>,
    cancelled: AtomicBool,
    orders: mpsc::UnboundedSender<Order>,
}

impl Transfer {
    pub(crate) const fn new(
        ticket: u64,
        result: oneshot::Receiver<Result<Report, Box<Failure>>>,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Self {
        Self { ticket, result: Some(result), cancelled: AtomicBool::new(false), orders }
    }

    /// Ends it early. How it went is told all the same, once nothing of it is under way.
    pub fn cancel(&self) {
        if self.result.is_some() && !self.cancelled.swap(true, Ordering::Relaxed) {
            // It has ended if the agent is closed.
            self.orders.send(Order::Cancel(self.ticket)).ok();
        }
    }

    /// Waits, for callers that are no futures. It must not be called from one.
    ///
    /// # Errors
    /// Why it did not arrive.
    pub fn wait(mut self) -> Result<Report, Box<Failure>> {
        let result = self.result.take().map(oneshot::Receiver::blocking_recv);
        told(result.and_then(Result::ok))
    }
}

fn told(result: Option<Result<Report, Box<Failure>>>) -> Result<Report, Box<Failure>> {
    // The agent's thread answers whatever it is asked. If it has ended without, nobody knows what its fabrics do.
    result.unwrap_or_else(|| {
        let mut failure = nothing(Error::Closed);
        failure.report.settled = false;
        Err(Box::new(failure))
    })
}

impl Future for Transfer {
    type Output = Result<Report, Box<Failure>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(result) = &mut self.result else { return Poll::Ready(told(None)) };
        let polled = Pin::new(result).poll(context);
        polled.map(|result| {
            self.result = None;
            told(result.ok())
        })
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.cancel();
    }
}
