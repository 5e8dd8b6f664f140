//! Chunks' answers put together: one message for a client that waits for the whole, events in the engine's own shape for
//! one that does not.
//!
//! The client sees one generation: one id, one role, one finish reason at the very end, one usage.

use bytes::Bytes;
use kvferry_splice::{Chunks, Edits, get_path, scan};
use serde_json::Value;
use serde_json::value::RawValue;

/// The finish reason of a chunk after which another one may follow.
const CUT: &str = "length";

/// Stands at the end of a text whose last character was cut in the middle.
const BROKEN_CHARACTER: char = '\u{FFFD}';

/// The answer of one chunk.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    answer: Bytes,
    choice: Bytes,
    message: Bytes,
    text: String,
    finish: Option<String>,
}

impl Chunk {
    /// `None`: it is no chat completion with one choice.
    pub(super) fn read(answer: &Bytes) -> Option<Self> {
        let choices = get_path(answer, &["choices"])?;
        let [choice]: [&RawValue; 1] = serde_json::from_slice(&choices).ok()?;
        let choice = choices.slice_ref(choice.get().as_bytes());
        let message = get_path(&choice, &["message"])?;
        let string = |json: Option<Bytes>| -> Option<Option<String>> {
            json.map_or(Some(None), |json| serde_json::from_slice(&json).ok())
        };
        let text = string(get_path(&message, &["content"]))?.unwrap_or_default();
        let finish = string(get_path(&choice, &["finish_reason"]))?;
        Some(Self { answer: answer.clone(), choice, message, text, finish })
    }

    /// Whether the engine stopped only because it was told to.
    pub(super) fn was_cut(&self) -> bool {
        self.finish.as_deref() == Some(CUT)
    }

    /// Whether it was, and said anything to go on from.
    fn may_go_on(&self) -> bool {
        self.was_cut() && !self.is_empty()
    }

    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether the message is its text and nothing else: only that can be handed to the next chunk.
    pub(super) fn is_only_text(&self) -> bool {
        let empty = |value: &Value| match value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        let message = serde_json::from_slice::<serde_json::Map<String, Value>>(&self.message);
        message.is_ok_and(|message| {
            message.iter().all(|(name, value)| matches!(&**name, "role" | "content") || empty(value))
        })
    }

    /// Tokens that it took, if it says so.
    pub(super) fn completion_tokens(&self) -> Option<u64> {
        number(&self.answer, &["usage", "completion_tokens"])
    }
}

/// The answer as it grows.
#[derive(Debug)]
pub(super) struct Grown {
    first: Bytes,
    last: Chunk,
    text: String,
    completion_tokens: u64,
    chunks: u64,
    /// Nothing is to follow, whatever the last chunk says.
    closed: bool,
}

impl Grown {
    /// Begins with the first chunk, which was asked for `limit` tokens.
    pub(super) fn new(first: Chunk, limit: u64) -> Self {
        let mut grown = Self {
            first: first.answer.clone(),
            last: first.clone(),
            text: String::new(),
            completion_tokens: 0,
            chunks: 0,
            closed: false,
        };
        grown.take(first, limit);
        grown
    }

    /// Adds a chunk that was asked for `limit` tokens; returns what it adds to the text.
    pub(super) fn take(&mut self, chunk: Chunk, limit: u64) -> &str {
        // An engine that was stopped by the limit has used it.
        self.completion_tokens += chunk.completion_tokens().unwrap_or(limit);
        self.chunks += 1;
        let from = self.text.len();
        let text = if chunk.may_go_on() { whole_characters(&chunk.text) } else { &chunk.text };
        self.text.push_str(text);
        self.last = chunk;
        &self.text[from..]
    }

    /// Tokens so far.
    pub(super) fn completion_tokens(&self) -> u64 {
        self.completion_tokens
    }

    /// Chunks so far.
    pub(super) fn chunks(&self) -> u64 {
        self.chunks
    }

    /// There is no room for more.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Tokens left of `budget`.
    pub(super) fn left(&self, budget: Option<u64>) -> Option<u64> {
        budget.map(|budget| budget.saturating_sub(self.completion_tokens))
    }

    /// Whether nothing is to follow.
    pub(super) fn is_complete(&self, budget: Option<u64>) -> bool {
        self.closed || !self.last.may_go_on() || self.left(budget) == Some(0)
    }

