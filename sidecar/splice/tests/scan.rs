//! What the scan accepts, refuses and finds.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use bytes::Bytes;
use kvferry_splice::{
    Chunks, Edits, MAX_WATCHED_MEMBERS, MalformedKind, Missing, scan, scan_chunks, set_path,
};

const WATCH: [&str; 2] = ["stream", "n"];

fn edit(text: &str, edits: &Edits<'_>) -> String {
    let body = Chunks::from(bytes::Bytes::copy_from_slice(text.as_bytes()));
    let document = scan(text.as_bytes(), &WATCH).unwrap();
    String::from_utf8(edits.apply(&document, &body).to_bytes().to_vec()).unwrap()
}

#[test]
fn malformed_bodies_say_what_is_wrong_and_where() {
    use MalformedKind::{
        BadEscape, ControlCharacter, NotAnObject, TrailingBytes, UnexpectedByte, UnexpectedEnd,
    };
    for (text, offset, kind) in [
        ("", 0, UnexpectedEnd),
        ("   ", 3, UnexpectedEnd),
        ("[]", 0, NotAnObject),
        ("null", 0, NotAnObject),
        ("\"x\"", 0, NotAnObject),
        ("-1", 0, NotAnObject),
        ("hello", 0, UnexpectedByte(b'h')),
        ("{", 1, UnexpectedEnd),
        ("{\"a\"", 4, UnexpectedEnd),
        ("{\"a\":", 5, UnexpectedEnd),
        ("{\"a\":1", 6, UnexpectedEnd),
        ("{\"a\":1,", 7, UnexpectedEnd),
        ("{\"a\":1,}", 7, UnexpectedByte(b'}')),
        ("{\"a\" 1}", 5, UnexpectedByte(b'1')),
        ("{a:1}", 1, UnexpectedByte(b'a')),
        ("{\"a\":1]", 6, UnexpectedByte(b']')),
        ("{\"a\":[1}", 7, UnexpectedByte(b'}')),
        ("{\"a\":[1,]}", 8, UnexpectedByte(b']')),
        ("{\"a\":01}", 6, UnexpectedByte(b'1')),
        ("{\"a\":-}", 6, UnexpectedByte(b'}')),
        ("{\"a\":1.}", 7, UnexpectedByte(b'}')),
        ("{\"a\":1e}", 7, UnexpectedByte(b'}')),
        ("{\"a\":+1}", 5, UnexpectedByte(b'+')),
        ("{\"a\":NaN}", 5, UnexpectedByte(b'N')),
        ("{\"a\":nul}", 8, UnexpectedByte(b'}')),
        ("{\"a\":\"\n\"}", 6, ControlCharacter),
        ("{\"a\":\"\\x\"}", 7, BadEscape),
        ("{\"a\":\"\\u12g4\"}", 10, BadEscape),
        ("{} {}", 3, TrailingBytes),
        ("{}x", 2, TrailingBytes),
    ] {
        let error = scan(text.as_bytes(), &WATCH).unwrap_err();
        assert_eq!((error.offset, error.kind), (offset, kind), "{text}: {error}");
    }
}

#[test]
fn the_last_of_several_duplicates_is_the_one_read_and_all_are_edited() {
    let text = r#"{"stream":true, "a":9007199254740993 ,"str\u0065am" : false}"#;
    let document = scan(text.as_bytes(), &WATCH).unwrap();
    assert_eq!(&text[document.value("stream").unwrap()], "false");
    assert_eq!(
        edit(text, &Edits::new().set("stream", "null")),
        r#"{"stream":null, "a":9007199254740993 ,"str\u0065am" : null}"#
    );
}

