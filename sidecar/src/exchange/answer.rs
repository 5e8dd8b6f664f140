//! The body of the client's answer. It goes on driving the handoff while the decode answer flows: first data means that
//! the KV was read, an error or a passed deadline breaks the answer off, and dropping it means that the client left.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http_body::{Body, Frame, SizeHint};
use kvferry_handoff::{Cause, Command, Event, Leg, Stage};
use kvferry_splice::SseRewriter;
use tokio::time::Sleep;

use super::chunked::Events;
use super::held::{Held, HeldBody};
use super::inflate::{Inflater, is_gzip, now_plain};
use super::run::Run;
use crate::connector::{Observer, UsageEdit};
use crate::record::Record;
use crate::request::headers::strip_hop_by_hop_response;
use crate::respond;
use crate::upstream::{Lease, Sent};

/// The outcome of a stream that began with an error event. Whatever follows in it proves nothing about the KV.
const ERROR_EVENT: &str = "decode_error_event";

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response to the client.
pub struct AnswerBody {
    kind: Kind,
    /// Who sees what the client gets.
    watching: Option<Box<dyn Observer>>,
}

/// Each kind boxes what is large: the server keeps room for the largest with every connection.
enum Kind {
    /// Known from the start.
    Full { data: Option<Bytes>, trailers: Option<Box<HeaderMap>>, _record: Option<Box<Record>> },
    /// An engine's body, passed on unread.
    Plain(Box<Plain>),
    /// The decode engine's answer of a disaggregated request.
    Streamed(Box<Streamed>),
    /// Made here, event by event, as the client takes them.
    Made(Events),
}

impl Kind {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full { data, trailers, .. } => {
                data.as_ref().is_none_or(Bytes::is_empty) && trailers.is_none()
            }
            Self::Plain(plain) => plain.body.is_end_stream(),
            Self::Streamed(streamed) => streamed.ended && streamed.last.is_none(),
            Self::Made(_) => false,
        }
    }
}

/// A complete answer of the decode engine.
pub(super) struct WholeBody {
    data: Bytes,
    trailers: Option<HeaderMap>,
    /// Its usage says what the client is to see.
    corrected: bool,
}

impl WholeBody {
    /// One whose usage is right.
    pub(super) fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data, trailers, corrected: true }
    }

    /// One that came before it was known what its usage has to say.
    pub(super) fn as_it_came(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data, trailers, corrected: false }
    }

    /// With its usage corrected, if it is not yet.
    pub(super) fn corrected(self, edit: Option<UsageEdit>) -> Self {
        let edit = edit.filter(|_| !self.corrected);
        let data = edit.and_then(|edit| edit.apply(&self.data)).unwrap_or(self.data);
        Self { data, corrected: true, ..self }
    }

    pub(super) fn data(&self) -> &Bytes {
        &self.data
    }
}

impl AnswerBody {
    fn of(kind: Kind) -> Self {
        Self { kind, watching: None }
    }

    /// The same, seen by `observer` just as the client gets it. It is told of the end only of an answer that is complete.
    pub fn watched(self, observer: Box<dyn Observer>) -> Self {
        Self { watching: Some(observer), ..self }
    }

    /// These bytes.
    pub fn full(data: Bytes) -> Self {
        Self::of(Kind::Full { data: Some(data), trailers: None, _record: None })
    }

    pub(super) fn whole(body: WholeBody, mut record: Box<Record>) -> Self {
        record.sent(body.data.len());
        let trailers = body.trailers.map(Box::new);
        Self::of(Kind::Full { data: Some(body.data), trailers, _record: Some(record) })
    }

    /// The answer of a leg's engine as it is. The connection is kept when it ended well.
    pub async fn plain(mut sent: Sent, leg: Leg, mut record: Option<Box<Record>>) -> Response<Self> {
        let mut held = Held::default();
        if let Err(error) = held.look(sent.response.body_mut()).await {
            let error = sent.broke(leg, &error);
            if let Some(record) = &mut record {
                record.failed(&error);
            }
            return respond::error(&error);
        }
        let (mut head, body) = sent.response.into_parts();
        strip_hop_by_hop_response(&mut head.headers);
        if let Some(record) = &mut record {
            record.answer_begins(head.status.as_u16(), is_event_stream(&head.headers));
        }
        let mut plain = Plain { body: HeldBody::new(held, body), lease: Some(sent.lease), record };
        // Nobody asks a body that is empty for its end.
        if plain.body.is_end_stream() {
            plain.end();
        }
        Response::from_parts(head, Self::of(Kind::Plain(Box::new(plain))))
    }

