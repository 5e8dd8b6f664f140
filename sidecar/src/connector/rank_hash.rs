//! Which data-parallel rank serves a request, where both legs must agree without talking to each other
//! (spec/sidecar.md 3.2).
//!
//! It is a wire contract: BLAKE2s-256 over the request id, its first eight bytes as a big-endian number, modulo the
//! number of ranks. (A BLAKE2s of eight bytes would be another number, since the digest's length is part of its input.)

use blake2::{Blake2s256, Digest};

/// The rank of the request called `id`, below `size`; 0 where there is at most one.
pub(super) fn rank_of(id: &[u8], size: u32) -> u32 {
    if size <= 1 {
        return 0;
    }
    let digest = Blake2s256::digest(id);
    let first = digest.first_chunk().expect("the digest has 32 bytes");
    u32::try_from(u64::from_be_bytes(*first) % u64::from(size)).expect("it is below a number of 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_reference_values_come_out() {
        for (id, size, rank) in [
            ("abc", 8, 2),
            ("abc", 2, 0),
            ("abc", 4, 2),
            ("cmpl-foo-0", 8, 5),
            ("00000000-0000-0000-0000-000000000000", 8, 6),
            ("req-9f8a-2026-1p1d", 8, 2),
            ("cmpl-deadbeef-cafe-1234", 8, 4),
        ] {
            assert_eq!(rank_of(id.as_bytes(), size), rank, "{id} mod {size}");
        }
    }

    #[test]
    fn one_rank_or_none_is_rank_0() {
        assert_eq!([rank_of(b"abc", 0), rank_of(b"abc", 1)], [0, 0]);
    }

    #[test]
    fn every_rank_gets_its_share() {
        const SIZE: u32 = 8;
        const IDS: u32 = 16_000;
        let mut counts = [0_u32; SIZE as usize];
        for id in 0..IDS {
            counts[rank_of(format!("request-{id}").as_bytes(), SIZE) as usize] += 1;
        }
        let fair = IDS / SIZE;
        assert!(counts.iter().all(|count| count.abs_diff(fair) < fair / 4), "{counts:?}");
    }
}
