//! An answer whose first token went ahead of decode ([`crate::first_token`]): the decode leg that has to join it, and the
//! body that the client reads.
//!
//! The body exists before the decode leg has answered. So what would be an error response otherwise breaks it off, and
//! whoever drops it leaves a request in the middle of its handoff; both are the core's to handle, and it is asked in the
//! same way as without a first token.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use kvferry_handoff::Leg;
use kvferry_metrics::{FirstToken as Outcome, Metrics};

use super::answer::{AnswerBody, BoxError, is_event_stream};
use super::held::{Held, HeldBody};
use super::inflate::is_gzip;
use super::legs::{DecodeEnd, LegRequest};
use super::run::{Reply, Run};
use crate::connector::Outgoing;
use crate::error::{Broken, Error};
use crate::first_token::{FirstToken, Verdict};
use crate::upstream::{Sent, Upstream, broken};

/// Sends the decode leg and reads its answer to the point where it says something new.
pub(super) async fn decode(
    upstream: Upstream,
    request: Arc<LegRequest>,
    leg: Outgoing,
    first: FirstToken,
) -> DecodeEnd {
    let engine = Engine { upstream, request };
    let mut sent = match engine.ask(&leg).await {
        Ok(sent) => sent,
        Err(end) => return end,
    };
    let mut seam = first.seam();
    loop {
        let frame = match sent.response.body_mut().frame().await {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return engine.failed(broken(&error)),
            None => return engine.resume(leg, &first).await,
        };
        let Some(data) = frame.data_ref() else { continue };
        match seam.push(data) {
            None => {}
            Some(Verdict::Differs) => {
                drop(sent);
                return engine.resume(leg, &first).await;
            }
            Some(Verdict::Joined(rest)) => {
                let mut held = Held::default();
                held.push(Frame::data(rest));
                return DecodeEnd::Held(sent, held);
            }
        }
    }
}

struct Engine {
    upstream: Upstream,
    request: Arc<LegRequest>,
}

impl Engine {
    /// The beginning of an answer in plain events, or how the leg ends without one.
    async fn ask(&self, leg: &Outgoing) -> Result<Sent, DecodeEnd> {
        let sent = self.upstream.send(&self.request.rank.decoder, || self.request.to(leg)).await;
        let sent = sent.map_err(|how| self.failed(how))?;
        if !sent.response.status().is_success() {
            return Err(DecodeEnd::Refused(sent));
        }
        let headers = sent.response.headers();
        if is_event_stream(headers) && !is_gzip(headers) {
            Ok(sent)
        } else {
            Err(self.failed(Broken::Other("its answer is no stream of plain events".to_owned())))
        }
    }

    /// The engine says something else than what the client has. Then it goes on from there.
    async fn resume(&self, leg: Outgoing, first: &FirstToken) -> DecodeEnd {
        tracing::info!(
            request_id = self.request.asked.id.to_str().ok(),
            "decode computed another first token than prefill; the answer goes on from prefill's"
        );
        let Some(body) = first.resume(&self.request.asked) else {
            return self
                .failed(Broken::Other("its answer begins with another token than prefill's".to_owned()));
        };
        match self.ask(&Outgoing { body, headers: leg.headers }).await {
            Ok(mut sent) => {
                sent.response.extensions_mut().insert(Resumed);
                DecodeEnd::Resumed(sent)
            }
            Err(end) => end,
        }
    }

    fn failed(&self, how: Broken) -> DecodeEnd {
        let target = self.request.rank.decoder.to_string();
        DecodeEnd::Failed(Error::LegBroken { leg: Leg::Decode, target, how })
    }
}

/// Marks a decode answer that goes on behind the first token as a request of its own.
#[derive(Debug, Clone, Copy)]
struct Resumed;

/// Counts an answer that was begun, when it is known how it goes on; whoever drops it before has left.
struct Counted {
    metrics: Metrics,
    outcome: Outcome,
}

impl Counted {
    fn is(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.first_token(self.outcome);
    }
}

/// The client's answer: the first token's event, and what the decode leg of `run` brings.
pub(super) fn answer(mut run: Run, event: Bytes) -> Response<AnswerBody> {
    let record = run.record();
    record.answer_begins(200, true);
    let counted = Counted { metrics: record.metrics().clone(), outcome: Outcome::ClientLeft };
    let events = unfold(Answering::Begins(run, event, counted), Answering::next);
    let mut response = Response::new(AnswerBody::made(Box::pin(events)));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Where the client's answer is.
enum Answering {
    Begins(Run, Bytes, Counted),
    Waits(Run, Counted),
    Flows(Box<AnswerBody>),
    Over,
}

impl Answering {
    async fn next(mut self) -> Option<(Result<Bytes, BoxError>, Self)> {
        loop {
            self = match self {
                Self::Begins(mut run, event, counted) => {
                    run.record().sent_ahead(event.len());
                    return Some((Ok(event), Self::Waits(run, counted)));
                }
                Self::Waits(mut run, counted) => match run.reply().await {
                    Reply::Stream(sent, held) => {
                        let resumed = sent.response.extensions().get::<Resumed>().is_some();
                        counted.is(if resumed { Outcome::Resumed } else { Outcome::Joined });
                        let (mut head, body) = sent.response.into_parts();
                        let body = HeldBody::new(held, body);
                        let body = AnswerBody::streamed(&mut head.headers, body, sent.lease, run);
                        Self::Flows(Box::new(body))
                    }
                    reply => {
                        counted.is(Outcome::Broken);
                        let error = match reply {
                            Reply::Error(error) => error,
                            _ => run.not_an_answer(),
                        };
                        let record = run.record();
                        record.outcome = error.code();
                        record.fault = Some(error.fault());
                        return Some((Err(error.to_string().into()), Self::Over));
                    }
                },
                Self::Flows(mut body) => match body.frame().await? {
                    Ok(frame) => match frame.into_data() {
                        Ok(data) => return Some((Ok(data), Self::Flows(body))),
                        // Trailers: this answer was begun without any.
                        Err(_) => Self::Flows(body),
                    },
                    Err(error) => return Some((Err(error), Self::Over)),
                },
                Self::Over => return None,
            };
        }
    }
}