    /// Events that are made here.
    pub(super) fn made(events: Events) -> Self {
        Self::of(Kind::Made(events))
    }

    /// A successful decode answer; `headers` are corrected for what is done to it.
    pub(super) fn streamed(headers: &mut HeaderMap, body: HeldBody, lease: Lease, mut run: Run) -> Self {
        let sse = is_event_stream(headers);
        let rewrite = run
            .usage_edit()
            .filter(|_| sse)
            .map(|edit| Rewrite { sse: SseRewriter::new(UsageEdit::needle()), edit });
        let mut inflater = None;
        let observer = run.observer();
        if rewrite.is_some() || observer.is_some() {
            if is_gzip(headers) {
                now_plain(headers);
                inflater = Some(Box::new(Inflater::new()));
            }
            headers.remove(CONTENT_LENGTH);
        }
        let timer = run.wake_at().map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Self::of(Kind::Streamed(Box::new(Streamed {
            body,
            lease: Some(lease),
            run,
            sse,
            rewrite,
            observer,
            inflater,
            timer,
            last: None,
            ended: false,
        })))
    }
}

/// Whether an answer comes as events.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| memchr::memmem::find(kind.as_bytes(), b"text/event-stream").is_some())
}

/// Whether an event stream's data is a comment, which is only a sign of life.
pub(super) fn says_nothing(data: &[u8]) -> bool {
    data.first() == Some(&b':')
}

/// Whether an event stream's data begins with an error, in the words of one of the APIs.
pub(super) fn tells_error(data: &[u8]) -> bool {
    const ERRORS: [&[u8]; 4] =
        [b"data: {\"error\"", b"data: {\"object\":\"error\"", b"event: error", b"data: {\"type\":\"error\""];
    ERRORS.iter().any(|error| data.starts_with(error))
}

/// Passed on unread.
struct Plain {
    body: HeldBody,
    lease: Option<Lease>,
    record: Option<Box<Record>>,
}

impl Plain {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            None => self.end(),
            Some(Err(_)) => {
                if let Some(record) = &mut self.record {
                    record.outcome = "decode_broke";
                }
            }
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut self.record, frame.data_ref()) {
                    record.sent(data.len());
                }
                if self.body.is_end_stream() {
                    self.end();
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.recycle();
        }
        if let Some(record) = &mut self.record
            && record.outcome == Record::UNFINISHED
        {
            record.outcome = "ok";
        }
    }
}

struct Rewrite {
    sse: SseRewriter,
    edit: UsageEdit,
}

