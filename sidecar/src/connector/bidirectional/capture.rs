//! Reads a decode answer on its way to the client: the reply, and what the engine offers.
//!
//! Only a reply whose tokens are what a template will make of it again is worth an offer: plain text that ended by itself.
//! Calls, reasoning, and text that was cut at a stop word or at a limit are rendered in other tokens than they were
//! generated in, and KV of other tokens would be a wrong answer. So would white space around the text, which templates
//! trim, and bytes that are no text.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use kvferry_splice::Finder;

use super::Memory;
use super::chat::Turn;
use super::offer::Offered;
use crate::chat::reply::{Reader, Reply, Unread};
use crate::connector::Observer;

/// Longest reply that is followed, in bytes. Models write a hundred thousand tokens at most.
const MAX_REPLY: usize = 512 * 1024;

/// A whole answer without this word offers nothing, and is not read.
static OFFERS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"do_remote_decode\""));

/// An answer that is being watched.
pub(super) struct Capture {
    memory: Arc<Memory>,
    turn: Turn,
    port: u16,
    reader: Reader<Offered>,
}

impl Capture {
    pub(super) fn new(memory: Arc<Memory>, turn: Turn, port: u16) -> Self {
        Self { memory, turn, port, reader: Reader::new(MAX_REPLY) }
    }
}

impl Observer for Capture {
    fn data(&mut self, data: &[u8]) {
        self.reader.data(data);
        if self.reader.reply().is_some_and(|reply| reply.thinks || reply.at_stop_word) {
            self.reader.give_up(Unread::Useless);
        }
    }

    fn end(self: Box<Self>) {
        let Self { memory, turn, port, reader } = *self;
        if reader.whole().is_some_and(|whole| OFFERS.find(whole).is_none()) {
            return;
        }
        if let Ok(reply) = reader.end() {
            keep(&memory, &turn, port, reply);
        }
    }

    fn whole(self: Box<Self>, answer: &[u8]) {
        if OFFERS.find(answer).is_some()
            && let Ok(reply) = Reply::of_whole(answer, MAX_REPLY)
        {
            keep(&self.memory, &self.turn, self.port, reply);
        }
    }
}

/// Keeps the offer that came with a reply, if it is worth it.
fn keep(memory: &Memory, turn: &Turn, port: u16, reply: Reply<Offered>) {
    let Some(Offered(Some(offer))) = reply.kv else { return };
    let text = &reply.text;
    let cut = reply.thinks || reply.at_stop_word;
    if !cut && !text.is_empty() && text.trim() == text && !text.contains('\u{fffd}') {
        memory.store().put(turn.answered(text), offer, port, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::super::chat::Chat;
    use super::super::chat::tests::asked;
    use super::super::offer::tests::{OFFER, read};
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
        if answer.trim_start().starts_with('{') {
            Box::new(Capture::new(Arc::clone(&memory), turn, 8000)).whole(answer.as_bytes());
            assert_eq!(memory.store().take(&[key], Instant::now()), offer, "read in one piece");
        }
        assert!(offer.is_none() || offer == read(OFFER));
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
}
