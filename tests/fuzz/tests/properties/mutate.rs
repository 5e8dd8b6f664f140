//! Inputs near the corpus: what a fuzzer tries, without its sense of coverage. Seeded, so that every run is the same.

/// Longest input, in bytes. Bugs of parsers show in short inputs, and short ones run fast.
pub(crate) const MAX_LEN: usize = 4096;

/// Most changes to one seed; more leave little of what made it interesting.
const MAX_CHANGES: u64 = 6;

/// Longest run that is repeated or removed at once, in bytes.
const MAX_RUN: u64 = 64;

/// Bytes that parsers trip over: ends of ranges, signs, white space, broken UTF-8.
const BYTES: &[u8] = b"\0\x01\t\n\r \"',-./0:9;=?@[\\]`a{}~\x7f\x80\xbf\xc0\xed\xf4\xff";

/// An endless supply of mutated seeds.
pub(crate) struct Mutator<'s> {
    dice: Dice,
    seeds: &'s [Vec<u8>],
    words: &'s [Vec<u8>],
}

impl<'s> Mutator<'s> {
    pub(crate) fn new(seed: u64, seeds: &'s [Vec<u8>], words: &'s [Vec<u8>]) -> Self {
        Self { dice: Dice(seed), seeds, words }
    }

    pub(crate) fn next(&mut self) -> Vec<u8> {
        let mut input = self.dice.pick(self.seeds).clone();
        for _ in 0..=self.dice.below(MAX_CHANGES) {
            self.change(&mut input);
        }
        input.truncate(MAX_LEN);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.dice.index(input.len() + 1);
        let run = self.dice.index(usize::try_from(MAX_RUN).unwrap()).min(input.len() - at);
        match self.dice.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.dice.below(8),
            1 if at < input.len() => input[at] = *self.dice.pick(BYTES),
            2 => input.insert(at, *self.dice.pick(BYTES)),
            3 => drop(input.drain(at..at + run)),
            4 => {
                let copy = input[at..at + run].to_vec();
                insert(input, at, &copy);
            }
            5 => {
                let other = self.dice.pick(self.seeds);
                let from = self.dice.index(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            6 => input.truncate(at),
            _ => {
                let word: &Vec<u8> = self.dice.pick(self.words);
                insert(input, at, word);
            }
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}

/// A small generator of our own: its numbers are the same in every version of every dependency.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ word >> 31
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    fn pick<'p, T>(&mut self, from: &'p [T]) -> &'p T {
        &from[self.index(from.len())]
    }
}
