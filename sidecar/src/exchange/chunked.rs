//! Chunked decode (`--decode-chunk-size`): a long answer as a sequence of short requests to the decode engine, so that its
//! scheduler gets a say between two of them (spec/sidecar.md 3.8).
//!
//! The first chunk is the decode leg, with the KV; every other one goes on from the text so far. Each is a whole JSON
//! answer. It is exact as far as the engine's chat template renders a text as the tokens that it came from.
//!
//! What fails after the first chunk is told as well as it still can be: a client that waits for the whole answer gets the
//! error alone. One that reads events has a 200 already and gets an event with `error` and the end marker, as vLLM itself
//! does it: OpenAI's client libraries raise on that, where a connection that breaks off looks like a network fault.

mod answer;
mod plan;

use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, response};
use kvferry_handoff::{Command, Event, Leg};
use kvferry_splice::{Chunks, get_path};

use super::answer::{BoxError, WholeBody};
use super::hole::Hole;
use super::legs::{DecodeEnd, LegRequest, decode};
use super::read::{MAX_WHOLE_ANSWER, Unread, Whole, read_whole};
use super::run::Run;
use crate::connector::{Outgoing, UsageEdit};
use crate::error::{Broken, Error};
use crate::request::route::Api;
use crate::upstream::{Sent, Upstream};
use answer::{Chunk, Grown};
use plan::{Plan, continuation};

/// What engines say of a prompt and an output limit that do not fit together.
const NO_ROOM: &[u8] = b"context length";

/// The body that the client reads.
pub(super) type Events = Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>;

/// Whether this body is decoded in chunks of `size` tokens.
pub fn applies(api: Api, body: &Chunks, size: NonZeroU32) -> bool {
    Plan::of(api, body, size).is_some()
}

/// A decode leg to be sent as its first chunk.
pub(super) struct Start {
    leg: Outgoing,
    plan: Plan,
}

impl Start {
    /// Gives `leg` back if it is to be sent in one piece.
    pub(super) fn of(api: Api, leg: Outgoing, size: Option<NonZeroU32>) -> Result<Self, Outgoing> {
        match size.and_then(|size| Plan::of(api, &leg.body, size)) {
            None => Err(leg),
            Some(plan) => Ok(Self { leg, plan }),
        }
    }

    /// Sends it and reads its answer. If chunks turn out not to do for this answer, the request is sent in one piece
    /// after all, before the client has seen anything.
    pub(super) async fn send(
        self,
        upstream: Upstream,
        request: Arc<LegRequest>,
        usage: Option<UsageEdit>,
    ) -> DecodeEnd {
        let Self { leg: Outgoing { headers, .. }, plan } = self;
        let chunks = Engine { upstream, request, headers };
        let whole = match chunks.ask(plan.first()).await {
            Ok(Asked::Answered(whole)) => whole,
            Ok(Asked::Refused(sent)) => return DecodeEnd::Refused(sent),
            Err(error) => return DecodeEnd::Failed(error),
        };
        let Some(chunk) = Chunk::read(&whole.plain) else {
            // Whatever it is, it is the engine's own answer.
            return DecodeEnd::Whole(without_length(whole.head), WholeBody::new(whole.plain, whole.trailers));
        };
        if chunk.was_cut() && (chunk.is_empty() || !chunk.is_only_text()) {
            let Engine { upstream, request, headers } = chunks;
            let leg = Outgoing { body: plan.in_one_piece(), headers };
            return decode(upstream, request, leg, usage).await;
        }
        if !chunk.was_cut() && !plan.stream {
            let body = usage.and_then(|edit| edit.apply(&whole.plain)).unwrap_or(whole.plain);
            return DecodeEnd::Whole(without_length(whole.head), WholeBody::new(body, whole.trailers));
        }
        let grown = Grown::new(chunk, plan.limit(plan.budget));
        let growing = Growing { engine: chunks, plan, usage, grown, hole: None };
        DecodeEnd::Grows(without_length(whole.head), Box::new(growing))
    }
}

fn without_length(mut head: response::Parts) -> response::Parts {
    head.headers.remove(CONTENT_LENGTH);
    head
}

