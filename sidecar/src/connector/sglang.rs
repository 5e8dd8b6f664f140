//! `sglang`: SGLang's own pairing (spec/sidecar.md 3.4 and 12.4). Both legs carry the same body and meet in a room: the
//! decode engine waits there for the KV that the prefill engine sends.
//!
//! Nothing is capped: an SGLang prefill engine produces one token whatever the request asks for. Its answer comes after
//! the transfer and is of no use beyond its end: only a complete answer that tells of no error says that the KV went out.
//! A streamed answer's head says nothing, since engines send it before they have looked at the prompt; but as its stream
//! is one token long, waiting for all of it costs nothing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvferry_contract::Endpoint;
use kvferry_splice::{Edits, Malformed, scan};

use super::{Accepted, Attempt, Connector, Options, Outgoing, ReleaseRequest, Unusable, fresh};
use crate::request::Asked;

const HOST: &str = "bootstrap_host";
const PORT: &str = "bootstrap_port";
const ROOM: &str = "bootstrap_room";

/// How long prefill may take: what llm-d waits. SGLang itself lets a decode request wait in its room for as long.
const PATIENCE: Duration = Duration::from_secs(300);

/// How much of an error told inside an answer is passed on, in bytes: enough for what SGLang writes, and no prompt.
const MAX_TOLD: usize = 512;

/// The connector.
pub fn connector(options: &Options) -> Arc<dyn Connector> {
    Arc::new(Sglang { port: options.sglang_bootstrap_port })
}

#[derive(Debug)]
struct Sglang {
    port: u16,
}

impl Connector for Sglang {
    fn watch(&self) -> &'static [&'static str] {
        &[HOST, PORT, ROOM]
    }

    /// A request that is dropped is aborted by its engine, at whatever stage; an abort closes that side of the room, and
    /// the prefill engine frees what it computed. So there is nothing to release either: no KV outlives its leg.
    fn cancels_at_once(&self) -> bool {
        true
    }

    fn patience(&self) -> Option<Duration> {
        Some(PATIENCE)
    }

    fn known_timeout(&self) -> Option<&'static str> {
        Some("SGLang prefill did not complete before the wait timeout")
    }

    fn begin(
        &self,
        _asked: &Asked,
        target: &Endpoint,
        _answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable> {
        Ok(Box::new(self.room(target)))
    }

    /// A prefill engine computes nothing that no decode engine has come for.
    fn pair(&self, asked: &Asked, target: &Endpoint) -> Option<[Outgoing; 2]> {
        let pair = self.room(target);
        Some([pair.leg(asked), pair.leg(asked)])
    }
}

impl Sglang {
    fn room(&self, target: &Endpoint) -> Pair {
        let host = serde_json::to_vec(target.host()).expect("a text is JSON");
        Pair { host: host.into(), port: self.port, room: fresh::number() }
    }
}

/// One attempt: where the two engines meet.
#[derive(Debug)]
struct Pair {
    /// JSON.
    host: Bytes,
    port: u16,
    room: u64,
}

impl Pair {
    fn leg(&self, asked: &Asked) -> Outgoing {
        let edits = Edits::new()
            .set(HOST, self.host.clone())
            .set(PORT, self.port.to_string())
            .set(ROOM, self.room.to_string());
        asked.edit(edits)
    }
}

impl Attempt for Pair {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        self.leg(asked)
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn beside(&self, asked: &Asked) -> Option<Outgoing> {
        Some(self.leg(asked))
    }

    fn told_error(&self, answer: &Bytes) -> Option<String> {
        told_error(answer)
    }

    fn accept(&mut self, _asked: &Asked, _answer: &Bytes) -> Result<Accepted, Malformed> {
        Ok(Accepted::default())
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        self.leg(asked)
    }

    fn release(&self) -> Option<ReleaseRequest> {
        None
    }
}

/// The first error in an answer, be it a whole one or a stream of events.
fn told_error(answer: &Bytes) -> Option<String> {
    memchr::memmem::find(answer, b"\"error\"")?;
    let payloads = answer.split(|byte| *byte == b'\n').map(|line| match line.strip_prefix(b"data:") {
        Some(payload) => answer.slice_ref(payload),
        None => answer.slice_ref(line),
    });
    let error = std::iter::once(answer.clone()).chain(payloads).find_map(|payload| {
        let error = scan(&payload, &["error"]).ok()?.value("error")?;
        Some(payload.slice(error)).filter(|error| &error[..] != b"null")
    })?;
    Some(String::from_utf8_lossy(&error[..error.len().min(MAX_TOLD)]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_inside_a_success_is_found_in_whole_answers_and_in_streams() {
        for (answer, expected) in [
            ("", None),
            (r#"{"text":"a","error":null}"#, None),
            (r#"{"text":"\"error\"","meta":{"error":1}}"#, None),
            ("data: {\"text\":\"\\\"error\\\"\"}\n\ndata: [DONE]\n\n", None),
            (r#"{"error":{"message":"m"}}"#, Some(r#"{"message":"m"}"#)),
            ("{\n \"error\": \"m\"\n}", Some("\"m\"")),
            (
                "data: {\"text\":\"a\"}\n\ndata: {\"error\": {\"message\":\"KV\"}}\r\n\r\ndata: [DONE]\n\n",
                Some(r#"{"message":"KV"}"#),
            ),
            ("data:{\"error\":1}\n\n", Some("1")),
        ] {
            assert_eq!(told_error(&Bytes::from_static(answer.as_bytes())).as_deref(), expected, "{answer}");
        }
        let long = format!("{{\"error\":\"{}\"}}", "x".repeat(10_000));
        assert_eq!(told_error(&long.into()).unwrap().len(), MAX_TOLD);
    }
}
