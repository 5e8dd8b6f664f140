//! One disaggregated request, carried out: the thin shell around the handoff core.
//!
//! [`run::Run`] sends legs and releases as the core commands, [`legs`] knows how one leg is sent and read, and
//! [`answer`] is the client's body, which goes on driving the core while the decode answer flows.

mod answer;
mod inflate;
mod legs;
mod read;
mod run;
mod tasks;

use std::sync::Arc;

use http::Response;

pub use answer::{AnswerBody, is_event_stream};
pub use legs::LegRequest;

use crate::record::Record;
use crate::request::headers::strip_hop_by_hop_response;
use crate::respond;
use crate::worker::Worker;
use run::{Reply, Run};

/// Serves one request through prefill and decode. Dropping the future means that the client left: what runs is
/// cancelled and KV is released in the background.
pub async fn serve(worker: Arc<Worker>, request: LegRequest, record: Record) -> Response<AnswerBody> {
    let mut run = Run::start(worker, request, record);
    let reply = loop {
        if let Some(reply) = run.step().await {
            break reply;
        }
    };
    match reply {
        Reply::Error(error) => {
            run.record().failed(&error);
            respond::error(&error)
        }
        Reply::Refused(sent, outcome) => {
            run.record().outcome = outcome;
            let (mut head, body) = sent.response.into_parts();
            strip_hop_by_hop_response(&mut head.headers);
            run.record().answer_begins(head.status.as_u16(), false);
            // The run goes on in the background if KV is to be released; the answer need not wait for that.
            let record = run.end();
            Response::from_parts(head, AnswerBody::plain(body, sent.lease, Some(record)))
        }
        Reply::Whole(mut head, body) => {
            strip_hop_by_hop_response(&mut head.headers);
            run.record().answer_begins(head.status.as_u16(), false);
            run.record().outcome = "ok";
            Response::from_parts(head, AnswerBody::whole(body, run.end()))
        }
        Reply::Stream(sent) => {
            let (mut head, body) = sent.response.into_parts();
            strip_hop_by_hop_response(&mut head.headers);
            run.record().answer_begins(head.status.as_u16(), is_event_stream(&head.headers));
            let body = AnswerBody::streamed(&mut head.headers, body, sent.lease, run);
            Response::from_parts(head, body)
        }
    }
}