/// The decode engine, for one request.
struct Engine {
    upstream: Upstream,
    request: Arc<LegRequest>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

enum Asked {
    Answered(Whole),
    Refused(Sent),
}

impl Engine {
    /// Asks for one chunk.
    async fn ask(&self, body: Chunks) -> Result<Asked, Error> {
        let decoder = &self.request.rank.decoder;
        let leg = Outgoing { body, headers: self.headers.clone() };
        let sent = self.upstream.send(decoder, || self.request.to(&leg)).await;
        let sent = sent.map_err(|how| self.broken(how))?;
        if sent.response.status().is_success() {
            self.read(sent).await.map(Asked::Answered)
        } else {
            Ok(Asked::Refused(sent))
        }
    }

    async fn read(&self, sent: Sent) -> Result<Whole, Error> {
        read_whole(sent, MAX_WHOLE_ANSWER).await.map_err(|unread| {
            self.broken(match unread {
                Unread::TooLarge => {
                    Broken::Other(format!("its answer is larger than {MAX_WHOLE_ANSWER} bytes"))
                }
                Unread::Broken(how) => how,
                Unread::Coding(detail) => Broken::Other(detail),
            })
        })
    }

    fn broken(&self, how: Broken) -> Error {
        Error::LegBroken { leg: Leg::Decode, target: self.request.rank.decoder.to_string(), how }
    }
}

/// An answer of which the first chunk is there.
pub(super) struct Growing {
    engine: Engine,
    plan: Plan,
    usage: Option<UsageEdit>,
    grown: Grown,
    /// The body of later chunks, with the limit that it was made for.
    hole: Option<(Option<u64>, Hole)>,
}

/// Why it does not grow any further.
pub(super) enum Stopped {
    /// The engine's own error.
    Refused(Box<(response::Parts, WholeBody)>),
    /// One of ours.
    Failed(Error),
}

impl Growing {
    /// Whether the client reads events.
    pub(super) fn streams(&self) -> bool {
        self.plan.stream
    }

    fn is_complete(&self) -> bool {
        self.grown.is_complete(self.plan.budget)
    }

    /// Adds one chunk; returns what it adds to the text.
    async fn grow(&mut self) -> Result<String, Stopped> {
        if self.grown.text().len() > MAX_WHOLE_ANSWER {
            return Err(self.wrong(&format!("its answer is larger than {MAX_WHOLE_ANSWER} bytes")));
        }
        let limit = self.plan.limit(self.grown.left(self.plan.budget));
        // A limit that does not fit into what is left of the context is refused, not shortened: then the engine fills it.
        for asked_for in [Some(limit), None] {
            let body = self.body(asked_for)?;
            let sent = match self.engine.ask(body).await.map_err(Stopped::Failed)? {
                Asked::Answered(whole) => {
                    let chunk =
                        Chunk::read(&whole.plain).filter(|chunk| !chunk.was_cut() || chunk.is_only_text());
                    let chunk = chunk.ok_or_else(|| self.wrong("it continued a text with what is none"))?;
                    if asked_for.is_none() {
                        self.grown.close();
                    }
                    return Ok(self.grown.take(chunk, limit).to_owned());
                }
                Asked::Refused(sent) => sent,
            };
            let whole = self.engine.read(sent).await.map_err(Stopped::Failed)?;
            let no_room = whole.head.status == StatusCode::BAD_REQUEST
                && memchr::memmem::find(&whole.plain, NO_ROOM).is_some();
            if !no_room {
                let body = WholeBody::new(whole.plain, whole.trailers);
                return Err(Stopped::Refused(Box::new((whole.head, body))));
            }
        }
        // Not even one token fits: this is where any answer ends.
        self.grown.close();
        Ok(String::new())
    }

    fn body(&mut self, limit: Option<u64>) -> Result<Chunks, Stopped> {
        if self.hole.as_ref().is_none_or(|(made_for, _)| *made_for != limit) {
            let hole = self.plan.later(limit).ok_or_else(|| self.wrong("its answer cannot be continued"))?;
            self.hole = Some((limit, hole));
        }
        let (_, hole) = self.hole.as_ref().expect("it was made just now if it was not there");
        Ok(hole.fill(continuation(self.grown.text())))
    }

    fn wrong(&self, what: &str) -> Stopped {
        Stopped::Failed(self.engine.broken(Broken::Other(what.to_owned())))
    }

