//! Finds in the decode engine's stream what the client has already, and cuts it out.
//!
//! What goes on is the engine's own stream from there, byte for byte; only an event that says more than the client has
//! is edited, by splicing its text. So whatever the client reads, first event and rest together, says what the engine's
//! stream says, or the two differ and nothing of the stream goes on.

use bytes::{Bytes, BytesMut};
use kvferry_splice::scan;
use memchr::memmem;

use super::Said;

/// Longest unfinished event that is held, in bytes. The first event of an answer has some hundred.
const MAX_HELD: usize = 256 * 1024;

/// What the beginning of a stream turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The stream says what the client has. What of it is left so far goes on.
    Joined(Bytes),
    /// It says something else.
    Differs,
}

/// See the module's text.
#[derive(Debug)]
pub struct Seam {
    /// What the client has and the stream has not said yet.
    left: Said,
    held: BytesMut,
}

impl Seam {
    pub(super) fn new(said: Said) -> Self {
        Self { left: said, held: BytesMut::new() }
    }

    /// Takes more of the stream, plain. `None`: more is needed.
    pub fn push(&mut self, data: &[u8]) -> Option<Verdict> {
        self.held.extend_from_slice(data);
        while let Some(end) = end_of_event(&self.held) {
            let event = self.held.split_to(end);
            match self.event(&event) {
                Cut::All => {}
                Cut::Differs => return Some(Verdict::Differs),
                Cut::Leaves(mut rest) => {
                    rest.extend_from_slice(&self.held.split());
                    return Some(Verdict::Joined(rest.freeze()));
                }
            }
        }
        (self.held.len() > MAX_HELD).then_some(Verdict::Differs)
    }

    /// `event`: with the blank line that ends it.
    fn event(&mut self, event: &[u8]) -> Cut {
        let mut payload = None;
        let mut at = 0;
        for line in event.split_inclusive(|byte| *byte == b'\n') {
            let text = line.trim_ascii_end();
            if let Some(value) = text.strip_prefix(b"data:") {
                let value = value.trim_ascii_start();
                let start = at + text.len() - value.len();
                if payload.replace(start..start + value.len()).is_some() {
                    return Cut::Differs;
                }
            } else if !text.is_empty() && !text.starts_with(b":") {
                return Cut::Differs;
            }
            at += line.len();
        }
        // Comments only keep the connection alive.
        let Some(payload) = payload else { return Cut::All };
        let json = &event[payload.clone()];
        if tells_an_error(json) {
            return Cut::Leaves(BytesMut::from(event));
        }
        let Some(said) = Saying::read(json) else { return Cut::Differs };
        if let Some(rest) = said.said.behind(&self.left) {
            self.left = rest;
            if self.left.is_empty() && !said.finishes {
                return Cut::Leaves(BytesMut::new());
            }
            let mut edited = BytesMut::from(&event[..payload.start]);
            let (before, after) = (&json[..said.at.start], &json[said.at.end..]);
            edited.extend_from_slice(before);
            edited.extend_from_slice(self.left.json().as_bytes());
            edited.extend_from_slice(after);
            edited.extend_from_slice(&event[payload.end..]);
            return Cut::Leaves(edited);
        }
        match self.left.behind(&said.said) {
            // An answer that ends before it has said what the client has.
            Some(_) if said.finishes => Cut::Differs,
            Some(left) => {
                self.left = left;
                Cut::All
            }
            None => Cut::Differs,
        }
    }
}

/// What of an event goes on.
enum Cut {
    /// Nothing, and more is expected.
    All,
    /// This, and everything behind it.
    Leaves(BytesMut),
    Differs,
}

fn end_of_event(data: &[u8]) -> Option<usize> {
    let plain = memmem::find(data, b"\n\n").map(|at| at + 2);
    let with_returns = memmem::find(data, b"\r\n\r\n").map(|at| at + 4);
    [plain, with_returns].into_iter().flatten().min()
}

