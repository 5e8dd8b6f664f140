//! The insides of JSON strings: runs of plain bytes found fast, and keys compared whatever their spelling.

use memchr::memchr2;

/// Bytes that stand for themselves in a string.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 0x20 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain
};

/// Length of the run of string bytes up to the next quote, backslash or end; or where a raw control character stands.
pub(crate) fn plain_run(rest: &[u8]) -> Result<usize, usize> {
    /// Runs shorter than this are found sooner by a table than by preparing the vector searches.
    const SHORT: usize = 16;
    /// Bytes that one vector comparison takes at the least.
    const LANES: usize = 64;
    for (at, byte) in rest.iter().enumerate().take(SHORT) {
        if !PLAIN[usize::from(*byte)] {
            return if *byte < 0x20 { Err(at) } else { Ok(at) };
        }
    }
    let Some(tail) = rest.get(SHORT..) else { return Ok(rest.len()) };
    let run = &tail[..memchr2(b'"', b'\\', tail).unwrap_or(tail.len())];
    // The common answer, no control character, is found by vector code.
    let clean =
        run.chunks(LANES).all(|lane| lane.iter().fold(u8::MAX, |least, byte| least.min(*byte)) >= 0x20);
    if clean {
        return Ok(SHORT + run.len());
    }
    Err(SHORT + run.iter().position(|byte| *byte < 0x20).unwrap_or_default())
}

/// The first of `names` (which are ASCII) that a key's raw text, escapes and all, spells.
pub(crate) fn which(raw: &[u8], names: &[&str]) -> Option<usize> {
    if raw.contains(&b'\\') {
        return names.iter().position(|name| spells(raw, name));
    }
    // Every key is compared with every name, and mostly its length and its first letter are all that is looked at.
    names.iter().position(|name| {
        let name = name.as_bytes();
        raw.len() == name.len() && raw.first() == name.first() && raw == name
    })
}

fn spells(raw: &[u8], name: &str) -> bool {
    let mut raw = raw.iter().copied();
    for wanted in name.bytes() {
        let Some(byte) = raw.next() else { return false };
        let spelled = if byte == b'\\' {
            match raw.next() {
                Some(b'u') => {
                    let mut code = 0_u32;
                    for _ in 0..4 {
                        let Some(digit) = raw.next().and_then(|digit| char::from(digit).to_digit(16)) else {
                            return false;
                        };
                        code = code * 16 + digit;
                    }
                    code
                }
                // Watched names hold letters and underscores only; of the short escapes none spells one of those.
                _ => return false,
            }
        } else {
            u32::from(byte)
        };
        if spelled != u32::from(wanted) {
            return false;
        }
    }
    raw.next().is_none()
}