    /// The whole answer, once it is complete. Dropping the future cancels the chunk that runs.
    pub(super) async fn whole(&mut self, run: &mut Run) -> Result<WholeBody, Stopped> {
        run.record().decode_grows(self.plan.size, false);
        while !self.is_complete() {
            watched(run, self.grow()).await??;
        }
        self.ended(run);
        let answer = self.grown.answer();
        let answer = self.usage.and_then(|edit| edit.apply(&answer)).unwrap_or(answer);
        Ok(WholeBody::new(answer, None))
    }

    /// The last chunk is there.
    fn ended(&self, run: &mut Run) {
        run.handle(Event::DecodeEnded);
        run.record().decode_grown(self.grown.chunks(), self.grown.completion_tokens());
    }

    /// The answer's events, chunk by chunk. Nothing is asked of the engine before the client has taken what there is.
    pub(super) fn events(self: Box<Self>, mut run: Run) -> Events {
        run.record().decode_grows(self.plan.size, true);
        let reading = Reading { growing: self, run, begun: false, ended: false };
        Box::pin(futures_util::stream::unfold(reading, |mut reading| async move {
            let data = reading.next().await?;
            reading.run.record().sent(data.len());
            Some((Ok(data), reading))
        }))
    }
}

/// The head of an answer in events.
pub(super) fn event_headers(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
}

/// A client that reads events. Dropping it means that the client left, or has everything.
struct Reading {
    growing: Box<Growing>,
    run: Run,
    begun: bool,
    ended: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let is_first = !std::mem::replace(&mut self.begun, true);
        let text = if is_first {
            self.growing.grown.text().to_owned()
        } else {
            let chunk = watched(&mut self.run, self.growing.grow()).await;
            match chunk.and_then(|chunk| chunk) {
                Ok(text) => text,
                Err(stopped) => return Some(self.stopped(stopped)),
            }
        };
        let grown = &self.growing.grown;
        let is_last = self.growing.is_complete();
        let mut data = event(&grown.event(&text, is_first, is_last));
        if is_last {
            if self.growing.plan.usage_event
                && let Some(payload) = grown.usage_event()
            {
                let payload = Bytes::from(payload);
                let edited = self.growing.usage.and_then(|edit| edit.apply(&payload)).unwrap_or(payload);
                data += &event(&String::from_utf8_lossy(&edited));
            }
            data += &event("[DONE]");
            self.ended = true;
            self.growing.ended(&mut self.run);
            self.run.record().outcome = "ok";
        }
        Some(data.into())
    }

    /// The last words of an answer that cannot be completed.
    fn stopped(&mut self, stopped: Stopped) -> Bytes {
        self.ended = true;
        self.run.handle(Event::DecodeFailed);
        let record = self.run.record();
        let error = match stopped {
            Stopped::Failed(error) => {
                record.outcome = error.code();
                record.fault = Some(error.fault());
                crate::respond::error_object(&error)
            }
            Stopped::Refused(refusal) => {
                let (head, body) = *refusal;
                record.outcome = "decode_refused";
                let own = get_path(body.data(), &["error"]).unwrap_or_else(|| body.data().clone());
                match kvferry_splice::scan(&own, &[]) {
                    Ok(_) => String::from_utf8_lossy(&own).into_owned(),
                    Err(_) => format!(
                        r#"{{"message":"the decode engine answered {}","code":{}}}"#,
                        head.status,
                        head.status.as_u16()
                    ),
                }
            }
        };
        (event(&format!(r#"{{"error":{error}}}"#)) + &event("[DONE]")).into()
    }
}

/// One event. The engine's JSON may be written over several lines; outside of its strings these are white space.
fn event(payload: &str) -> String {
    format!("data: {}\n\n", payload.replace(['\r', '\n'], " "))
}

/// Does `work` within the request's limits: the time for all of it, and how long the engine may be silent, which is how
/// long one chunk may take.
async fn watched<T>(run: &mut Run, work: impl Future<Output = T>) -> Result<T, Stopped> {
    let mut work = pin!(work);
    loop {
        let wake = run.wake_at();
        let late = async move {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = &mut work => {
                run.decode_alive();
                return Ok(done);
            }
            () = late => {}
        }
        for command in run.handle(Event::Tick) {
            if let Command::BreakAnswer(cause) = command {
                return Err(Stopped::Failed(run.error(cause)));
            }
        }
    }
}
