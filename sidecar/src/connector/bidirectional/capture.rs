//! Reads a decode answer on its way to the client: the reply, and what the engine offers.
//!
//! Most of a stream is one small event for each token. They are gathered and read some dozen at a time, which costs less
//! than reading each and holds little: the gathered events, and the reply itself.
//!
//! Only a reply whose tokens are what a template will make of it again is worth an offer: plain text that ended by itself.
//! Calls, reasoning, and text that was cut at a stop word or at a limit are rendered in other tokens than they were
//! generated in, and KV of other tokens would be a wrong answer. So would white space around the text, which templates
//! trim, and bytes that are no text.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::Memory;
use super::chat::Turn;
use super::offer::Offer;
use crate::connector::Observer;

/// Events are read once so many bytes of them are gathered.
const GATHER: usize = 16 * 1024;

/// Largest event, or whole answer, that is read. An event holds some tokens, or the offer.
const MAX_PIECE: usize = 1024 * 1024;

/// Longest reply that is followed, in bytes. Models write a hundred thousand tokens at most.
const MAX_REPLY: usize = 512 * 1024;

/// A whole answer without this word offers nothing, and is not read.
const OFFERS: &[u8] = b"\"do_remote_decode\"";

/// What was learned from an answer so far.
#[derive(Debug, Default)]
struct Reply {
    text: String,
    /// It ended by itself.
    complete: bool,
    offer: Option<Offer>,
}

/// An answer that is being watched.
pub(super) struct Capture {
    memory: Arc<Memory>,
    turn: Turn,
    port: u16,
    /// What was not read yet.
    gathered: Vec<u8>,
    /// `None`: this answer is of no use.
    reply: Option<Reply>,
}

impl Capture {
    pub(super) fn new(memory: Arc<Memory>, turn: Turn, port: u16) -> Self {
        Self { memory, turn, port, gathered: Vec::new(), reply: Some(Reply::default()) }
    }

    fn give_up(&mut self) {
        self.reply = None;
        self.gathered = Vec::new();
    }

    /// Whether these are events, as far as can be told.
    fn is_stream(&self) -> bool {
        self.gathered.trim_ascii_start().first().is_some_and(|first| *first != b'{')
    }

    /// Reads the events that are complete. `None`: the answer is of no use.
    fn read_events(&mut self) -> Option<()> {
        let complete = memchr::memrchr(b'\n', &self.gathered).map_or(0, |end| end + 1);
        let reply = self.reply.as_mut()?;
        for line in self.gathered[..complete].split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { continue };
            if !data.is_empty() && data != b"[DONE]" {
                reply.read(data)?;
            }
        }
        self.gathered.drain(..complete);
        (self.gathered.len() <= MAX_PIECE && reply.text.len() <= MAX_REPLY).then_some(())
    }
}

impl Observer for Capture {
    fn data(&mut self, data: &[u8]) {
        if self.reply.is_none() {
            return;
        }
        self.gathered.extend_from_slice(data);
        if self.gathered.len() < GATHER {
            return;
        }
        let useful = if self.is_stream() {
            self.read_events()
        } else {
            (self.gathered.len() <= MAX_PIECE).then_some(())
        };
        if useful.is_none() {
            self.give_up();
        }
    }

    fn end(mut self: Box<Self>) {
        if self.is_stream() {
            self.gathered.push(b'\n');
            if self.read_events().is_none() {
                return;
            }
        } else if memchr::memmem::find(&self.gathered, OFFERS).is_none()
            || self.reply.as_mut().and_then(|reply| reply.read(&self.gathered)).is_none()
        {
            return;
        }
        let Some(Reply { text, complete: true, offer: Some(offer) }) = self.reply else { return };
        let plain = !text.is_empty() && text.trim() == text && !text.contains('\u{fffd}');
        if plain {
            self.memory.store().put(self.turn.answered(&text), offer, self.port, Instant::now());
        }
    }
}

/// A whole answer, or one event of a stream.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(borrow)]
    kv_transfer_params: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, alias = "delta")]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
    stop_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    #[serde(borrow)]
    refusal: Option<Cow<'a, str>>,
    tool_calls: Option<Vec<IgnoredAny>>,
    function_call: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
}

