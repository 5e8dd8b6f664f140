//! Chats by their content: which earlier turns a request continues, and what it will be continued as.
//!
//! A turn's key is a hash over everything that shapes the prompt and over all messages up to and including the reply. The
//! hash goes on where the turn before ended, so that one pass over a request gives the keys of all its beginnings.

use sha2::{Digest, Sha256};

use super::canonical::{Reader, write, write_texts};
use crate::chat::request::{self, ChatRequest};
use crate::request::Asked;

/// Identifies a chat up to some message.
pub(super) type Key = [u8; 32];

/// What has to be found in a body.
pub(in crate::connector) const WATCH: [&str; 1 + request::WATCH.len()] = {
    let mut watch = [super::super::nixlv2::KV; 1 + request::WATCH.len()];
    let mut at = 0;
    while at < request::WATCH.len() {
        watch[1 + at] = request::WATCH[at];
        at += 1;
    }
    watch
};

/// Messages beyond this many bytes are not looked at: hashing them would hold up everybody else on this thread.
const MAX_MESSAGES: usize = 4 * 1024 * 1024;

/// What a reply's form takes besides its text, in bytes, and some more.
const REPLY_AROUND_TEXT: usize = 48;

/// One request of a chat.
#[derive(Debug)]
pub(super) struct Chat {
    /// Of the turns before that ended with a reply, the longest first.
    pub(super) earlier: Vec<Key>,
    /// Of this request's messages, without the reply to come.
    pub(super) asked: Turn,
}

/// Messages that wait for their reply.
#[derive(Debug, Clone)]
pub(super) struct Turn(Sha256);

impl Turn {
    /// The key of the turn once it was answered with this text.
    pub(super) fn answered(&self, text: &str) -> Key {
        let mut form = Vec::with_capacity(text.len() + REPLY_AROUND_TEXT);
        write_texts([("content", text), ("role", "assistant")], &mut form);
        self.0.clone().chain_update(form).finalize().into()
    }
}

impl Chat {
    /// `None` if this is no chat that can be continued from KV: another API, several choices, a prompt that is cut, or a
    /// reply that is no message of its own.
    pub(super) fn read(asked: &Asked) -> Option<Self> {
        let chat = ChatRequest::of(asked.api, &asked.intake)?;
        let messages = chat.member(request::MESSAGES).filter(|messages| messages.len() <= MAX_MESSAGES)?;
        let mut form = Vec::with_capacity(messages.len());
        shape(chat, &mut form)?;
        let mut hash = Sha256::new_with_prefix(&form);
        form.clear();
        let (mut earlier, mut open) = (Vec::new(), false);
        Reader::new(&messages).list(|list| {
            let mut message = list.object(&mut form)?;
            open = message.says(&form, "role", "assistant");
            if open {
                // Clients send back what their library makes of a reply: what it lacks is null or an empty list.
                message.drop_empty(&form);
            }
            message.settle(&mut form);
            hash.update(&form);
            form.clear();
            if open {
                earlier.push(hash.clone().finalize().into());
            }
            Some(())
        })?;
        // A reply at the end was not asked for yet: it would be continued, not followed.
        if open {
            earlier.pop();
        }
        earlier.reverse();
        Some(Self { earlier, asked: Turn(hash) })
    }
}

