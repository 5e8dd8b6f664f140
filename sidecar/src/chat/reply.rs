//! Reads a chat's answer on its way to the client: what the reply is, and whether it is nothing but its text.
//!
//! Most of a stream is one small event for each token. They are gathered and read some dozen at a time, which costs less
//! than reading each and holds little: the gathered events, and the reply itself.
//!
//! An answer is of no use here that tells of an error or holds several choices, that calls tools, refuses or speaks, and
//! that did not end by itself or at a stop word: no next turn can be told from its text.

use std::borrow::Cow;
use std::str;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// Events are read once so many bytes of them are gathered.
const GATHER: usize = 16 * 1024;

/// Largest event, or whole answer, that is read, in bytes. An event holds some tokens, or what engines say of KV.
const MAX_PIECE: usize = 1024 * 1024;

/// What was learned from an answer so far. `K`: what is made of what its engine says of KV.
#[derive(Debug, Default)]
pub struct Reply<K> {
    /// Its text.
    pub text: String,
    /// It ended by itself, or at a stop word.
    pub complete: bool,
    /// A stop word ended it: the text was cut there.
    pub at_stop_word: bool,
    /// Reasoning came with it.
    pub thinks: bool,
    /// What its engine says of KV.
    pub kv: Option<K>,
}

/// Why an answer has no reply to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It is too long to be kept.
    TooLarge,
    /// It is no chat's answer, or one that no text tells all of.
    Useless,
}

/// An answer that is being read.
#[derive(Debug)]
pub struct Reader<K> {
    max_text: usize,
    /// What was not read yet.
    gathered: Vec<u8>,
    reply: Result<Reply<K>, Unread>,
}

impl<K: DeserializeOwned + Default> Reader<K> {
    /// `max_text`: longest reply that is kept, in bytes.
    pub fn new(max_text: usize) -> Self {
        Self { max_text, gathered: Vec::new(), reply: Ok(Reply::default()) }
    }

    /// More of the answer's body.
    pub fn data(&mut self, data: &[u8]) {
        if self.reply.is_err() {
            return;
        }
        self.gathered.extend_from_slice(data);
        if self.gathered.len() < GATHER {
            return;
        }
        let read = if self.is_stream() {
            self.read_events()
        } else if self.gathered.len() > MAX_PIECE {
            Err(Unread::TooLarge)
        } else {
            Ok(())
        };
        if let Err(why) = read {
            self.give_up(why);
        }
    }

    /// What was read so far.
    pub fn reply(&self) -> Option<&Reply<K>> {
        self.reply.as_ref().ok()
    }

    /// An answer that comes as one text, as far as it is there; `None` if it comes as events.
    pub fn whole(&self) -> Option<&[u8]> {
        (!self.is_stream()).then_some(&self.gathered)
    }

    /// Reads no further, and keeps nothing.
    pub fn give_up(&mut self, why: Unread) {
        self.reply = Err(why);
        self.gathered = Vec::new();
    }

    /// The reply of an answer that is complete.
    ///
    /// # Errors
    /// There is none to go on from.
    pub fn end(mut self) -> Result<Reply<K>, Unread> {
        if self.reply.is_ok() {
            if self.is_stream() {
                self.gathered.push(b'\n');
                self.read_events()?;
            } else {
                return Reply::of_whole(&self.gathered, self.max_text);
            }
        }
        self.reply.and_then(Reply::completed)
    }

    /// Whether these are events, as far as can be told.
    fn is_stream(&self) -> bool {
        self.gathered.trim_ascii_start().first().is_some_and(|first| *first != b'{')
    }

    /// Reads the events that are complete.
    fn read_events(&mut self) -> Result<(), Unread> {
        let complete = memchr::memrchr(b'\n', &self.gathered).map_or(0, |end| end + 1);
        let reply = self.reply.as_mut().map_err(|why| *why)?;
        for line in self.gathered[..complete].split(|byte| *byte == b'\n') {
            let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { continue };
            if !data.is_empty() && data != b"[DONE]" {
                reply.read(data).ok_or(Unread::Useless)?;
            }
        }
        self.gathered.drain(..complete);
        if self.gathered.len() > MAX_PIECE || reply.text.len() > self.max_text {
            return Err(Unread::TooLarge);
        }
        Ok(())
    }
}

/// A whole answer, or one event of a stream.
#[derive(Deserialize)]
#[serde(bound(deserialize = "K: Deserialize<'de>"))]
struct Piece<'a, K> {
    #[serde(borrow, default = "Vec::new")]
    choices: Vec<Choice<'a>>,
    kv_transfer_params: Option<K>,
    error: Option<IgnoredAny>,
}

/// A text that is copied only if it is spelled with escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    #[serde(borrow, alias = "delta")]
    message: Option<Message<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
    stop_reason: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning: Option<Text<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<Text<'a>>,
    #[serde(borrow)]
    refusal: Option<Text<'a>>,
    tool_calls: Option<Vec<IgnoredAny>>,
    function_call: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
}

impl<K: DeserializeOwned + Default> Reply<K> {
    /// The reply in an answer that comes as one text. `max_text`: longest reply that is kept, in bytes.
    ///
    /// # Errors
    /// There is none to go on from.
    pub fn of_whole(answer: &[u8], max_text: usize) -> Result<Self, Unread> {
        if answer.len() > MAX_PIECE {
            return Err(Unread::TooLarge);
        }
        let mut reply = Self::default();
        reply.read(answer).ok_or(Unread::Useless)?;
        if reply.text.len() > max_text {
            return Err(Unread::TooLarge);
        }
        reply.completed()
    }

