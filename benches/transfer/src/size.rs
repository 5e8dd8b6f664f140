//! Sizes as people write them: `64KiB`, `1GiB`, `16k`; lists of them, and sweeps that multiply by four.

use kvferry_bench_common::Result;

/// By what a sweep grows: five points from 4 KiB to 1 MiB, ten to 1 GiB; between two of them, nothing surprising happens.
const SWEEP_FACTOR: u64 = 4;

const UNITS: [(&str, u32); 4] = [("g", 30), ("m", 20), ("k", 10), ("", 0)];

/// Bytes of `text`: a number with `K`, `M`, `G` (powers of 1024; `KiB` and `kb` mean the same), or none for bytes.
///
/// # Errors
/// When it is no such number, zero, or more than a u64 holds.
pub fn parse(text: &str) -> Result<u64> {
    let wrong = || format!("{text:?} is no size; write 4096, 4KiB, 64MiB or 1GiB");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[digits.len()..].trim_end_matches('b').trim_end_matches('i');
    let (_, shift) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(|| wrong().into())
}

/// One point of `--block-bytes`, or a sweep `FROM-TO`.
///
/// # Errors
/// As [`parse`], or when a sweep goes down.
pub fn sweep(text: &str) -> Result<Vec<u64>> {
    let Some((from, to)) = text.split_once('-') else { return Ok(vec![parse(text)?]) };
    let (from, to) = (parse(from)?, parse(to)?);
    if from > to {
        return Err(format!("the sweep {text:?} goes down; write the smaller size first").into());
    }
    Ok(std::iter::successors(Some(from), |size| size.checked_mul(SWEEP_FACTOR))
        .take_while(|size| *size <= to)
        .collect())
}

/// A size in the largest unit that leaves no fraction: `64 KiB`.
pub fn show(bytes: u64) -> String {
    let fits = |shift: &u32| bytes > 0 && bytes.is_multiple_of(1 << shift);
    let (unit, shift) = UNITS.iter().find(|(_, shift)| fits(shift)).unwrap_or(&UNITS[3]);
    let prefix = if *shift == 0 { String::new() } else { format!("{}i", unit.to_ascii_uppercase()) };
    format!("{} {prefix}B", bytes >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_all_spellings_and_shown_in_one() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4KiB", 4096),
            ("4k", 4096),
            ("4 kb", 4096),
            ("64MiB", 64 << 20),
            ("1G", 1 << 30),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        assert_eq!(
            (show(4096), show(1 << 30), show(18_432), show(100)),
            ("4 KiB".into(), "1 GiB".into(), "18 KiB".into(), "100 B".into())
        );
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "k", "0", "-1", "4TiB", "99999999999G", "1.5G", "4KiB4"] {
            assert!(parse(text).unwrap_err().to_string().contains("4KiB"), "{text}");
        }
    }

    #[test]
    fn a_sweep_multiplies_by_four_and_ends_within_its_bounds() {
        assert_eq!(sweep("4KiB-1GiB").unwrap().len(), 10);
        assert_eq!(sweep("4k-60k").unwrap(), [4096, 16_384]);
        assert_eq!(sweep("16k").unwrap(), [16_384]);
        assert!(sweep("1M-4k").is_err());
    }
}