#[test]
fn members_are_removed_with_exactly_one_comma() {
    let remove = Edits::new().remove("stream").remove("n");
    for (text, expected) in [
        (r#"{"stream":1}"#, "{}"),
        (r#"{ "stream":1 , "n":2 }"#, "{  }"),
        (r#"{"stream":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{"a":2 , "stream":1}"#, r#"{"a":2}"#),
        (r#"{"a":2,"n":1,"b":3,"stream":4,"c":5}"#, r#"{"a":2,"b":3,"c":5}"#),
        (r#"{"n":1,"stream":2,"a":3,"n":4,"stream":5}"#, r#"{"a":3}"#),
    ] {
        assert_eq!(edit(text, &remove), expected, "{text}");
    }
    assert_eq!(edit(r#"{"n":1}"#, &Edits::new().remove("n").set("stream", "true")), r#"{"stream":true}"#);
    assert_eq!(edit("{ }", &Edits::new().set("n", "1").set("stream", "2")), r#"{"n":1,"stream":2 }"#);
}

#[test]
fn nested_members_of_the_same_name_are_not_touched() {
    let text = r#"{"a":{"stream":true,"n":[{"n":1}]},"b":["stream"],"n":3}"#;
    assert_eq!(edit(text, &Edits::new().set("n", "4").remove("stream")), text.replace("\"n\":3", "\"n\":4"));
}

#[test]
fn five_megabytes_of_brackets_need_no_stack() {
    let depth = 2_500_000;
    let text = format!("{{\"a\":{}{},\"n\":1}}", "[".repeat(depth), "]".repeat(depth));
    let edited = edit(&text, &Edits::new().set("n", "2"));
    assert_eq!(edited.len(), text.len());
    assert!(edited.ends_with("],\"n\":2}"));
    let text = format!("{}1{}", "{\"a\":".repeat(1_000_000), "}".repeat(1_000_000));
    assert_eq!(edit(&text, &Edits::new().remove("n")), text);
}

#[test]
fn a_body_full_of_one_key_is_refused_at_the_limit() {
    let many = |count: usize| format!("{{{}}}", vec!["\"n\":1"; count].join(","));
    assert!(scan(many(MAX_WATCHED_MEMBERS).as_bytes(), &WATCH).is_ok());
    let error = scan(many(MAX_WATCHED_MEMBERS + 1).as_bytes(), &WATCH).unwrap_err();
    assert_eq!(error.kind, MalformedKind::TooManyDuplicates);
}

#[test]
fn a_number_deep_inside_is_set_and_its_parents_are_created_where_asked() {
    let path = ["usage", "prompt_tokens_details", "cached_tokens"];
    let set = |text: &str, missing| {
        set_path(text.as_bytes(), &path, "7", missing).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };
    for (text, expected) in [
        (
            r#"{"a":1.0,"usage":{"prompt_tokens_details":{"x":1,"cached_tokens":3}}}"#,
            Some(r#"{"a":1.0,"usage":{"prompt_tokens_details":{"x":1,"cached_tokens":7}}}"#),
        ),
        (
            r#"{"usage":{"prompt_tokens":5,"prompt_tokens_details":null}}"#,
            Some(r#"{"usage":{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":7}}}"#),
        ),
        (r#"{"usage":{}}"#, Some(r#"{"usage":{"prompt_tokens_details":{"cached_tokens":7}}}"#)),
        (r#"{"usage":null}"#, None),
        (r#"{"usage":[]}"#, None),
        ("{}", None),
        ("[]", None),
    ] {
        assert_eq!(set(text, Missing::Create).as_deref(), expected, "{text}");
    }
    assert_eq!(set(r#"{"usage":{}}"#, Missing::Leave), None);
    assert_eq!(set(r#"{"usage":{"prompt_tokens_details":{}}}"#, Missing::Leave), None);
}

#[test]
fn a_body_in_pieces_is_scanned_and_cut_like_one_in_a_row() {
    let text = r#" {"a":[1,2],"name":"x \u0022","b":{"name":1}} "#;
    for size in 1..text.len() {
        let mut body = Chunks::new();
        text.as_bytes().chunks(size).for_each(|piece| body.push(Bytes::copy_from_slice(piece)));
        let value = scan_chunks(&body, &["name"]).unwrap().value("name").unwrap();
        assert_eq!(value, scan(text.as_bytes(), &["name"]).unwrap().value("name").unwrap());
        let (mut before, after) = (body.slice(0..value.start), body.slice(value.start..text.len() + 9));
        assert_eq!((before.len(), after.len()), (value.start, text.len() - value.start));
        before.extend(after);
        assert_eq!((before.len(), before.to_bytes()), (text.len(), Bytes::from(text)));
    }
    assert!(scan_chunks(&Chunks::new(), &["name"]).is_err());
}
