//! Brings two answers to what must be equal in them.

use serde_json::Value;

use super::Answer;

/// `value` without the members called one of `names`, at any depth.
pub(crate) fn without(mut value: Value, names: &[&str]) -> Value {
    match &mut value {
        Value::Object(members) => {
            members.retain(|name, _| !names.contains(&name.as_str()));
            for member in members.values_mut() {
                *member = without(member.take(), names);
            }
        }
        Value::Array(items) => {
            for item in items {
                *item = without(item.take(), names);
            }
        }
        _ => {}
    }
    value
}

/// The payloads of a stream of events, parsed; the end marker as a string.
pub(crate) fn events(text: &str) -> Vec<Value> {
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into()))
        .collect()
}

/// An answer's content, streamed or not, without what differs between any two answers to one request.
pub(crate) fn content(answer: &Answer, besides: &[&str]) -> Value {
    let names = [&["created", "created_at"], besides].concat();
    let content = if answer.header("content-type").starts_with("text/event-stream") {
        events(&answer.text()).into()
    } else {
        answer.json()
    };
    without(content, &names)
}