/// What shapes the prompt besides the messages. Each member that is there goes in under its number, so those that are
/// not, which is most of them, cost nothing. Every value ends where it says, so numbers and values cannot be mistaken.
fn shape(chat: ChatRequest<'_>, form: &mut Vec<u8>) -> Option<()> {
    for (number, _, value) in chat.shaping() {
        form.push(number);
        write(&value, form)?;
    }
    Some(())
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue};
    use kvferry_splice::{Chunks, scan};

    use super::*;
    use crate::request::intake::Intake;
    use crate::request::route::Api;

    /// A request as connectors see it.
    pub(crate) fn asked(body: &str) -> Asked {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let document = scan(&body, &WATCH).unwrap();
        Asked {
            api: Api::ChatCompletions,
            intake: Intake { body: Chunks::from(body), document },
            headers: HeaderMap::new(),
            id: HeaderValue::from_static("id"),
            kv_source: None,
            port: 8000,
        }
    }

    fn chat(body: &str) -> Chat {
        Chat::read(&asked(body)).unwrap()
    }

    const FIRST: &str = r#"{"model":"m","messages":[{"role":"user","content":"one"}]}"#;
    const SECOND: &str = r#"{"model":"m","messages":[{"role":"user","content":"one"},
        {"role":"assistant","content":"two"},{"role":"user","content":"three"}]}"#;

    #[test]
    fn a_turn_is_found_again_in_the_next() {
        let answered = chat(FIRST).asked.answered("two");
        assert_eq!(chat(SECOND).earlier, [answered]);
        assert!(chat(FIRST).earlier.is_empty());
    }

    #[test]
    fn of_several_turns_the_longest_comes_first() {
        let third =
            SECOND.replace("]}", r#",{"role":"assistant","content":"four"},{"role":"user","content":"5"}]}"#);
        let second = chat(SECOND).asked.answered("four");
        let first = chat(FIRST).asked.answered("two");
        assert_eq!(chat(&third).earlier, [second, first]);
    }

    #[test]
    fn layout_and_what_libraries_add_to_a_reply_do_not_matter() {
        let answered = chat(FIRST).asked.answered("two");
        let same = SECOND.replace(
            r#"{"role":"assistant","content":"two"}"#,
            r#"{ "refusal": null, "content" : "\u0074wo", "tool_calls":[], "role":"assistant" }"#,
        );
        assert_eq!(chat(&same.replace('\n', "")).earlier, [answered]);
        assert_eq!(
            chat(&same.replace("\"m\"", "\"m\",\"temperature\":0.3,\"tools\":null")).earlier,
            [answered]
        );
    }

    #[test]
    fn any_change_of_what_the_prompt_is_made_from_is_another_chat() {
        let answered = chat(FIRST).asked.answered("two");
        for (from, to) in [
            ("one", "One"),
            ("two", "two "),
            ("\"user\",\"content\":\"one\"", "\"system\",\"content\":\"one\""),
            ("\"content\":\"one\"", "\"content\":\"one\",\"name\":\"x\""),
            ("\"content\":\"two\"", "\"content\":[{\"type\":\"text\",\"text\":\"two\"}]"),
            ("\"model\":\"m\"", "\"model\":\"m2\""),
            ("\"model\":\"m\"", "\"model\":\"m\",\"cache_salt\":\"tenant\""),
            ("\"model\":\"m\"", "\"model\":\"m\",\"tools\":[{}]"),
            ("\"model\":\"m\"", "\"model\":\"m\",\"chat_template_kwargs\":{\"enable_thinking\":false}"),
            ("\"model\":\"m\"", "\"model\":\"m\",\"reasoning_effort\":\"low\""),
        ] {
            let other = SECOND.replacen(from, to, 1);
            assert_ne!(other, SECOND);
            assert_ne!(chat(&other).earlier, [answered], "{to}");
        }
    }

    #[test]
    fn a_reply_that_is_to_be_continued_is_no_earlier_turn() {
        let open = r#"{"messages":[{"role":"user","content":"one"},{"role":"assistant","content":"two"}]}"#;
        assert!(chat(open).earlier.is_empty());
    }

    #[test]
    fn what_cannot_be_continued_from_kv_is_no_chat() {
        for member in [
            "\"n\":2",
            "\"truncate_prompt_tokens\":100",
            "\"echo\":true",
            "\"continue_final_message\":true",
            "\"add_generation_prompt\":false",
            "\"messages\":\"hello\"",
            "\"messages\":[\"hello\"]",
            "\"messages\":null",
        ] {
            let body = FIRST.replace("]}", &format!("],{member}}}"));
            assert!(Chat::read(&asked(&body)).is_none(), "{member}");
        }
        let mut other = asked(FIRST);
        other.api = Api::Completions;
        assert!(Chat::read(&other).is_none());
        let huge = FIRST.replace("one", &"x".repeat(MAX_MESSAGES));
        assert!(Chat::read(&asked(&huge)).is_none());
    }
}
