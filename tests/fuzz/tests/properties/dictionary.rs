//! The words of a target: `tests/fuzz/dictionaries/*.dict`, which libFuzzer reads too, in its format: one `"word"` a
//! line, with `\\`, `\"` and `\xNN` as escapes, and `#` before a comment.

use std::fs;
use std::path::PathBuf;

pub(crate) fn load(target: &str) -> Vec<Vec<u8>> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dictionaries").join(format!("{target}.dict"));
    let text = fs::read_to_string(file).unwrap();
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(word).collect()
}

fn word(line: &str) -> Vec<u8> {
    let inner =
        line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).unwrap_or_else(|| panic!("{line}"));
    let mut word = Vec::new();
    let mut rest = inner.bytes();
    while let Some(byte) = rest.next() {
        word.push(match (byte, byte == b'\\') {
            (byte, false) => byte,
            _ => match rest.next().unwrap() {
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                escaped @ (b'\\' | b'"') => escaped,
                other => panic!("unknown escape \\{} in {line}", char::from(other)),
            },
        });
    }
    word
}

#[test]
fn words_are_read_as_libfuzzer_reads_them() {
    assert_eq!(word(r#""a\"\\\x0d\xff""#), b"a\"\\\r\xff");
}
