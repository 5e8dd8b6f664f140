//! Which parts of a request an encoder has to see, and the request that shows it one of them.
//!
//! Parts are found by their type and carried as the bytes that they are. Whatever does not have the shape of a
//! conversation has no parts here: it goes on as it came, and the engine says what is wrong with it.

use std::borrow::Cow;

use bytes::Bytes;
use kvferry_splice::{Chunks, Edits, get_path};
use serde_json::value::RawValue;

use crate::connector::PrefillLimits;
use crate::exchange::hole::Hole;
use crate::request::Asked;
use crate::request::route::Api;

/// Where an API keeps its conversation, and what in it is for an encoder.
struct Shape {
    /// The member that holds the list of entries.
    list: &'static str,
    /// The members of an entry that hold its parts.
    holders: &'static [&'static str],
    /// The types of the parts to encode.
    kinds: &'static [&'static str],
    /// A list of one entry without parts, and how far before its end they go.
    empty: (&'static str, usize),
}

const CHAT: Shape = Shape {
    list: "messages",
    holders: &["content"],
    kinds: &["image_url", "audio_url", "video_url", "input_audio", "input_image"],
    empty: (r#"[{"role":"user","content":[]}]"#, r"]}]".len()),
};

const RESPONSES: Shape = Shape {
    list: "input",
    // What tools return can hold images, too.
    holders: &["content", "output"],
    kinds: &["input_image"],
    empty: (r#"[{"type":"message","role":"user","content":[]}]"#, r"]}]".len()),
};

/// Top-level members that this needs to find.
pub(super) const WATCH: [&str; 2] = [CHAT.list, RESPONSES.list];

/// `None`: requests of this API have no parts that are encoded apart.
fn shape(api: Api) -> Option<&'static Shape> {
    match api {
        Api::ChatCompletions => Some(&CHAT),
        Api::Responses => Some(&RESPONSES),
        Api::Completions | Api::Messages | Api::VllmGenerate | Api::SglangGenerate => None,
    }
}

/// The parts to encode, in order, each as often as it occurs.
pub(super) fn parts(asked: &Asked) -> Vec<Bytes> {
    let Some(shape) = shape(asked.api) else { return Vec::new() };
    let Some(range) = asked.intake.document.value(shape.list) else { return Vec::new() };
    let list = asked.intake.body.gather(range);
    let mut parts = Vec::new();
    for entry in items(&list) {
        for holder in shape.holders {
            let held = get_path(&entry, &[holder]).unwrap_or_default();
            parts.extend(items(&held).into_iter().filter(|part| is_one_of(part, shape.kinds)));
        }
    }
    parts
}

/// The request that carries one part, with a gap for it: the client's own, of one message and one token.
pub(super) fn template(asked: &Asked) -> Option<Hole> {
    let shape = shape(asked.api)?;
    let (empty, from_end) = shape.empty;
    let edits = PrefillLimits::PerApi.apply(Edits::new().set(shape.list, empty), asked);
    let body: Chunks = edits.apply(&asked.intake.document, &asked.intake.body);
    Hole::open(&body, shape.list, from_end)
}

/// The elements of a JSON array; of anything else none.
fn items(list: &Bytes) -> Vec<Bytes> {
    if list.first() != Some(&b'[') {
        return Vec::new();
    }
    let items: Vec<&RawValue> = serde_json::from_slice(list).unwrap_or_default();
    items.into_iter().map(|item| list.slice_ref(item.get().as_bytes())).collect()
}

fn is_one_of(part: &Bytes, kinds: &[&str]) -> bool {
    get_path(part, &["type"]).is_some_and(|kind| {
        serde_json::from_slice::<Cow<'_, str>>(&kind).is_ok_and(|kind| kinds.contains(&&*kind))
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use kvferry_splice::scan;

    use super::*;
    use crate::request::intake::Intake;

    const ALL: &[&str] = &[
        "messages",
        "input",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "min_tokens",
        "sampling_params",
        "store",
        "n",
    ];

    fn asked(api: Api, body: &str) -> Asked {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let document = scan(&bytes, ALL).unwrap();
        let intake = Intake { body: Chunks::from(bytes), document };
        let id = HeaderValue::from_static("x");
        Asked { api, intake, headers: HeaderMap::new(), id, kv_source: None, port: 8000 }
    }

    fn found(api: Api, body: &str) -> Vec<String> {
        parts(&asked(api, body)).iter().map(|part| String::from_utf8(part.to_vec()).unwrap()).collect()
    }

    #[test]
    fn every_kind_of_part_is_found_wherever_it_stands_and_as_often() {
        const IMAGE: &str = r#"{"type":"image_url","image_url":{"url":"http://a/i.png","detail":1.50}}"#;
        const AUDIO: &str = r#"{"audio_url":{"url":"http://a/a"}, "type": "audio_url"}"#;
        const VIDEO: &str = r#"{"type":"video\u005furl","video_url":{"url":"v","fps":12345678901234567890}}"#;
        const INLINE: &str = r#"{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}"#;
        const INPUT: &str = r#"{"type":"input_image","image_url":"data:,x"}"#;
        const TEXT: &str = r#"{"type":"text","text":"[{\"type\":\"image_url\"}]"}"#;
        let user = |parts: &[&str]| format!(r#"{{"role":"user","content":[{}]}}"#, parts.join(" , "));
        let chat = |messages: &[String]| format!(r#"{{"messages":[{}]}}"#, messages.join(","));
        for (messages, expected) in [
            (vec![user(&[IMAGE])], vec![IMAGE]),
            (vec![user(&[IMAGE, AUDIO, VIDEO, INLINE, INPUT])], vec![IMAGE, AUDIO, VIDEO, INLINE, INPUT]),
            (vec![user(&[TEXT, IMAGE, TEXT])], vec![IMAGE]),
            (vec![user(&[AUDIO]), user(&[TEXT]), user(&[IMAGE])], vec![AUDIO, IMAGE]),
            // One URL twice is two parts: each is encoded where it stands.
            (vec![user(&[IMAGE, IMAGE])], vec![IMAGE, IMAGE]),
            (vec![user(&[TEXT])], vec![]),
            (vec![user(&[])], vec![]),
            (vec![], vec![]),
            // Shapes that are no conversation's.
            (vec![r#"{"role":"user","content":"image_url"}"#.to_owned()], vec![]),
            (vec![r#"{"role":"user","content":{"type":"image_url"}}"#.to_owned()], vec![]),
            (
                vec![r#"{"role":"user"}"#.to_owned(), "5".to_owned(), "null".to_owned(), user(&[IMAGE])],
                vec![IMAGE],
            ),
            (vec![user(&["7", "null", "[]", r#"{"type":7}"#, r"{}", r#"{"type":"image_embeds"}"#])], vec![]),
        ] {
            let body = chat(&messages);
            assert_eq!(found(Api::ChatCompletions, &body), expected, "{body}");
            assert!(found(Api::Messages, &body).is_empty());
        }
        for body in [r#"{"messages":"x"}"#, r#"{"messages":null}"#, r#"{"messages":{"content":[]}}"#, "{}"] {
            assert!(found(Api::ChatCompletions, body).is_empty(), "{body}");
        }
    }

    #[test]
    fn responses_have_images_in_messages_and_in_what_tools_returned() {
        const IMAGE: &str = r#"{"type":"input_image","image_url":"http://a/i.png"}"#;
        for (input, expected) in [
            (format!(r#"[{{"role":"user","content":[{{"type":"input_text","text":"x"}},{IMAGE}]}}]"#), 1),
            (format!(r#"[{{"type":"function_call_output","call_id":"c","output":[{IMAGE},{IMAGE}]}}]"#), 2),
            (r#"[{"type":"function_call_output","call_id":"c","output":"input_image"}]"#.to_owned(), 0),
            (r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#.to_owned(), 0),
            (r#""a text about input_image""#.to_owned(), 0),
        ] {
            let body = format!(r#"{{"model":"m","input":{input}}}"#);
            assert_eq!(found(Api::Responses, &body), vec![IMAGE; expected], "{body}");
        }
    }

    fn filled(api: Api, body: &str, part: &'static str) -> String {
        let hole = template(&asked(api, body)).unwrap();
        String::from_utf8(hole.fill(Bytes::from_static(part.as_bytes())).to_bytes().to_vec()).unwrap()
    }

    #[test]
    fn an_encoder_gets_the_clients_request_with_one_part_and_one_token() {
        let body = r#"{"model":"m","messages":[{"role":"user","content":[]}],"stream":true,"stream_options":{},
            "max_tokens":50,"min_tokens":5,"big":12345678901234567890,"z":{"b":1,"a":2.50}}"#;
        assert_eq!(
            filled(Api::ChatCompletions, body, r#"{"type":"image_url"}"#),
            r#"{"max_completion_tokens":1,"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}],"stream":false,
            "max_tokens":1,"big":12345678901234567890,"z":{"b":1,"a":2.50}}"#
        );
        assert_eq!(
            filled(Api::Responses, r#"{"input":[],"instructions":"i"}"#, r#"{"type":"input_image"}"#),
            r#"{"stream":false,"max_output_tokens":1,"store":false,"input":[{"type":"message","role":"user","content":[{"type":"input_image"}]}],"instructions":"i"}"#
        );
    }
}
