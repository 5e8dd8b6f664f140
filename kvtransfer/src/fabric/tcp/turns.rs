//! Whose turn it is: everybody gets one chunk, then goes to the end of the line. So a 40 GiB transfer and a 10 MiB one
//! beside it share the way evenly for as long as both have something to move, whichever came first.

use std::collections::VecDeque;

/// A line of those who have something to move.
#[derive(Debug)]
pub(super) struct Turns<T>(VecDeque<T>);

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: Copy> Turns<T> {
    /// Somebody new, at the end of the line.
    pub(super) fn join(&mut self, who: T) {
        self.0.push_back(who);
    }

    /// Asks those in line, from the front, what they have to move. `serve` answers with it and whether there is more (then
    /// they line up again), or with nothing (then they leave, and the next one is asked).
    pub(super) fn next<U>(&mut self, mut serve: impl FnMut(T) -> Option<(U, bool)>) -> Option<U> {
        while let Some(who) = self.0.pop_front() {
            if let Some((what, more)) = serve(who) {
                if more {
                    self.0.push_back(who);
                }
                return Some(what);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_one_beside_a_long_one_is_done_after_as_many_turns_of_each() {
        let (mut turns, mut left) = (Turns::default(), [40_000, 10]);
        turns.join(0);
        let mut serve = |who: usize| {
            left[who] -= 1;
            Some((who, left[who] > 0))
        };
        for _ in 0..5 {
            assert_eq!(turns.next(&mut serve), Some(0));
        }
        turns.join(1);
        let order: Vec<_> = (0..20).map(|_| turns.next(&mut serve).unwrap()).collect();
        assert_eq!(order.iter().filter(|who| **who == 1).count(), 10, "{order:?}");
    }

    #[test]
    fn those_who_have_gone_are_passed_over() {
        let mut turns = Turns::default();
        for who in 0..4 {
            turns.join(who);
        }
        assert_eq!(turns.next(|who| (who == 2).then_some((who, false))), Some(2));
        assert_eq!(turns.next(|who| Some((who, false))), Some(3));
        assert_eq!(turns.next(|who| Some((who, true))), None);
    }

    proptest! {
        #[test]
        fn while_two_wait_neither_gets_two_turns_more_than_the_other(
            mut left in proptest::collection::vec(1_u32..50, 2..8)
        ) {
            let mut turns = Turns::default();
            let mut had = vec![0_u32; left.len()];
            (0..left.len()).for_each(|who| turns.join(who));
            while let Some(who) = turns.next(|who| {
                left[who] -= 1;
                Some((who, left[who] > 0))
            }) {
                had[who] += 1;
                let waiting = || (0..left.len()).filter(|who| left[*who] > 0).map(|who| had[who]);
                let (least, most) = (waiting().min(), waiting().max());
                prop_assert!(most.unwrap_or(0) - least.unwrap_or(0) <= 1);
            }
            prop_assert!(left.iter().all(|left| *left == 0));
        }
    }
}
