//! Target `sse`: any bytes as an event stream that passes the rewriter.
//!
//! What holds: without an edit the stream is the one that came, and whole lines go on at once; with one, exactly the
//! `data:` lines with the needle are offered and changed, wherever the stream was cut; never is more than
//! [`MAX_HELD_LINE`] held, whatever the length of a line.

use std::sync::LazyLock;

use bytes::Bytes;
use kvferry_splice::{Finder, MAX_HELD_LINE, SseRewriter};

use crate::pieces::SIZES;

static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage\""));

/// Stands for [`STRETCH`] bytes of payload, so that a short input can have a line beyond [`MAX_HELD_LINE`].
const STRETCHED: u8 = b'~';

/// Four of them are a line that is too long to be held, three are not.
const STRETCH: usize = MAX_HELD_LINE / 4 + 1;

/// Stretched bytes of one input; more would only be slow.
const MAX_STRETCHED: usize = 6;

/// Pieces of a stretched stream: near what is read from a socket at once, and aligned with nothing.
const LARGE_PIECE: usize = 65_521;

/// Checks one stream.
pub fn sse(data: &[u8]) {
    let whole = [data.len().max(1)];
    for size in SIZES.into_iter().chain(whole) {
        nothing_changes_and_lines_do_not_wait(data, size);
        exactly_the_offered_lines_change(data, size);
    }
    if data.contains(&STRETCHED) {
        long_lines_pass_and_little_is_held(&stretch(data));
    }
}

fn nothing_changes_and_lines_do_not_wait(data: &[u8], size: usize) {
    let mut rewriter = SseRewriter::new(&FINDER);
    let mut keep = |_: &[u8]| None;
    let (mut came, mut went) = (0, Vec::with_capacity(data.len()));
    for piece in data.chunks(size) {
        came += piece.len();
        went.extend_from_slice(&rewriter.push(Bytes::copy_from_slice(piece), &mut keep));
        let lines = data[..came].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        assert_eq!(went.len(), lines, "after {came} bytes, in pieces of {size}");
    }
    went.extend_from_slice(&rewriter.finish(&mut keep));
    assert_eq!(went, data, "in pieces of {size}");
}

fn exactly_the_offered_lines_change(data: &[u8], size: usize) {
    let mut rewriter = SseRewriter::new(&FINDER);
    let mut went = Vec::with_capacity(data.len());
    for piece in data.chunks(size) {
        went.extend_from_slice(&rewriter.push(Bytes::copy_from_slice(piece), &mut edit));
    }
    went.extend_from_slice(&rewriter.finish(&mut edit));
    let expected: Vec<u8> =
        data.split_inclusive(|byte| *byte == b'\n').map(edited_line).collect::<Vec<_>>().concat();
    assert_eq!(String::from_utf8_lossy(&went), String::from_utf8_lossy(&expected), "in pieces of {size}");
    assert_eq!(went, expected, "in pieces of {size}");
}

fn long_lines_pass_and_little_is_held(stream: &[u8]) {
    let mut rewriter = SseRewriter::new(&FINDER);
    let mut keep = |_: &[u8]| None;
    let mut went = Vec::with_capacity(stream.len());
    let mut came = 0;
    for piece in stream.chunks(LARGE_PIECE) {
        came += piece.len();
        went.extend_from_slice(&rewriter.push(Bytes::copy_from_slice(piece), &mut keep));
        assert!(came - went.len() <= MAX_HELD_LINE, "{} bytes are held", came - went.len());
    }
    went.extend_from_slice(&rewriter.finish(&mut keep));
    assert!(went == stream, "a long stream was changed without an edit");

    let mut rewriter = SseRewriter::new(&FINDER);
    let mut went = Vec::with_capacity(stream.len());
    for piece in stream.chunks(LARGE_PIECE) {
        went.extend_from_slice(&rewriter.push(Bytes::copy_from_slice(piece), &mut edit));
    }
    went.extend_from_slice(&rewriter.finish(&mut edit));
    // Whether a long line is edited depends on how it arrived; that it is edited whole or not at all does not.
    let mut rest = went.as_slice();
    for line in stream.split_inclusive(|byte| *byte == b'\n') {
        let edited = edited_line(line);
        let after = match rest.strip_prefix(line) {
            Some(after) if line.len() > MAX_HELD_LINE || line == edited => Some(after),
            _ => rest.strip_prefix(edited.as_slice()),
        };
        rest = after.expect("a line is passed on whole, edited or not");
    }
    assert!(rest.is_empty(), "bytes were added");
}

/// The edit under test: changes the length, and leaves some payloads alone.
fn edit(payload: &[u8]) -> Option<Bytes> {
    payload.starts_with(b"{").then(|| [b"<", payload, b">>"].concat().into())
}

/// What must become of one line, its end included: the rule of the rewriter in its plainest form.
fn edited_line(line: &[u8]) -> Vec<u8> {
    let edited = || {
        let field = line.strip_prefix(b"data:".as_slice())?;
        FINDER.find(field)?;
        let space = usize::from(field.first() == Some(&b' '));
        let end = match field {
            [.., b'\r', b'\n'] => 2,
            [.., b'\r' | b'\n'] => 1,
            _ => 0,
        };
        let payload = &field[space..field.len() - end];
        Some([b"data:".as_slice(), &field[..space], &edit(payload)?, &field[field.len() - end..]].concat())
    };
    edited().unwrap_or_else(|| line.to_vec())
}

fn stretch(data: &[u8]) -> Vec<u8> {
    let mut left = MAX_STRETCHED;
    let mut stretched = Vec::with_capacity(data.len() + MAX_STRETCHED * STRETCH);
    for byte in data {
        if *byte == STRETCHED && left > 0 {
            left -= 1;
            stretched.resize(stretched.len() + STRETCH, b'x');
        } else {
            stretched.push(*byte);
        }
    }
    stretched
}
