//! JSON objects, one a line, of bounded length: whoever sends a gigabyte without a line's end costs its bound and no more.

use std::io::{BufRead, Read as _, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use kvferry_bench_common::Result;

/// The most bytes of a line between processes of ours: a round's latencies are some thousand pairs of numbers, a peer's
/// metadata at most 16 KiB for each fabric.
pub const MAX_LINE: u64 = 1 << 20;

/// The next line. `None` at the end.
///
/// # Errors
/// When it is longer than `most`, no JSON of that shape, or cannot be read.
pub fn read<T: DeserializeOwned>(from: &mut impl BufRead, most: u64) -> Result<Option<T>> {
    let mut line = Vec::new();
    from.take(most).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(if line.len() as u64 == most {
            format!("a line of more than {most} bytes").into()
        } else {
            "the other side ended within a line".into()
        });
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Sends one.
///
/// # Errors
/// When the other side is gone.
pub fn write(to: &mut impl Write, value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_end_is_no_line() {
        let mut wire = Vec::new();
        write(&mut wire, &[1, 2]).unwrap();
        write(&mut wire, &[3]).unwrap();
        let mut wire = wire.as_slice();
        assert_eq!(read::<Vec<u8>>(&mut wire, 100).unwrap(), Some(vec![1, 2]));
        assert_eq!(read::<Vec<u8>>(&mut wire, 100).unwrap(), Some(vec![3]));
        assert_eq!(read::<Vec<u8>>(&mut wire, 100).unwrap(), None);
    }

    #[test]
    fn long_lines_cut_lines_and_other_shapes_are_refused() {
        let refused = |bytes: &[u8]| read::<Vec<u8>>(&mut &*bytes, 8).unwrap_err().to_string();
        assert!(refused(b"[1,2,3,4,5]\n").contains("more than 8"));
        assert!(refused(b"[1").contains("within a line"));
        assert!(refused(b"{}\n").contains("invalid type"));
        assert!(refused(b"\xff\n").contains("expected"));
    }
}