/// A decode answer that flows.
struct Streamed {
    body: HeldBody,
    lease: Option<Lease>,
    run: Run,
    sse: bool,
    rewrite: Option<Rewrite>,
    observer: Option<Box<dyn Observer>>,
    inflater: Option<Box<Inflater>>,
    /// When a limit passes: the whole request's, or how long the engine may send nothing.
    timer: Option<Pin<Box<Sleep>>>,
    /// A frame to send before the end: trailers behind what the rewriter held.
    last: Option<Frame<Bytes>>,
    ended: bool,
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        while let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            for command in self.run.handle(Event::Tick) {
                match command {
                    Command::BreakAnswer(Cause::DecodeStalled) => {
                        let error = "the decode engine sent nothing for longer than --decode-stall-timeout";
                        return self.broken("decode_stalled", error.into());
                    }
                    Command::BreakAnswer(_) => {
                        let error = "the request took longer than --request-timeout";
                        return self.broken("request_timeout", error.into());
                    }
                    _ => {}
                }
            }
            // The engine has given a sign of life since the timer was set.
            self.timer = self.run.wake_at().map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        }
        loop {
            match self.inflated() {
                Ok(None) => {}
                Ok(Some(plain)) => {
                    if let Some(data) = self.rewritten(plain) {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    continue;
                }
                Err(error) => {
                    self.run.handle(Event::DecodeFailed);
                    return self.broken("decode_broke", error.into());
                }
            }
            if self.ended {
                return Poll::Ready(self.last.take().map(Ok));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    if let Some(frame) = self.end(None) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                Some(Err(error)) => {
                    self.run.handle(Event::DecodeFailed);
                    return self.broken("decode_broke", error.into());
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Err(trailers) => {
                        if let Some(frame) = self.end(Some(trailers)) {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                    }
                    Ok(data) => {
                        self.run.decode_alive();
                        if let Some(inflater) = &mut self.inflater {
                            inflater.feed(data);
                            continue;
                        }
                        let data = self.rewritten(data).map(Frame::data);
                        // With a known length the server asks no further once the last byte is there.
                        let rest = if self.body.is_end_stream() { self.end(None) } else { None };
                        if let (Some(_), Some(_)) = (&data, &rest) {
                            self.last = rest;
                            return Poll::Ready(data.map(Ok));
                        }
                        if let Some(frame) = data.or(rest) {
                            return Poll::Ready(Some(Ok(frame)));
                        }
                    }
                },
            }
        }
    }

    /// Data before anything was produced: does it prove that the KV was read?
    fn first_data(&mut self, data: &[u8]) {
        if self.sse && says_nothing(data) {
            // The engine may not have looked at the KV yet.
        } else if self.sse && tells_error(data) {
            // vLLM tells of KV that it could not pull inside a 200.
            self.run.record().outcome = ERROR_EVENT;
        } else if self.run.record().outcome != ERROR_EVENT {
            self.run.handle(Event::DecodeProduced);
        }
    }

    fn inflated(&mut self) -> std::io::Result<Option<Bytes>> {
        self.inflater.as_mut().map_or(Ok(None), |inflater| inflater.step())
    }

    /// What goes on of `data`, counted; `None` if nothing does yet.
    fn rewritten(&mut self, data: Bytes) -> Option<Bytes> {
        let data = match &mut self.rewrite {
            Some(Rewrite { sse, edit }) => sse.push(data, &mut |payload: &[u8]| edit.apply(payload)),
            None => data,
        };
        if data.is_empty() {
            return None;
        }
        // Here its lines are plain and whole, however they were cut on their way.
        if self.run.stage() == Stage::Decoding {
            self.first_data(&data);
        }
        self.passed_on(&data);
        Some(data)
    }

    fn passed_on(&mut self, data: &[u8]) {
        if let Some(observer) = &mut self.observer {
            observer.data(data);
        }
        self.run.record().sent(data.len());
    }

    /// The engine's answer is complete. Returns the next frame, if any; trailers come after it.
    fn end(&mut self, trailers: Option<Frame<Bytes>>) -> Option<Frame<Bytes>> {
        let held = self.rewrite.as_mut().map_or(Bytes::new(), |Rewrite { sse, edit }| {
            sse.finish(&mut |payload: &[u8]| edit.apply(payload))
        });
        if !held.is_empty() && self.run.stage() == Stage::Decoding {
            self.first_data(&held);
        }
        self.run.handle(Event::DecodeEnded);
        self.ended = true;
        if self.run.record().outcome == Record::UNFINISHED {
            self.run.record().outcome = "ok";
        }
        if let Some(lease) = self.lease.take() {
            lease.recycle();
        }
        if !held.is_empty() {
            self.passed_on(&held);
        }
        if let Some(observer) = self.observer.take() {
            observer.end();
        }
        if held.is_empty() {
            return trailers;
        }
        self.last = trailers;
        Some(Frame::data(held))
    }

    /// Breaks the answer off: the error makes the server close the connection, so the client sees that it was cut.
    fn broken(
        &mut self,
        outcome: &'static str,
        error: BoxError,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.ended = true;
        self.lease = None;
        self.run.record().outcome = outcome;
        Poll::Ready(Some(Err(error)))
    }
}

impl AnswerBody {
    fn watch(&mut self, frame: Option<&Result<Frame<Bytes>, BoxError>>) {
        let Some(observer) = &mut self.watching else { return };
        match frame {
            Some(Err(_)) => self.watching = None,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    observer.data(data);
                }
            }
            None => {}
        }
        // With a known length the server asks no further once the last byte is there.
        if (frame.is_none() || self.kind.is_end_stream())
            && let Some(observer) = self.watching.take()
        {
            observer.end();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Full { data, trailers, .. } => {
                let data = data.take().filter(|data| !data.is_empty()).map(Frame::data);
                data.or_else(|| trailers.take().map(|trailers| Frame::trailers(*trailers))).map(Ok)
            }
            Kind::Plain(plain) => ready!(plain.poll(cx)),
            Kind::Streamed(streamed) => ready!(streamed.poll(cx)),
            Kind::Made(events) => ready!(events.as_mut().poll_next(cx)).map(|data| data.map(Frame::data)),
        };
        this.watch(frame.as_ref());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full { data, trailers: None, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            Kind::Plain(plain) => plain.body.size_hint(),
            // Without an edit every byte goes through, so what the engine announced still holds.
            Kind::Streamed(streamed) if streamed.rewrite.is_none() && streamed.inflater.is_none() => {
                streamed.body.size_hint()
            }
            Kind::Full { .. } | Kind::Streamed(_) | Kind::Made(_) => SizeHint::default(),
        }
    }
}