/// vLLM tells of KV that it could not pull inside its stream: the client must read that, whatever it has read before.
fn tells_an_error(json: &[u8]) -> bool {
    let Ok(document) = scan(json, &["error", "object"]) else { return false };
    document.value("error").is_some()
        || document.value("object").is_some_and(|value| &json[value] == br#""error""#)
}

/// What one event says, and where in it.
struct Saying {
    said: Said,
    at: std::ops::Range<usize>,
    finishes: bool,
}

impl Saying {
    /// `None`: it is no event with exactly one choice, or one that says nothing.
    fn read(json: &[u8]) -> Option<Self> {
        let choices = scan(json, &["choices"]).ok()?.value("choices")?;
        let inside = json[choices.clone()].strip_prefix(b"[")?.strip_suffix(b"]")?;
        let choice = inside.trim_ascii();
        let start = choices.start + 1 + (inside.len() - inside.trim_ascii_start().len());
        let document = scan(choice, &["text", "token_ids", "finish_reason"]).ok()?;
        let value = |name| document.value(name).filter(|range| &choice[range.clone()] != b"null");
        let finishes = value("finish_reason").is_some();
        let (said, at) = if let Some(at) = value("text") {
            (Said::Text(serde_json::from_slice(&choice[at.clone()]).ok()?), at)
        } else {
            let at = value("token_ids")?;
            (Said::Ids(serde_json::from_slice(&choice[at.clone()]).ok()?), at)
        };
        Some(Self { said, at: start + at.start..start + at.end, finishes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str, finish: &str) -> String {
        format!(
            "data: {{\"id\":\"c\",\"created\":2,\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"logprobs\":null,\"finish_reason\":{finish},\"token_ids\":null}}]}}\n\n"
        )
    }

    fn ids(tokens: &str) -> String {
        format!(
            "data: {{\"request_id\":\"g\",\"choices\":[{{\"index\":0,\"token_ids\":{tokens},\"finish_reason\":null}}]}}\n\n"
        )
    }

    /// The verdict, and how many of the pieces it took.
    fn join(said: Said, pieces: &[&str]) -> (Option<Verdict>, usize) {
        let mut seam = Seam::new(said);
        for (index, piece) in pieces.iter().enumerate() {
            if let Some(verdict) = seam.push(piece.as_bytes()) {
                return (Some(verdict), index + 1);
            }
        }
        (None, pieces.len())
    }

    fn text(said: &str) -> Said {
        Said::Text(said.to_owned())
    }

    fn joined(rest: &str) -> Verdict {
        Verdict::Joined(Bytes::copy_from_slice(rest.as_bytes()))
    }

    #[test]
    fn what_the_client_has_is_cut_out_and_the_rest_stays_as_it_is() {
        let (one, two) = (event(" one", "null"), event(" two", "null"));
        let both = format!("{one}{two}");
        assert_eq!(join(text(" one"), &[&one, &two]), (Some(joined("")), 1));
        assert_eq!(join(text(" one"), &[&both]), (Some(joined(&two)), 1));
        // Half an event behind it goes on as well.
        assert_eq!(join(text(" one"), &[&format!("{one}data: {{\"id")]), (Some(joined("data: {\"id")), 1));
        // However the stream is cut on its way.
        for at in 1..both.len() {
            let (first, second) = both.split_at(at);
            let (verdict, took) = join(text(" one"), &[first, second]);
            let Some(Verdict::Joined(rest)) = verdict else { panic!("at {at}: {verdict:?}") };
            let behind = if took == 1 { second } else { "" };
            assert_eq!(format!("{}{behind}", std::str::from_utf8(&rest).unwrap()), two, "at {at}");
        }
    }

    #[test]
    fn an_event_that_says_more_keeps_what_is_new() {
        let more = event(" one \\u00e9\\\"", "null");
        assert_eq!(join(text(" one"), &[&more]), (Some(joined(&event(" é\\\"", "null"))), 1));
        // The last event must be read for its finish reason.
        let last = event(" one", "\"length\"");
        assert_eq!(join(text(" one"), &[&last]), (Some(joined(&event("", "\"length\""))), 1));
        assert_eq!(join(Said::Ids(vec![7]), &[&ids("[7,8]")]), (Some(joined(&ids("[8]"))), 1));
        assert_eq!(join(Said::Ids(vec![7]), &[&ids("[7]"), &ids("[8]")]), (Some(joined("")), 1));
    }

    #[test]
    fn the_same_text_in_other_pieces_is_the_same() {
        let pieces = [event("", "null"), event(" o", "null"), event("ne!", "null")];
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(join(text(" one"), &pieces), (Some(joined(&event("!", "null"))), 3));
    }

    #[test]
    fn signs_of_life_are_passed_over_and_errors_are_not() {
        let one = event(" one", "null");
        assert_eq!(join(text(" one"), &[": ping\n\n", &one]), (Some(joined("")), 2));
        assert_eq!(join(text(" one"), &["\n\n", &one.replace('\n', "\r\n")]), (Some(joined("")), 2));
        for error in ["data: {\"error\":{\"message\":\"m\"}}\n\n", "data: {\"object\":\"error\"}\n\n"] {
            assert_eq!(join(text(" one"), &[error]), (Some(joined(error)), 1));
        }
    }

    #[test]
    fn anything_else_differs() {
        let one = event(" one", "null");
        for pieces in [
            vec![event(" two", "null")],
            vec![event(" on", "null"), event("E", "null")],
            vec![event(" on", "\"stop\"")],
            vec!["data: [DONE]\n\n".to_owned()],
            vec!["data: {\"choices\":[],\"usage\":{}}\n\n".to_owned()],
            vec![format!("data: {{\"choices\":[{},{}]}}\n\n", "{\"text\":\" one\"}", "{\"text\":\" one\"}")],
            vec![format!("event: x\n{one}")],
            vec![format!("{}{one}", one.trim_end_matches('\n').to_owned() + "\n")],
            vec![ids("[7]")],
            vec!["x".repeat(MAX_HELD + 1)],
        ] {
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            assert_eq!(join(text(" one"), &pieces), (Some(Verdict::Differs), pieces.len()), "{pieces:?}");
        }
        assert_eq!(join(Said::Ids(vec![7]), &[&ids("[8,7]")]).0, Some(Verdict::Differs));
        assert_eq!(join(text(" one"), &[&one[..one.len() - 1]]), (None, 1));
    }
}
