//! Passes 1xx answers (`103 Early Hints`) of an engine on to an HTTP/1.1 client.
//!
//! The HTTP library has no way to send them, so they are written to the connection beside it. The race guarded here:
//! their bytes must fall exactly between two responses. They are written only when the library has nothing left to
//! write, and given up when that moment was missed; an interim answer is a hint that nobody depends on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use http::{Request, StatusCode};

/// Most bytes of 1xx answers that wait for a client; an engine that sends more is talking to itself.
const MAX_WAITING: usize = 64 * 1024;

/// What waits to be written on one connection.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Spares the lock on every ordinary write.
    any: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

impl Waiting {
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Calls `write` with what waits, and keeps what it did not take.
    pub(super) fn write<T>(&self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let result = write(&mut bytes);
        self.any.store(!bytes.is_empty(), Ordering::Release);
        result
    }
}

/// Where 1xx answers for one request go.
#[derive(Debug, Clone)]
pub struct Interim {
    waiting: Arc<Waiting>,
    /// The connection's task.
    waker: Waker,
}

impl Interim {
    pub(super) fn new(waiting: Arc<Waiting>, waker: Waker) -> Self {
        Self { waiting, waker }
    }

    /// 1xx answers to `request` will be passed on.
    pub fn forward<B>(&self, request: &mut Request<B>) {
        let to = self.clone();
        hyper::ext::on_informational(request, move |answer| {
            // Our own server answers expectations, and an upgrade is a final answer.
            if answer.status() == StatusCode::CONTINUE || answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                return;
            }
            to.waiting.write(|bytes| {
                let before = bytes.len();
                let reason = answer.status().canonical_reason().unwrap_or_default();
                bytes.extend_from_slice(
                    format!("HTTP/1.1 {} {reason}\r\n", answer.status().as_u16()).as_bytes(),
                );
                for (name, value) in answer.headers() {
                    bytes.extend_from_slice(name.as_str().as_bytes());
                    bytes.extend_from_slice(b": ");
                    bytes.extend_from_slice(value.as_bytes());
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"\r\n");
                if bytes.len() > MAX_WAITING {
                    bytes.truncate(before);
                }
            });
            to.waker.wake_by_ref();
        });
    }
}
