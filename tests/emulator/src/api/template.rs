//! A conversation as tokens: a stand-in for a chat template.
//!
//! Text that this emulator generated becomes the very tokens it was generated as. So an answer that comes back,
//! to be continued or as history, continues the KV that it had, as a real tokenizer's round trip would have it.

use serde_json::Value;

use crate::error::ApiError;
use crate::tokens;

/// How a rendered conversation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With the beginning of an assistant's turn, to be answered.
    Reply,
    /// After the last turn.
    Closed,
    /// Inside the last turn, to be continued.
    Open,
}

impl Ending {
    /// What `add_generation_prompt` (true, unless said) and `continue_final_message` ask for.
    ///
    /// # Errors
    /// When both are on.
    pub(crate) fn of(add_prompt: Option<bool>, continue_last: bool) -> Result<Self, ApiError> {
        match (add_prompt.unwrap_or(true), continue_last) {
            (true, false) => Ok(Self::Reply),
            (false, false) => Ok(Self::Closed),
            (false, true) => Ok(Self::Open),
            (true, true) => Err(ApiError::schema(
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
            )),
        }
    }
}

/// Text that grows, and the tokens of what cannot change any more.
#[derive(Default)]
struct Rendered {
    done: Vec<u32>,
    text: String,
}

impl Rendered {
    fn tokens(&mut self, tokens: &[u32]) {
        self.done.extend(tokens::encode(&std::mem::take(&mut self.text)));
        self.done.extend_from_slice(tokens);
    }

    fn turn(&mut self, role: &str, content: &Value, open: bool) {
        let spelled = content.as_str().filter(|_| role == "assistant").map(tokens::split_spelled);
        self.text.extend(["<|", role, "|>"]);
        match spelled {
            Some((head, tokens)) if !tokens.is_empty() => {
                // Without a head, the tokens follow where a reply begins.
                if !head.is_empty() {
                    self.text.extend([" ", head]);
                }
                self.tokens(&tokens);
            }
            // Nothing yet: to be continued where a reply begins.
            Some(("", _)) if open => {}
            _ => {
                self.text.push(' ');
                push_content(&mut self.text, content);
            }
        }
        if !open {
            self.text.push('\n');
        }
    }
}

/// The role-tagged text of a conversation; no turns and no tools are no tokens.
pub(crate) fn render<'a>(
    turns: impl IntoIterator<Item = (&'a str, &'a Value)>,
    tools: Option<&Value>,
    ending: Ending,
) -> Vec<u32> {
    let mut rendered = Rendered::default();
    if let Some(tools) = tools.filter(|tools| !tools.is_null()) {
        rendered.text.extend(["<|tools|> ", &tools.to_string(), "\n"]);
    }
    let mut turns = turns.into_iter().peekable();
    while let Some((role, content)) = turns.next() {
        rendered.turn(role, content, ending == Ending::Open && turns.peek().is_none());
    }
    if rendered.done.is_empty() && rendered.text.is_empty() {
        return Vec::new();
    }
    if ending == Ending::Reply {
        rendered.text.push_str("<|assistant|>");
    }
    rendered.tokens(&[]);
    rendered.done
}

/// The turns of a `messages` or `input` array.
pub(crate) fn turns(items: &[Value]) -> Result<Vec<(&str, &Value)>, ApiError> {
    const NOTHING: &Value = &Value::Null;
    items
        .iter()
        .map(|item| {
            let item =
                item.as_object().ok_or_else(|| ApiError::schema("messages must be a list of objects"))?;
            let role = item.get("role").or(item.get("type")).and_then(Value::as_str).unwrap_or("user");
            Ok((role, item.get("content").unwrap_or(NOTHING)))
        })
        .collect()
}

/// Text as it is; parts one after the other, those without text as their JSON.
fn push_content(rendered: &mut String, content: &Value) {
    match content {
        Value::Null => {}
        Value::String(text) => rendered.push_str(text),
        Value::Array(parts) => parts.iter().for_each(|part| push_content(rendered, part)),
        Value::Object(part) => match part.get("text") {
            Some(Value::String(text)) => rendered.push_str(text),
            _ => rendered.push_str(&content.to_string()),
        },
        other => rendered.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tokens(messages: &Value, ending: Ending) -> Vec<u32> {
        render(turns(messages.as_array().unwrap()).unwrap(), None, ending)
    }

    #[test]
    fn an_answer_that_comes_back_is_the_tokens_it_was() {
        let answer = [5, 31_000, 77];
        let asked = json!([{"role": "user", "content": "hello"}]);
        let expected = [tokens(&asked, Ending::Reply), answer.to_vec()].concat();
        let with = |text: &str| json!([asked[0], {"role": "assistant", "content": text}]);
        let open = tokens(&with(&tokens::decode(&answer)), Ending::Open);
        assert_eq!(open, expected);
        let mut history = with(&tokens::decode(&answer));
        history.as_array_mut().unwrap().push(json!({"role": "user", "content": "more"}));
        assert!(tokens(&history, Ending::Reply).starts_with(&expected));
        assert_eq!(tokens(&with(""), Ending::Open), tokens(&asked, Ending::Reply));
    }

    #[test]
    fn a_beginning_of_the_clients_own_stays_where_it_is() {
        let with = |text: &str| json!([{"role": "assistant", "content": text}]);
        let begun = tokens(&with("Once upon a time"), Ending::Open);
        let continued = tokens(&with(&format!("Once upon a time{}", tokens::decode(&[9, 8]))), Ending::Open);
        assert_eq!(continued, [begun, vec![9, 8]].concat());
    }

    #[test]
    fn plain_history_is_rendered_as_one_text() {
        let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}]);
        let expected = tokens::encode("<|user|> a\n<|assistant|> b c\n<|assistant|>");
        assert_eq!(tokens(&messages, Ending::Reply), expected);
        assert_eq!(tokens(&messages, Ending::Closed), tokens::encode("<|user|> a\n<|assistant|> b c\n"));
    }

    #[test]
    fn a_turn_is_not_answered_and_continued_at_once() {
        assert_eq!(Ending::of(None, false).unwrap(), Ending::Reply);
        assert_eq!(Ending::of(Some(false), true).unwrap(), Ending::Open);
        assert!(Ending::of(None, true).is_err() && Ending::of(Some(true), true).is_err());
    }
}