    /// All of it so far.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The whole answer: the first chunk's, with the last one's end.
    pub(super) fn answer(&self) -> Bytes {
        let text = Bytes::from(Value::from(self.text.as_str()).to_string());
        let message = set(&self.last.message, &[("content", text)]);
        let choice = set(&self.last.choice, &[("message", message)]);
        let choices = [b"[", &choice[..], b"]"].concat().into();
        match self.usage() {
            None => set(&self.first, &[("choices", choices)]),
            Some(usage) => set(&self.first, &[("choices", choices), ("usage", usage)]),
        }
    }

    /// The first chunk's usage, for the whole answer.
    fn usage(&self) -> Option<Bytes> {
        const DETAILS: &str = "completion_tokens_details";
        let usage = get_path(&self.first, &["usage"]).filter(|usage| usage.first() == Some(&b'{'))?;
        let completion = self.completion_tokens;
        let total = number(&usage, &["prompt_tokens"]).unwrap_or_default() + completion;
        let mut changes = vec![
            ("completion_tokens", completion.to_string().into()),
            ("total_tokens", total.to_string().into()),
        ];
        if get_path(&usage, &[DETAILS]).is_some() {
            // They are those of one chunk.
            changes.push((DETAILS, Bytes::from_static(b"null")));
        }
        Some(set(&usage, &changes))
    }

