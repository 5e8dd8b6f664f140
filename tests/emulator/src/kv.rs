//! KV bytes as a function of the tokens, and tokens as a function of the KV bytes.
//!
//! The KV of token *i* depends on every token up to *i* (as attention makes it), and the next token depends on
//! every KV byte so far. So whoever holds a wrong, stale or short KV cache answers something else, and an
//! aggregated engine and a prefill/decode pair answer the same exactly when the bytes crossed intact.

use crate::tokens;

/// A bijective mixer of 64 bits with full avalanche (the finisher of a splittable generator).
pub(crate) const fn mix(mut word: u64) -> u64 {
    word ^= word >> 30;
    word = word.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word ^= word >> 27;
    word = word.wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ word >> 31
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The state after a prefix of tokens; its hash names that prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain(u64);

impl Chain {
    /// The empty prefix. Two engines understand each other's KV only if they serve the same model.
    pub(crate) fn new(model: &str) -> Self {
        Self(model.bytes().fold(STEP, |state, byte| mix(state ^ u64::from(byte)).wrapping_add(STEP)))
    }

    /// The same prefix under other circumstances; a salt of 0 changes nothing.
    pub(crate) fn salted(self, salt: u64) -> Self {
        Self(self.0 ^ mix(salt))
    }

    /// Appends one token.
    pub(crate) fn push(&mut self, token: u32) {
        self.0 = mix(self.0.rotate_left(23).wrapping_add(mix(u64::from(token) + STEP)));
    }

    /// A name for the prefix so far.
    pub(crate) fn hash(self) -> u64 {
        mix(self.0 ^ STEP)
    }

    /// Writes the KV of the last pushed token.
    pub(crate) fn fill(self, kv: &mut [u8]) {
        let mut counter = self.0;
        for chunk in kv.chunks_mut(8) {
            counter = counter.wrapping_add(STEP);
            chunk.copy_from_slice(&mix(counter).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A running digest over KV bytes, token by token. Each step is a bijection of the state, so one changed word
/// always changes the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    /// The digest of no bytes.
    pub(crate) fn new() -> Self {
        Self(STEP)
    }

    /// Takes in the KV of one token.
    pub(crate) fn absorb(&mut self, kv: &[u8]) {
        let (words, rest) = kv.as_chunks::<8>();
        for word in words {
            self.step(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.step(u64::from_le_bytes(last));
        }
    }

    fn step(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    }

    /// The digest as a number.
    pub(crate) fn value(self) -> u64 {
        self.0
    }

    /// The token that this KV says comes next.
    pub(crate) fn next_token(self) -> u32 {
        tokens::reduce(mix(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv_of(prefix: &[u32], len: usize) -> Vec<u8> {
        let mut chain = Chain::new("m");
        for token in prefix {
            chain.push(*token);
        }
        let mut kv = vec![0; len];
        chain.fill(&mut kv);
        kv
    }

    #[test]
    fn kv_of_a_token_depends_on_the_whole_prefix_and_its_order() {
        assert_eq!(kv_of(&[1, 2, 3], 40), kv_of(&[1, 2, 3], 40));
        for other in [&[9, 2, 3][..], &[2, 1, 3], &[2, 3], &[0, 1, 2, 3]] {
            assert_ne!(kv_of(&[1, 2, 3], 40), kv_of(other, 40));
        }
    }

    #[test]
    fn kv_differs_between_models() {
        let (mut one, mut two) = (Chain::new("a"), Chain::new("b"));
        one.push(1);
        two.push(1);
        assert_ne!(one.hash(), two.hash());
    }

    #[test]
    fn only_a_salt_of_0_leaves_a_chain_as_it_is() {
        let chain = Chain::new("m");
        assert_eq!(chain.salted(0), chain);
        assert_ne!(chain.salted(1), chain);
    }

    #[test]
    fn any_flipped_bit_changes_the_digest() {
        let kv = kv_of(&[5, 6], 37);
        let mut clean = Digest::new();
        clean.absorb(&kv);
        for at in 0..kv.len() {
            let mut bad = kv.clone();
            bad[at] ^= 1;
            let mut digest = Digest::new();
            digest.absorb(&bad);
            assert_ne!(digest, clean, "byte {at}");
        }
    }

    #[test]
    fn short_or_swapped_kv_changes_the_digest() {
        let (one, two) = (kv_of(&[1], 16), kv_of(&[1, 2], 16));
        let digest = |parts: &[&[u8]]| {
            let mut digest = Digest::new();
            for part in parts {
                digest.absorb(part);
            }
            digest
        };
        assert_ne!(digest(&[&one, &two]), digest(&[&two, &one]));
        assert_ne!(digest(&[&one, &two]), digest(&[&one]));
        assert_ne!(digest(&[&one, &two]), digest(&[&one, &[0; 16]]));
    }
}
