//! Numbers from a seed: the same in every run, whatever happened before and on which thread.

/// A small generator of our own: its numbers do not change with a dependency's version.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The dice for one place in the schedule. Different `path`s give unrelated numbers, so what one client or engine
    /// does never depends on how far another has come.
    pub(crate) fn new(seed: u64, path: &[u64]) -> Self {
        let mut dice = Self(seed);
        for step in path {
            dice.0 = dice.next() ^ step.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        }
        dice
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    /// A number from `range`, which is not empty.
    pub(crate) fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.within(0..100) < chance
    }

    /// One of several; `from` is not empty.
    pub(crate) fn pick<'p, T>(&mut self, from: &'p [T]) -> &'p T {
        let index = self.within(0..from.len() as u64);
        &from[usize::try_from(index).expect("an index of a slice fits usize")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_schedule_always_gives_the_same_numbers() {
        let numbers = |path: &[u64]| {
            let mut dice = Dice::new(7, path);
            [dice.next(), dice.next(), dice.next()]
        };
        assert_eq!(numbers(&[1, 2]), numbers(&[1, 2]));
        assert_ne!(numbers(&[1, 2]), numbers(&[2, 1]));
        assert_ne!(numbers(&[1]), numbers(&[1, 0]));
    }

    #[test]
    fn ranges_and_chances_are_kept() {
        let mut dice = Dice::new(1, &[]);
        assert!((0..1000).all(|_| (3..9).contains(&dice.within(3..9))));
        assert!((0..100).all(|_| dice.percent(100) && !dice.percent(0)));
        let hits = (0..10_000).filter(|_| dice.percent(25)).count();
        assert!((2_200..2_800).contains(&hits), "{hits}");
    }
}