impl Reply {
    /// `None`: the answer is of no use.
    fn read(&mut self, json: &[u8]) -> Option<()> {
        let piece: Piece<'_> = serde_json::from_slice(json).ok()?;
        if piece.error.is_some() || piece.choices.len() > 1 {
            return None;
        }
        if let Some(params) = piece.kv_transfer_params {
            self.offer = Offer::read(params.get().as_bytes()).or(self.offer.take());
        }
        let Some(choice) = piece.choices.into_iter().next() else { return Some(()) };
        if choice.index != 0 || choice.stop_reason.is_some() {
            return None;
        }
        if let Some(message) = choice.message {
            let said = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|text| !text.is_empty());
            let calls =
                message.tool_calls.is_some_and(|calls| !calls.is_empty()) || message.function_call.is_some();
            let thinks = said(&message.reasoning) || said(&message.reasoning_content);
            if calls || thinks || said(&message.refusal) || message.audio.is_some() {
                return None;
            }
            self.text.push_str(message.content.as_deref().unwrap_or_default());
        }
        match choice.finish_reason.as_deref() {
            None => {}
            Some("stop") => self.complete = true,
            Some(_) => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::chat::Chat;
    use super::super::chat::tests::asked;
    use super::super::offer::tests::OFFER;
    use super::super::{BidirectionalOptions, Memory};
    use super::*;

    const FIRST: &str = r#"{"messages":[{"role":"user","content":"one"}]}"#;

    /// Whether the turn that continues the answer with `reply` finds an offer. `cut`: where the answer is cut in pieces.
    fn captured(answer: &str, reply: &str, cut: usize) -> bool {
        let memory = Arc::new(Memory::new(BidirectionalOptions::default(), 1));
        let turn = Chat::read(&asked(FIRST)).unwrap().asked;
        let mut capture = Box::new(Capture::new(Arc::clone(&memory), turn.clone(), 8000));
        for piece in answer.as_bytes().chunks(cut) {
            capture.data(piece);
        }
        capture.end();
        let key = turn.answered(reply);
        let offer = memory.store().take(&[key], Instant::now());
        assert!(offer.is_none() || offer == Offer::read(OFFER.as_bytes()));
        offer.is_some()
    }

    fn whole(message: &str, finish: &str, params: &str) -> String {
        format!(
            r#" {{"id":"x","choices":[{{"index":0,"message":{message},"logprobs":null,{finish}}}],"usage":{{}},"kv_transfer_params":{params}}}"#
        )
    }

    const STOP: &str = r#""finish_reason":"stop","stop_reason":null"#;
    const HELLO: &str = r#"{"role":"assistant","content":"Hel\u006co","tool_calls":[],"reasoning":null}"#;

    #[test]
    fn an_offer_in_a_whole_answer_is_kept_however_it_arrives() {
        for cut in [1, 7, 100_000] {
            assert!(captured(&whole(HELLO, STOP, OFFER), "Hello", cut), "{cut}");
        }
    }

    #[test]
    fn an_offer_in_a_stream_is_kept_with_the_words_put_together() {
        let event = |delta: &str, rest: &str| {
            format!(
                "data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{rest}}}]}}\r\n\r\n"
            )
        };
        let mut stream = ": hello\n\n".to_owned() + &event(r#"{"role":"assistant","content":""}"#, "null");
        for _ in 0..2000 {
            stream += &event(r#"{"content":"word "}"#, "null");
        }
        stream += &event(r#"{"content":"end"}"#, "\"stop\"");
        let last = format!(r#"data: {{"choices":[],"usage":{{}},"kv_transfer_params":{OFFER}}}"#);
        stream += &[&last, "\n\ndata: [DONE]"].concat();
        let reply = "word ".repeat(2000) + "end";
        for cut in [1, 1000, 100_000] {
            assert!(captured(&stream, &reply, cut), "{cut}");
        }
    }

    #[test]
    fn a_reply_that_a_template_renders_in_other_tokens_is_not_kept() {
        let content = |text: &str| format!(r#"{{"role":"assistant","content":"{text}"}}"#);
        for (message, finish, reply) in [
            (content("cut"), r#""finish_reason":"length""#, "cut"),
            (content("cut"), r#""finish_reason":"stop","stop_reason":"word""#, "cut"),
            (content("cut"), r#""finish_reason":"stop","stop_reason":7"#, "cut"),
            (content("open"), r#""finish_reason":null"#, "open"),
            (content(" spaced"), STOP, " spaced"),
            (content("spaced\\n"), STOP, "spaced\n"),
            (content("byte \u{fffd}"), STOP, "byte \u{fffd}"),
            (content(""), STOP, ""),
            (r#"{"content":"a","reasoning":"b"}"#.into(), STOP, "a"),
            (r#"{"content":"a","reasoning_content":"b"}"#.into(), STOP, "a"),
            (r#"{"content":"a","refusal":"b"}"#.into(), STOP, "a"),
            (r#"{"content":"a","tool_calls":[{}]}"#.into(), STOP, "a"),
        ] {
            assert!(!captured(&whole(&message, finish, OFFER), reply, 1000), "{message} {finish}");
        }
    }

    #[test]
    fn an_answer_without_an_offer_or_with_several_choices_or_an_error_leaves_nothing() {
        for answer in [
            whole(HELLO, STOP, "null"),
            whole(HELLO, STOP, &OFFER.replace("\"do_remote_decode\":true", "\"do_remote_decode\":false")),
            whole(HELLO, STOP, OFFER).replace("}],\"usage\"", "},{\"index\":1}],\"usage\""),
            whole(HELLO, STOP, OFFER).replace("\"id\":\"x\"", "\"error\":{}"),
            whole(HELLO, STOP, OFFER).replace("\"id\":\"x\"", "\"id\":"),
            String::new(),
        ] {
            assert!(!captured(&answer, "Hello", 1000), "{answer}");
        }
    }

    #[test]
    fn an_answer_beyond_the_bounds_is_let_go() {
        let memory = Arc::new(Memory::new(BidirectionalOptions::default(), 1));
        let turn = Chat::read(&asked(FIRST)).unwrap().asked;
        for (start, more) in [
            ("{", "\"x\":1,"),
            ("data: {", "\"x\":1,"),
            ("", "data: {\"choices\":[{\"delta\":{\"content\":\"xxxxxxxx\"}}]}\n\n"),
        ] {
            let mut capture = Capture::new(Arc::clone(&memory), turn.clone(), 8000);
            capture.data(start.as_bytes());
            let more = more.repeat(1000);
            for _ in 0..10_000 {
                capture.data(more.as_bytes());
                assert!(capture.gathered.len() <= MAX_PIECE + more.len());
            }
            assert!(capture.reply.is_none() && capture.gathered.capacity() == 0, "{start}");
        }
    }
}
