//! For any JSON object, an edit leaves every byte but the edited members' as it was.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use bytes::Bytes;
use kvferry_splice::{Chunks, Edits, scan};
use proptest::prelude::*;

const WATCH: [&str; 3] = ["stream", "max_tokens", "kv_transfer_params"];

/// One member as text: white space, key as spelled, value as spelled.
#[derive(Debug, Clone)]
struct Text {
    before: String,
    key: String,
    colon: String,
    value: String,
    after: String,
}

impl Text {
    fn name(&self) -> String {
        serde_json::from_str(&self.key).unwrap()
    }
    fn with_value(&self, value: &str) -> String {
        format!("{}{}{}{}{}", self.before, self.key, self.colon, value, self.after)
    }
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,3}"
}

fn string_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z{}\\[\\]:, é漢]{0,12}".prop_map(|text| format!("\"{text}\"")),
        Just(r#""\"\\\/\b\f\n\r\t\u0041\ud83d\ude00\ud800""#.to_owned()),
        Just("\"<&>\u{2028}\"".to_owned()),
    ]
}

fn key_text() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("\"stream\"".to_owned()),
        1 => Just(r#""str\u0065am""#.to_owned()),
        1 => Just(r#""\u006d\u0061x_tokens""#.to_owned()),
        1 => Just("\"max_tokens\"".to_owned()),
        1 => Just("\"streams\"".to_owned()),
        1 => Just("\"\"".to_owned()),
        4 => string_text().prop_map(|text| text.replace(r"\ud800", "")),
    ]
}

fn value_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?",
        string_text(),
    ];
    leaf.prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            (proptest::collection::vec((space(), inner.clone(), space()), 0..5)).prop_map(|items| {
                let items: Vec<String> = items.into_iter().map(|(a, v, b)| format!("{a}{v}{b}")).collect();
                format!("[{}]", items.join(","))
            }),
            (proptest::collection::vec((space(), key_text(), space(), inner), 0..5)).prop_map(|members| {
                let members: Vec<String> =
                    members.into_iter().map(|(a, k, b, v)| format!("{a}{k}{b}:{v}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn members() -> impl Strategy<Value = Vec<Text>> {
    proptest::collection::vec(
        (space(), key_text(), space(), space(), value_text(), space()).prop_map(
            |(before, key, a, b, value, after)| Text { before, key, colon: format!("{a}:{b}"), value, after },
        ),
        0..7,
    )
}

fn object(members: &[Text]) -> String {
    let members: Vec<String> = members.iter().map(|member| member.with_value(&member.value)).collect();
    format!(" {{{}}} ", members.join(","))
}

fn cut(text: &str, sizes: &[usize]) -> Chunks {
    let mut chunks = Chunks::new();
    let mut rest = text.as_bytes();
    for size in sizes.iter().cycle().take(text.len() + 1) {
        let size = (*size).clamp(1, rest.len().max(1)).min(rest.len());
        chunks.push(Bytes::copy_from_slice(&rest[..size]));
        rest = &rest[size..];
    }
    chunks.push(Bytes::copy_from_slice(rest));
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Setting: the expected text is the original with just the values replaced, or one member added in front.
    #[test]
    fn setting_changes_only_the_value(members in members(), sizes in proptest::collection::vec(1_usize..40, 1..6)) {
        let text = object(&members);
        let chunks = cut(&text, &sizes);
        let mut scanner = kvferry_splice::Scanner::new(&WATCH);
        for piece in chunks.clone().into_pieces() {
            scanner.feed(&piece).unwrap();
        }
        let document = scanner.finish().unwrap();
        let edited = Edits::new().set("stream", "false").apply(&document, &chunks).to_bytes();

        let has = members.iter().any(|member| member.name() == "stream");
        let rest: Vec<String> = members
            .iter()
            .map(|m| if m.name() == "stream" { m.with_value("false") } else { m.with_value(&m.value) })
            .collect();
        let rest = rest.join(",");
        let expected = match (has, members.is_empty()) {
            (true, _) => format!(" {{{rest}}} "),
            (false, false) => format!(" {{\"stream\":false,{rest}}} "),
            (false, true) => " {\"stream\":false} ".to_owned(),
        };
        prop_assert_eq!(std::str::from_utf8(&edited).unwrap(), expected);
    }

    /// Removing: what stays is a subsequence of members, each with its bytes, in order, and the result is valid.
    #[test]
    fn removing_keeps_the_others(members in members()) {
        let text = object(&members);
        let document = scan(text.as_bytes(), &WATCH).unwrap();
        let edited = Edits::new().remove("stream").remove("max_tokens").apply(&document, &cut(&text, &[1000])).to_bytes();
        let again = scan(&edited, &WATCH).unwrap();
        prop_assert_eq!(again.value("stream"), None);
        prop_assert_eq!(again.value("max_tokens"), None);
        let edited = std::str::from_utf8(&edited).unwrap();
        let mut rest = edited;
        let kept: Vec<&Text> =
            members.iter().filter(|m| !["stream", "max_tokens"].contains(&m.name().as_str())).collect();
        for member in &kept {
            let core = format!("{}{}{}", member.key, member.colon, member.value);
            let at = rest.find(&core).expect("a kept member lost bytes");
            rest = &rest[at + core.len()..];
        }
        if kept.len() == members.len() {
            prop_assert_eq!(edited, text);
        }
    }

    /// The scanner agrees with a full parser about what JSON is, whatever the bytes and wherever they are cut.
    #[test]
    fn it_accepts_what_a_parser_accepts(text in "[ ]?\\{?[\\{\\}\\[\\]:,\"\\\\ \n\ta-fu0-9.eE+-]{0,24}\\}?", size in 1_usize..9) {
        let mut scanner = kvferry_splice::Scanner::new(&WATCH);
        let ours = text.as_bytes().chunks(size).try_for_each(|piece| scanner.feed(piece)).and_then(|()| scanner.finish());
        // Numbers too large for a double are fine in JSON; the parser keeps them as text.
        let theirs = serde_json::from_str::<std::collections::HashMap<String, &serde_json::value::RawValue>>(&text);
        prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?} {:?}", text, ours.err(), theirs.err());
    }

    #[test]
    fn invalid_utf8_is_found_wherever_it_is_cut(prefix in "[a-zé漢😀]{0,9}", bad in proptest::sample::select(vec![
        &b"\xff"[..], b"\xc3", b"\xe6\xbc", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xc0\xaf"]), size in 1_usize..5) {
        let mut body = format!("{{\"a\":\"{prefix}").into_bytes();
        let at = body.len();
        body.extend_from_slice(bad);
        body.extend_from_slice(b"\"}");
        let mut scanner = kvferry_splice::Scanner::new(&WATCH);
        let error = body.chunks(size).try_for_each(|piece| scanner.feed(piece)).unwrap_err();
        prop_assert_eq!(error.kind, kvferry_splice::MalformedKind::InvalidUtf8);
        prop_assert!(error.offset <= at + 4);
    }
}
