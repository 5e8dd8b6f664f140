//! A decode leg beside prefill. Its answer is nobody's before prefill is accepted, but its beginning is read as it comes.
//!
//! A streamed answer's head says nothing: engines send it before they have looked at the KV, and tell of what went wrong
//! inside a 200. Unread, that would be found out when prefill answers, and a prefill engine that waits for decode to fetch
//! the KV (SGLang's does) answers only at its own limit. So the first thing said is looked at: an error ends prefill, and
//! the client, who has seen nothing yet, gets it as an error and not as an answer.
//!
//! An answer that is one JSON text is held until it is whole, as after prefill: by then prefill has said what the answer's
//! usage has to show.

use std::sync::Arc;

use http_body_util::BodyExt;
use kvferry_handoff::Leg;

use super::answer::{is_event_stream, says_nothing, tells_error};
use super::held::Held;
use super::inflate::is_gzip;
use super::legs::{DecodeEnd, LegRequest, decode, hold};
use super::read::is_whole_json;
use crate::connector::{Outgoing, UsageEdit};
use crate::error::{Broken, Error};
use crate::upstream::{Sent, Upstream, broken};

/// How much of an error is passed on, in bytes: enough for what engines write.
const MAX_TOLD: usize = 512;

/// Signs of life before the first word that are kept, in bytes. A stream that sends more of them goes on as it comes.
const MAX_HELD: u64 = 64 * 1024;

/// Sends the leg. Ends when it is refused, whole, or a stream that has said something.
pub(super) async fn decode_beside(
    upstream: Upstream,
    request: Arc<LegRequest>,
    leg: Outgoing,
    usage: Option<UsageEdit>,
) -> DecodeEnd {
    let decoder = Arc::clone(&request.rank.decoder);
    match decode(upstream, request, leg, usage).await {
        DecodeEnd::Stream(sent) => {
            let end = if is_whole_json(&sent.response) {
                hold(sent).await.map(|(head, body)| DecodeEnd::Whole(head, body))
            } else {
                begun(sent).await
            };
            end.unwrap_or_else(|how| {
                DecodeEnd::Failed(Error::LegBroken { leg: Leg::Decode, target: decoder.to_string(), how })
            })
        }
        end => end,
    }
}

async fn begun(mut sent: Sent) -> Result<DecodeEnd, Broken> {
    let headers = sent.response.headers();
    let events = is_event_stream(headers) && !is_gzip(headers);
    let mut held = Held::default();
    while held.len() < MAX_HELD
        && let Some(frame) = sent.response.body_mut().frame().await
    {
        let frame = frame.map_err(|error| broken(&error))?;
        let said = frame.data_ref().filter(|data| !data.is_empty()).cloned();
        held.push(frame);
        let Some(said) = said.filter(|said| !(events && says_nothing(said))) else { continue };
        if events && tells_error(&said) {
            let text = String::from_utf8_lossy(&said[..said.len().min(MAX_TOLD)]);
            return Err(Broken::Told(text.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        break;
    }
    Ok(DecodeEnd::Held(sent, held))
}
