//! A chat's request: whether its reply will be a message of the next turn, and the members that its prompt is made from.

use bytes::Bytes;

use crate::request::intake::Intake;
use crate::request::route::Api;

/// What was said so far.
pub const MESSAGES: &str = "messages";

/// Members besides the messages that shape the prompt, or say which KV is its. The cache salt among them keeps tenants
/// apart.
const SHAPING: [&str; 15] = [
    "model",
    "cache_salt",
    "tools",
    "tool_choice",
    "chat_template",
    "chat_template_kwargs",
    "documents",
    "reasoning_effort",
    "add_special_tokens",
    "add_generation_prompt",
    "continue_final_message",
    "mm_processor_kwargs",
    "media_io_kwargs",
    "lora_path",
    "extra_key",
];

/// Members that make a request another one than a turn of a chat.
const OTHERWISE: [&str; 3] = ["n", "truncate_prompt_tokens", "echo"];

/// What has to be found in a body.
pub const WATCH: [&str; 1 + OTHERWISE.len() + SHAPING.len()] = {
    let mut watch = [MESSAGES; 1 + OTHERWISE.len() + SHAPING.len()];
    let mut at = 0;
    while at < OTHERWISE.len() {
        watch[1 + at] = OTHERWISE[at];
        at += 1;
    }
    at = 0;
    while at < SHAPING.len() {
        watch[1 + OTHERWISE.len() + at] = SHAPING[at];
        at += 1;
    }
    watch
};

/// A request whose reply will be one message, behind those that it brings.
#[derive(Debug, Clone, Copy)]
pub struct ChatRequest<'a>(&'a Intake);

impl<'a> ChatRequest<'a> {
    /// `None`: another API, several choices, a prompt that is cut, or a reply that is no message of its own.
    pub fn of(api: Api, intake: &'a Intake) -> Option<Self> {
        let chat = Self(intake);
        let is =
            |name: &str, one_of: &[&[u8]]| chat.member(name).is_none_or(|value| one_of.contains(&&value[..]));
        let plain = is("n", &[b"1"])
            && is("truncate_prompt_tokens", &[])
            && is("echo", &[b"false"])
            && is("continue_final_message", &[b"false"])
            && is("add_generation_prompt", &[b"true"]);
        (api == Api::ChatCompletions && plain).then_some(chat)
    }

    /// The value of a member, as it stands there; `None` also if that is null.
    pub fn member(self, name: &str) -> Option<Bytes> {
        let range = self.0.document.value(name)?;
        Some(self.0.body.gather(range)).filter(|value| &value[..] != b"null")
    }

    /// The members that shape the prompt, each with its name and a number that is always its own.
    pub fn shaping(self) -> impl Iterator<Item = (u8, &'static str, Bytes)> {
        (0..).zip(SHAPING).filter_map(move |(number, name)| Some((number, name, self.member(name)?)))
    }
}
