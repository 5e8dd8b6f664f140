//! One disaggregated request, carried out: the thin shell around the handoff core.
//!
//! [`run::Run`] sends legs and releases as the core commands, [`legs`] knows how one leg is sent and read, and
//! [`answer`] is the client's body, which goes on driving the core while the decode answer flows. Stages before the
//! handoff: [`encode`], and [`first`], which may spare it. [`chunked`] is another way to decode, and
//! [`ahead`] another way to answer.

mod ahead;
mod answer;
mod beside;
mod chunked;
mod encode;
mod first;
mod held;
mod hole;
mod inflate;
mod legs;
mod read;
mod run;
mod tasks;

use std::sync::Arc;

use http::{Response, response};
use kvferry_handoff::{Event, Leg};

pub use answer::{AnswerBody, is_event_stream};
pub use chunked::applies as is_chunked;
pub use encode::{Encode, WATCH as ENCODE_WATCH, encode};
pub use legs::LegRequest;

use crate::record::Record;
use crate::request::headers::strip_hop_by_hop_response;
use crate::respond;
use crate::worker::Worker;
use answer::WholeBody;
use chunked::Stopped;
use held::HeldBody;
use run::{Reply, Run};

/// Serves one request through prefill and decode, or decode alone where it has no prefill target. Dropping the future
/// means that the client left: what runs is cancelled and KV is released in the background.
pub async fn serve(
    worker: Arc<Worker>,
    request: LegRequest,
    mut record: Box<Record>,
) -> Response<AnswerBody> {
    let request = Arc::new(request);
    if request.targets.is_empty() {
        return answer(Run::alone(worker, request, None, record)).await;
    }
    // Encoding has set the threshold to what no engine declines.
    let first = worker.settings.connector.first(&request.asked).filter(|_| !request.encoded);
    if let Some(first) = first {
        let mut run = Run::alone(Arc::clone(&worker), Arc::clone(&request), Some(first), record);
        match run.reply().await {
            Reply::Declined => {
                run.record().decode_declined();
                record = run.end();
            }
            reply => return respond_with(run, reply).await,
        }
    }
    answer(Run::start(worker, request, record)).await
}

async fn answer(mut run: Run) -> Response<AnswerBody> {
    let reply = run.reply().await;
    let prefilled_by = run.prefilled_by();
    let mut response = respond_with(run, reply).await;
    if let Some(prefilled_by) = prefilled_by {
        response.extensions_mut().insert(prefilled_by);
    }
    response
}

async fn respond_with(mut run: Run, reply: Reply) -> Response<AnswerBody> {
    match reply {
        Reply::Error(error) => {
            run.record().failed(&error);
            respond::error(&error)
        }
        Reply::Begun(event) => ahead::answer(run, event),
        Reply::Declined => unreachable!("only a run that asks first is declined"),
        Reply::Refused(sent, outcome) => {
            run.record().outcome = outcome;
            let leg = if outcome == "prefill_refused" { Leg::Prefill } else { Leg::Decode };
            // The run goes on in the background if KV is to be released; the answer need not wait for that.
            Box::pin(AnswerBody::plain(sent, leg, Some(run.end()))).await
        }
        Reply::Whole(head, body) => {
            let body = body.corrected(run.usage_edit());
            whole(run, head, body, "ok")
        }
        Reply::Stream(mut sent, mut held) => {
            if let Err(error) = held.look(sent.response.body_mut()).await {
                let error = sent.broke(Leg::Decode, &error);
                run.handle(Event::DecodeFailed);
                run.record().failed(&error);
                return respond::error(&error);
            }
            let (mut head, body) = sent.response.into_parts();
            strip_hop_by_hop_response(&mut head.headers);
            run.record().answer_begins(head.status.as_u16(), is_event_stream(&head.headers));
            let body = AnswerBody::streamed(&mut head.headers, HeldBody::new(held, body), sent.lease, run);
            Response::from_parts(head, body)
        }
        Reply::Grows(mut head, mut growing) => {
            // The chunk is there, so the KV was read. Nobody watches an answer that is made here.
            run.handle(Event::DecodeProduced);
            drop(run.observer());
            if growing.streams() {
                strip_hop_by_hop_response(&mut head.headers);
                chunked::event_headers(&mut head.headers);
                run.record().answer_begins(head.status.as_u16(), true);
                return Response::from_parts(head, AnswerBody::made(growing.events(run)));
            }
            // Boxed: much larger than what any other answer waits for.
            match Box::pin(growing.whole(&mut run)).await {
                Ok(body) => whole(run, head, body, "ok"),
                Err(Stopped::Refused(refusal)) => {
                    let (head, body) = *refusal;
                    whole(run, head, body, "decode_refused")
                }
                Err(Stopped::Failed(error)) => {
                    run.record().failed(&error);
                    respond::error(&error)
                }
            }
        }
    }
}

fn whole(
    mut run: Run,
    mut head: response::Parts,
    body: WholeBody,
    outcome: &'static str,
) -> Response<AnswerBody> {
    strip_hop_by_hop_response(&mut head.headers);
    run.record().answer_begins(head.status.as_u16(), false);
    run.record().outcome = outcome;
    Response::from_parts(head, AnswerBody::whole(body, run.end()))
}
