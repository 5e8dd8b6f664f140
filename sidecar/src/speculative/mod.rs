//! Speculative prefill (`--enable-speculative-prefill`, spec/sidecar.md 12.4): once a chat's turn is answered, most of the
//! next one's prompt is known: this turn's messages, the answer, and that a user speaks next. A request for one token with
//! just these goes to the prefill engine that served the turn, so that the next turn finds its KV cached there.
//!
//! What is guarded here: nobody waits for it and nothing is left of it. The client's answer is read as it passes
//! ([`watch`]) and what follows runs behind it ([`send`]), one at a time in the process. It is no handoff: no engine is
//! asked to keep KV for another. [`body`] is the pure part, what the request says.

mod body;
mod send;
mod watch;

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Response, StatusCode};
use kvferry_contract::Endpoint;
use tokio::sync::Semaphore;

use crate::chat::request::ChatRequest;
use crate::exchange::{AnswerBody, is_event_stream};
use crate::request::headers::{strip_hop_by_hop, unshared};
use crate::request::intake::Intake;
use crate::request::route::Api;
use crate::worker::{Rank, Worker};
use watch::Watch;

/// Next turns computed at the same time, in the process: they are guesses, and compete with prompts that somebody waits
/// for.
const AT_ONCE: usize = 1;

/// Who may go ahead. One for the process.
#[derive(Debug)]
pub struct Speculative {
    free: Semaphore,
}

impl Default for Speculative {
    fn default() -> Self {
        Self { free: Semaphore::new(AT_ONCE) }
    }
}

/// The prefill engine whose KV an answer was made from; an extension of its response.
#[derive(Debug, Clone)]
pub struct PrefilledBy(pub Arc<Endpoint>);

/// A chat's turn whose successor is to be prefilled.
pub struct Turn {
    worker: Arc<Worker>,
    process: Arc<Speculative>,
    intake: Intake,
    headers: HeaderMap,
    path_and_query: PathAndQuery,
    rank: Arc<Rank>,
}

impl Turn {
    /// `None`: the flag is off, or this is no request whose answer is one message behind those that it brings. The body is
    /// shared; of the headers a copy is kept.
    pub fn begin(
        worker: &Arc<Worker>,
        api: Api,
        intake: &Intake,
        headers: &HeaderMap,
        path_and_query: &PathAndQuery,
        rank: &Arc<Rank>,
    ) -> Option<Box<Self>> {
        let process = Arc::clone(worker.settings.speculative.as_ref()?);
        ChatRequest::of(api, intake)?;
        let mut headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), unshared(value))).collect();
        strip_hop_by_hop(&mut headers, false);
        Some(Box::new(Self {
            worker: Arc::clone(worker),
            process,
            intake: intake.clone(),
            headers,
            path_and_query: path_and_query.clone(),
            rank: Arc::clone(rank),
        }))
    }

    /// Watches the answer pass, and goes ahead once all of it has.
    pub fn follow(self: Box<Self>, mut response: Response<AnswerBody>) -> Response<AnswerBody> {
        let prefiller = response.extensions_mut().remove::<PrefilledBy>();
        let headers = response.headers();
        let json = headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"application/json"));
        let plain = !headers.contains_key(CONTENT_ENCODING) && (json || is_event_stream(headers));
        if response.status() != StatusCode::OK || !plain {
            return response;
        }
        let watch = Watch::new(self, prefiller.map(|PrefilledBy(engine)| engine));
        response.map(|body| body.watched(Box::new(watch)))
    }
}
