//! Bytes that say where they belong: each 8-byte word is a function of its place and a seed, so a word that is missing,
//! stale or in the wrong place is a wrong word.

use kvferry_transfer::memory::Region;

use crate::random::mix;

/// Bytes handled at a time: fits into a core's own cache.
const STEP: usize = 64 << 10;

/// The bytes that belong at `offset` of memory filled with `seed`. `into` may begin and end within a word.
fn bytes(seed: u64, offset: u64, into: &mut [u8]) {
    let mut word = offset / 8;
    let skip = usize::try_from(offset % 8).expect("below eight");
    let head = (8 - skip).min(into.len());
    let (first, rest) = into.split_at_mut(if skip == 0 { 0 } else { head });
    if !first.is_empty() {
        first.copy_from_slice(&mix(seed ^ word).to_le_bytes()[skip..skip + head]);
        word += 1;
    }
    for chunk in rest.chunks_mut(8) {
        chunk.copy_from_slice(&mix(seed ^ word).to_le_bytes()[..chunk.len()]);
        word += 1;
    }
}

/// Fills all of `region`. `false` if it is not host memory.
#[must_use]
pub fn fill(region: &Region, seed: u64) -> bool {
    let mut buffer = vec![0; STEP];
    let mut at = 0;
    while at < region.len() {
        let left = usize::try_from(region.len() - at).unwrap_or(usize::MAX);
        let part = &mut buffer[..left.min(STEP)];
        bytes(seed, at, part);
        if !region.write_at(at, part) {
            return false;
        }
        at += part.len() as u64;
    }
    true
}

/// The first of `len` bytes at `at` that is not what lay at `from` of memory filled with `seed`; bytes outside of the
/// region are wrong.
pub fn first_wrong(region: &Region, at: u64, from: u64, len: u64, seed: u64) -> Option<u64> {
    let (mut found, mut right) = (vec![0; STEP], vec![0; STEP]);
    let mut done = 0;
    while done < len {
        let part = usize::try_from(len - done).unwrap_or(usize::MAX).min(STEP);
        bytes(seed, from + done, &mut right[..part]);
        if !region.read_at(at + done, &mut found[..part]) {
            return Some(at + done);
        }
        if let Some(wrong) = (0..part).find(|&index| found[index] != right[index]) {
            return Some(at + done + wrong as u64);
        }
        done += part as u64;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use kvferry_transfer::memory::Arena;

    use super::*;

    #[test]
    fn bytes_moved_to_any_place_are_recognised_and_one_flipped_bit_is_not() {
        let arena = |len| Arena::create("fill", NonZeroUsize::new(len).unwrap()).unwrap();
        let (from, to) = (arena(200_000), arena(200_000));
        assert!(fill(&from, 7) && fill(&to, 8));
        for (at, source, len) in [(0, 0, 200_000), (3, 17, 150_001), (100_001, 5, 9), (64, 64, 3)] {
            let mut moved = vec![0; usize::try_from(len).unwrap()];
            assert!(from.read_at(source, &mut moved) && to.write_at(at, &moved));
            assert_eq!(first_wrong(&to, at, source, len, 7), None, "{at} {source} {len}");
            let last = moved.len() - 1;
            moved[last] ^= 1;
            assert!(to.write_at(at, &moved));
            assert_eq!(first_wrong(&to, at, source, len, 7), Some(at + len - 1));
        }
    }

    #[test]
    fn stale_bytes_misplaced_bytes_and_bytes_out_of_memory_are_wrong() {
        let region = Arena::create("fill", NonZeroUsize::new(4096).unwrap()).unwrap();
        assert!(fill(&region, 1));
        assert_eq!(first_wrong(&region, 0, 0, 4096, 2), Some(0), "another seed");
        assert_eq!(first_wrong(&region, 8, 0, 8, 1), Some(8), "a word further on");
        assert_eq!(first_wrong(&region, 4090, 4090, 100, 1), Some(4090), "beyond the end");
    }
}
