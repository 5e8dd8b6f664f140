//! Ids and choices that are made anew for every attempt. They are random, since sidecars that know nothing of each other
//! send to the same engines: an id that two requests share would give one of them the other's KV.

use uuid::Uuid;

/// An id of its own, as text.
pub(super) fn id() -> String {
    Uuid::new_v4().to_string()
}

/// A number of its own, from 1 to 2^63-1, so that it fits engines that count in signed integers.
pub(super) fn number() -> u64 {
    // The constant bits of a UUID lie elsewhere in each half, so no bit of the mixture is constant.
    let (high, low) = Uuid::new_v4().as_u64_pair();
    ((high.rotate_left(32) ^ low) >> 1).max(1)
}

/// A number below `bound`, any of them with the same chance; 0 if `bound` is.
pub(super) fn below(bound: usize) -> usize {
    let bound = (bound as u64).max(1);
    usize::try_from(number() % bound).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_use_all_of_their_63_bits_and_no_more() {
        let (mut ever, mut always) = (0, u64::MAX);
        for _ in 0..1000 {
            let number = number();
            assert!((1..1 << 63).contains(&number));
            ever |= number;
            always &= number;
        }
        assert_eq!((ever, always), ((1 << 63) - 1, 0));
    }

    #[test]
    fn choices_stay_below_their_bound() {
        assert_eq!((below(0), below(1)), (0, 0));
        let mut chosen = [false; 3];
        for _ in 0..1000 {
            chosen[below(3)] = true;
        }
        assert_eq!(chosen, [true; 3]);
    }
}
