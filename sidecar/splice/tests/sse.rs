//! The SSE rewriter: same stream in every cut, nothing held that could go on.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::sync::LazyLock;

use bytes::Bytes;
use kvferry_splice::{Finder, MAX_HELD_LINE, SseRewriter};
use proptest::prelude::*;

static NEEDLE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

fn shout(payload: &[u8]) -> Option<Bytes> {
    payload.starts_with(b"{").then(|| payload.to_ascii_uppercase().into())
}

fn run(stream: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut rewriter = SseRewriter::new(&NEEDLE);
    let mut edit = shout;
    let mut out = Vec::new();
    let mut rest = stream;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = (*sizes.next().unwrap()).min(rest.len());
        out.extend_from_slice(&rewriter.push(Bytes::copy_from_slice(&rest[..size]), &mut edit));
        rest = &rest[size..];
    }
    out.extend_from_slice(&rewriter.finish(&mut edit));
    out
}

#[test]
fn only_data_lines_with_the_needle_are_offered() {
    let stream = b": \"usage\" {\n\ndata: {\"a\":1}\n\ndata: {\"usage\":1}\r\n\r\ndata:{\"usage\":2}\n\nevent: \"usage\"\ndata: [\"usage\"]\n\ndata: [DONE]\n\ndata: {\"usage\":3}";
    let expected = b": \"usage\" {\n\ndata: {\"a\":1}\n\ndata: {\"USAGE\":1}\r\n\r\ndata:{\"USAGE\":2}\n\nevent: \"usage\"\ndata: [\"usage\"]\n\ndata: [DONE]\n\ndata: {\"USAGE\":3}";
    assert_eq!(String::from_utf8_lossy(&run(stream, &[stream.len()])), String::from_utf8_lossy(expected));
}

#[test]
fn a_frame_without_the_needle_is_the_same_buffer() {
    let mut rewriter = SseRewriter::new(&NEEDLE);
    let frame = Bytes::from_static(b"data: {\"choices\":[]}\n\n");
    let out = rewriter.push(frame.clone(), &mut shout);
    assert_eq!(out.as_ptr(), frame.as_ptr(), "the frame was copied");
    assert_eq!(out.len(), frame.len());
}

#[test]
fn whole_lines_go_on_at_once_and_only_the_broken_one_waits() {
    let mut rewriter = SseRewriter::new(&NEEDLE);
    let mut push = |text: &'static str| rewriter.push(Bytes::from_static(text.as_bytes()), &mut shout);
    assert_eq!(push("data: a\n\ndata: {\"us"), "data: a\n\n");
    assert_eq!(push("age\":1}"), "");
    assert_eq!(push("\n"), "data: {\"USAGE\":1}\n");
    assert_eq!(push("\n"), "\n");
}

#[test]
fn an_endless_line_is_passed_on_unedited_and_bounded() {
    let mut rewriter = SseRewriter::new(&NEEDLE);
    let mut out = rewriter.push(Bytes::from_static(b"data: {\"usage\":\""), &mut shout).to_vec();
    let mut sent = b"data: {\"usage\":\"".to_vec();
    for _ in 0..(2 * MAX_HELD_LINE / 4096) {
        let piece = Bytes::from(vec![b'x'; 4096]);
        sent.extend_from_slice(&piece);
        out.extend_from_slice(&rewriter.push(piece, &mut shout));
        assert!(sent.len() - out.len() <= MAX_HELD_LINE + 4096);
    }
    sent.extend_from_slice(b"\"}\ndata: {\"usage\":1}\n");
    out.extend_from_slice(&rewriter.push(Bytes::from_static(b"\"}\ndata: {\"usage\":1}\n"), &mut shout));
    let at = sent.len() - b"\"usage\":1}\n".len();
    sent[at..].make_ascii_uppercase();
    assert_eq!(out, sent);
}

proptest! {
    #[test]
    fn every_cut_gives_the_same_stream(
        lines in proptest::collection::vec(proptest::sample::select(vec![
            "data: {\"usage\":{\"a\":1}}", "data: {\"usage\":null}", "data: x", ": ping", "", "event: \"usage\"", "data:{\"usage\"}"]), 0..12),
        ends in proptest::collection::vec(proptest::sample::select(vec!["\n", "\r\n"]), 12),
        sizes in proptest::collection::vec(1_usize..30, 1..5),
    ) {
        let mut stream = String::new();
        for (line, end) in lines.iter().zip(&ends) {
            stream.push_str(line);
            stream.push_str(end);
        }
        prop_assert_eq!(run(stream.as_bytes(), &sizes), run(stream.as_bytes(), &[stream.len().max(1)]));
    }
}