    /// The event that adds `text`; the first one names the role, the last one says why it is the last.
    pub(super) fn event(&self, text: &str, is_first: bool, is_last: bool) -> String {
        let text = Value::from(text);
        let delta = match (is_first, is_last) {
            // A message in one piece may be more than text.
            (true, true) => String::from_utf8_lossy(&self.last.message).into_owned(),
            (true, false) => format!(r#"{{"role":"assistant","content":{text}}}"#),
            (false, _) => format!(r#"{{"content":{text}}}"#),
        };
        let raw = |name: &str| get_path(&self.last.choice, &[name]).filter(|_| is_last);
        let reason = raw("finish_reason").unwrap_or(Bytes::from_static(b"null"));
        let reason = String::from_utf8_lossy(&reason);
        let stop = raw("stop_reason")
            .map(|stop| format!(r#","stop_reason":{}"#, String::from_utf8_lossy(&stop)))
            .unwrap_or_default();
        self.frame(&format!(
            r#""choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{reason}{stop}}}]"#
        ))
    }

    /// The event that carries the usage; `None` if the engine gives none.
    pub(super) fn usage_event(&self) -> Option<String> {
        let usage = self.usage()?;
        Some(self.frame(&format!(r#""choices":[],"usage":{}"#, String::from_utf8_lossy(&usage))))
    }

    /// The payload of one event.
    fn frame(&self, rest: &str) -> String {
        let mut frame = String::from("{");
        for name in ["id", "object", "created", "model"] {
            let value = match name {
                "object" => Some(Bytes::from_static(br#""chat.completion.chunk""#)),
                name => get_path(&self.first, &[name]),
            };
            if let Some(value) = value {
                frame.extend(["\"", name, "\":", &String::from_utf8_lossy(&value), ","]);
            }
        }
        frame + rest + "}"
    }
}

/// `text` without a last character that is not all there: the next chunk begins before it. A text of nothing else stays,
/// or there would be no progress.
fn whole_characters(text: &str) -> &str {
    Some(text.trim_end_matches(BROKEN_CHARACTER)).filter(|whole| !whole.is_empty()).unwrap_or(text)
}

/// The object with these members; what is no object stays as it is.
fn set(object: &Bytes, members: &[(&str, Bytes)]) -> Bytes {
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let Ok(document) = scan(object, &names) else { return object.clone() };
    let edits = members.iter().fold(Edits::new(), |edits, (name, value)| edits.set(name, value.clone()));
    edits.apply(&document, &Chunks::from(object.clone())).to_bytes()
}

fn number(object: &Bytes, path: &[&str]) -> Option<u64> {
    std::str::from_utf8(&get_path(object, path)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(text: &str, finish: &str, tokens: u64) -> Chunk {
        let text = Value::from(text);
        let answer = format!(
            r#"{{"id":"chat-1","object":"chat.completion","created":17,"model":"m","choices":[{{"index":0,"message":{{"role":"assistant","content":{text},"tool_calls":[],"refusal":null}},"logprobs":null,"finish_reason":"{finish}","stop_reason":null}}],"usage":{{"prompt_tokens":5,"total_tokens":{},"completion_tokens":{tokens},"completion_tokens_details":{{"x":1}}}},"kv_transfer_params":null}}"#,
            tokens + 5
        );
        Chunk::read(&answer.into()).unwrap()
    }

    #[test]
    fn chunks_become_one_message_with_one_usage() {
        let mut grown = Grown::new(chunk("one", "length", 10), 10);
        assert!(!grown.is_complete(Some(25)));
        assert_eq!(grown.left(Some(25)), Some(15));
        assert_eq!(grown.take(chunk(" two", "length", 10), 10), " two");
        assert!(!grown.is_complete(Some(25)));
        assert!(grown.is_complete(Some(20)));
        assert_eq!(grown.take(chunk(" \"three\"", "stop", 3), 5), " \"three\"");
        assert!(grown.is_complete(None));
        assert_eq!(
            grown.answer(),
            r#"{"id":"chat-1","object":"chat.completion","created":17,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"one two \"three\"","tool_calls":[],"refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":5,"total_tokens":28,"completion_tokens":23,"completion_tokens_details":null},"kv_transfer_params":null}"#
        );
    }

    #[test]
    fn an_answer_ends_when_nothing_more_can_come() {
        for (text, finish, complete) in [
            ("a", "length", false),
            ("a", "stop", true),
            ("a", "tool_calls", true),
            ("a", "abort", true),
            ("", "length", true),
        ] {
            let mut grown = Grown::new(chunk(text, finish, 1), 10);
            assert_eq!(grown.is_complete(None), complete, "{text} {finish}");
            grown.close();
            assert!(grown.is_complete(None));
        }
    }

    #[test]
    fn events_have_the_engines_shape_and_only_the_last_has_a_finish_reason() {
        const HEAD: &str =
            r#"{"id":"chat-1","object":"chat.completion.chunk","created":17,"model":"m","choices":["#;
        let mut grown = Grown::new(chunk("one", "length", 2), 2);
        assert_eq!(
            grown.event("one", true, false),
            format!(
                r#"{HEAD}{{"index":0,"delta":{{"role":"assistant","content":"one"}},"logprobs":null,"finish_reason":null}}]}}"#
            )
        );
        grown.take(chunk("!", "stop", 1), 2);
        assert_eq!(
            grown.event("!", false, true),
            format!(
                r#"{HEAD}{{"index":0,"delta":{{"content":"!"}},"logprobs":null,"finish_reason":"stop","stop_reason":null}}]}}"#
            )
        );
        assert_eq!(
            grown.usage_event().unwrap(),
            format!(
                r#"{HEAD}],"usage":{{"prompt_tokens":5,"total_tokens":8,"completion_tokens":3,"completion_tokens_details":null}}}}"#
            )
        );
    }

    #[test]
    fn a_character_that_was_cut_is_left_to_the_next_chunk() {
        let mut grown = Grown::new(chunk("caf\u{FFFD}\u{FFFD}", "length", 3), 3);
        assert_eq!(grown.text(), "caf");
        assert_eq!(grown.take(chunk("é \u{FFFD}", "stop", 3), 3), "é \u{FFFD}");
        // No progress is worse than a broken character.
        assert_eq!(Grown::new(chunk("\u{FFFD}", "length", 3), 3).text(), "\u{FFFD}");
    }

    #[test]
    fn a_message_that_is_more_than_text_is_told_apart() {
        let read = |message: &str| {
            let answer = format!(r#"{{"choices":[{{"message":{message},"finish_reason":"length"}}]}}"#);
            Chunk::read(&answer.into()).map(|chunk| (chunk.is_only_text(), chunk.is_empty()))
        };
        assert_eq!(
            read(r#"{"role":"assistant","content":"x","reasoning":null,"annotations":[]}"#),
            Some((true, false))
        );
        assert_eq!(read(r#"{"role":"assistant","content":"x","reasoning":"so"}"#), Some((false, false)));
        assert_eq!(
            read(r#"{"role":"assistant","content":null,"reasoning_content":"so"}"#),
            Some((false, true))
        );
        assert_eq!(read(r#"{"role":"assistant","content":""}"#), Some((true, true)));
        assert_eq!(read(r#"{"content":5}"#), None);
        for answer in
            ["{}", "[]", "", r#"{"choices":[]}"#, r#"{"choices":[{},{}]}"#, r#"{"choices":[{"text":"x"}]}"#]
        {
            assert!(Chunk::read(&Bytes::copy_from_slice(answer.as_bytes())).is_none(), "{answer}");
        }
    }
}