    fn completed(self) -> Result<Self, Unread> {
        if self.complete { Ok(self) } else { Err(Unread::Useless) }
    }

    /// `None`: the answer is of no use.
    fn read(&mut self, json: &[u8]) -> Option<()> {
        // Checked once as a whole: a reader of bytes checks every text in it.
        let piece: Piece<'_, K> = serde_json::from_str(str::from_utf8(json).ok()?).ok()?;
        if piece.error.is_some() || piece.choices.len() > 1 {
            return None;
        }
        if piece.kv_transfer_params.is_some() {
            self.kv = piece.kv_transfer_params;
        }
        let Some(choice) = piece.choices.into_iter().next() else { return Some(()) };
        if choice.index != 0 {
            return None;
        }
        self.at_stop_word |= choice.stop_reason.is_some();
        if let Some(message) = choice.message {
            let said = |text: &Option<Text<'_>>| text.as_ref().is_some_and(|Text(text)| !text.is_empty());
            let calls =
                message.tool_calls.is_some_and(|calls| !calls.is_empty()) || message.function_call.is_some();
            if calls || said(&message.refusal) || message.audio.is_some() {
                return None;
            }
            self.thinks |= said(&message.reasoning) || said(&message.reasoning_content);
            if let Some(Text(said)) = &message.content {
                self.text.push_str(said);
            }
        }
        match choice.finish_reason.as_ref().map(|Text(reason)| &**reason) {
            None => {}
            Some("stop") => self.complete = true,
            Some(_) => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &str, cut: usize) -> Result<Reply<IgnoredAny>, Unread> {
        let mut reader = Reader::new(512 * 1024);
        answer.as_bytes().chunks(cut).for_each(|piece| reader.data(piece));
        reader.end()
    }

    fn text(answer: &str, cut: usize) -> Result<String, Unread> {
        read(answer, cut).map(|reply| reply.text)
    }

    fn whole(message: &str, finish: &str) -> String {
        format!(r#" {{"id":"x","choices":[{{"index":0,"message":{message},"finish_reason":{finish}}}]}}"#)
    }

    fn event(delta: &str, finish: &str) -> String {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\r\n\r\n"
        )
    }

    #[test]
    fn a_reply_is_its_text_however_it_arrives() {
        let mut stream = ": hello\n\n".to_owned() + &event(r#"{"role":"assistant","content":""}"#, "null");
        for _ in 0..2000 {
            stream += &event(r#"{"content":"word "}"#, "null");
        }
        stream += &event(r#"{"content":"end"}"#, "\"stop\"");
        stream += "data: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]";
        for cut in [1, 7, 1000, 100_000] {
            let one = whole(r#"{"role":"assistant","content":"Hel\u006co","tool_calls":[]}"#, "\"stop\"");
            assert_eq!(text(&one, cut), Ok("Hello".to_owned()), "{cut}");
            assert_eq!(text(&stream, cut), Ok("word ".repeat(2000) + "end"), "{cut}");
        }
    }

    #[test]
    fn reasoning_and_stop_words_are_told() {
        let reply = read(&whole(r#"{"content":"a","reasoning_content":"b"}"#, "\"stop\""), 9).unwrap();
        assert!(reply.thinks && !reply.at_stop_word && reply.text == "a");
        let reply = read(&whole(r#"{"content":"a"}"#, r#""stop","stop_reason":7"#), 9).unwrap();
        assert!(reply.at_stop_word && !reply.thinks);
    }

    #[test]
    fn an_answer_that_its_text_does_not_tell_all_of_has_no_reply() {
        for answer in [
            whole(r#"{"content":"cut"}"#, "\"length\""),
            whole(r#"{"content":"open"}"#, "null"),
            whole(r#"{"content":"a","refusal":"b"}"#, "\"stop\""),
            whole(r#"{"content":"a","tool_calls":[{}]}"#, "\"stop\""),
            whole(r#"{"content":"a","function_call":{}}"#, "\"stop\""),
            whole(r#"{"content":"a","audio":{}}"#, "\"stop\""),
            whole(r#"{"content":"a"}"#, "\"stop\"").replace("}]}", "},{\"index\":1}]}"),
            whole(r#"{"content":"a"}"#, "\"stop\"").replace("\"id\":\"x\"", "\"error\":{}"),
            whole(r#"{"content":"a"}"#, "\"stop\"").replace("\"id\":\"x\"", "\"id\":"),
            event(r#"{"content":"a"}"#, "null"),
            event(r#"{"content":"a"}"#, "\"stop\"") + "data: {\"error\":{\"message\":\"m\"}}\n\n",
            String::new(),
        ] {
            assert_eq!(text(&answer, 1000), Err(Unread::Useless), "{answer}");
        }
    }

    #[test]
    fn an_answer_beyond_the_bounds_is_let_go() {
        for (start, more) in [
            ("{", "\"x\":1,"),
            ("data: {", "\"x\":1,"),
            ("", "data: {\"choices\":[{\"delta\":{\"content\":\"xxxxxxxx\"}}]}\n\n"),
        ] {
            let mut reader: Reader<IgnoredAny> = Reader::new(512 * 1024);
            reader.data(start.as_bytes());
            let more = more.repeat(1000);
            for _ in 0..10_000 {
                reader.data(more.as_bytes());
                assert!(reader.gathered.len() <= MAX_PIECE + more.len());
            }
            assert_eq!(reader.gathered.capacity(), 0, "{start}");
            assert_eq!(reader.end().err(), Some(Unread::TooLarge), "{start}");
        }
    }
}
