//! A tokenizer without a vocabulary file: text to token ids and back to printable text.
//!
//! It has the three properties that tests lean on. The tokens of a text's prefix are a prefix of its tokens
//! (but for the last one), so prefix caching works; equal texts give equal ids in every process; and different
//! ids decode to different text, so two answers that read the same are the same.

use crate::kv::mix;

/// Number of token ids the emulator itself produces. Three syllables out of 32 spell each of them.
pub(crate) const VOCAB: u32 = 32 * 32 * 32;

/// Longest piece of text behind one token, in bytes: the usual average of real tokenizers.
const PIECE: usize = 4;

/// Splits a text into pieces of at most [`PIECE`] bytes, a new one at every space, and hashes each to an id.
pub(crate) fn encode(text: &str) -> Vec<u32> {
    let mut ids = Vec::with_capacity(text.len() / PIECE + 1);
    let mut start = 0;
    for (at, ch) in text.char_indices() {
        let end = at + ch.len_utf8();
        let full = end - start > PIECE;
        if at > start && (full || ch == ' ') {
            ids.push(id_of(&text.as_bytes()[start..at]));
            start = at;
        }
    }
    if start < text.len() {
        ids.push(id_of(&text.as_bytes()[start..]));
    }
    ids
}

fn id_of(piece: &[u8]) -> u32 {
    let mut state = piece.len() as u64;
    for byte in piece {
        state = mix(state.rotate_left(8) ^ u64::from(*byte));
    }
    reduce(state)
}

/// Maps a well mixed word to a token id below [`VOCAB`].
pub(crate) fn reduce(word: u64) -> u32 {
    u32::try_from(word % u64::from(VOCAB)).expect("a remainder below VOCAB fits u32")
}

const CONSONANTS: &[u8; 8] = b"bdfklmst";
const VOWELS: &[u8; 4] = b"aeio";

/// Begins every spelled token. No white space: an answer that begins with some is not what a chat template makes of it.
const MARK: char = '-';

/// Bytes of a spelled token of the emulator's own: the mark and three syllables.
const SPELLED: usize = 7;

/// Splits off the longest end of a text that is spelled tokens, and gives those tokens.
pub(crate) fn split_spelled(text: &str) -> (&str, Vec<u32>) {
    let mut head = text;
    let mut tokens = Vec::new();
    while let Some((rest, token)) = head
        .len()
        .checked_sub(SPELLED)
        .and_then(|at| head.split_at_checked(at))
        .and_then(|(rest, last)| Some((rest, read_spelled(last)?)))
    {
        head = rest;
        tokens.push(token);
    }
    tokens.reverse();
    (head, tokens)
}

/// The token that is spelled like this.
fn read_spelled(text: &str) -> Option<u32> {
    let (pairs, rest) = text.strip_prefix(MARK)?.as_bytes().as_chunks::<2>();
    let mut id = 0;
    for [consonant, vowel] in pairs {
        let at = CONSONANTS.iter().position(|known| known == consonant)? << 2;
        id = id << 5 | at | VOWELS.iter().position(|known| known == vowel)?;
    }
    u32::try_from(id).ok().filter(|_| rest.is_empty())
}

/// Spells one token: the mark and three syllables. Ids beyond [`VOCAB`] (a client may send any) get their number.
pub(crate) fn spell(id: u32) -> String {
    if id >= VOCAB {
        return format!("{MARK}<{id}>");
    }
    let mut text = String::with_capacity(SPELLED);
    text.push(MARK);
    for shift in [10, 5, 0] {
        let syllable = (id >> shift & 31) as usize;
        text.push(char::from(CONSONANTS[syllable >> 2]));
        text.push(char::from(VOWELS[syllable & 3]));
    }
    text
}

/// Spells a run of tokens.
pub(crate) fn decode(ids: &[u32]) -> String {
    ids.iter().map(|id| spell(*id)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn prefix_of_a_text_has_a_prefix_of_its_tokens() {
        let whole = encode("the quick brown fox jumps over the lazy dog");
        let part = encode("the quick brown fox ju");
        assert_eq!(whole[..part.len() - 1], part[..part.len() - 1]);
    }

    #[test]
    fn every_token_has_its_own_spelling() {
        let spelled: HashSet<String> = (0..VOCAB).map(spell).collect();
        assert_eq!(spelled.len(), VOCAB as usize);
        assert!(!spelled.contains(&spell(VOCAB)));
    }

    #[test]
    fn spelled_tokens_are_read_back_from_the_end_of_a_text() {
        let ids = [0, 1, VOCAB - 1, 12_345];
        assert_eq!(split_spelled(&decode(&ids)), ("", ids.to_vec()));
        assert_eq!(split_spelled(&format!("żółw{}", decode(&ids))), ("żółw", ids.to_vec()));
        for plain in ["", "hello", "-bafikux", "-bafik\u{fc}", "bafiku", "\u{1F422}\u{1F422}"] {
            assert_eq!(split_spelled(plain), (plain, vec![]), "{plain:?}");
        }
    }

    #[test]
    fn multibyte_text_is_cut_between_characters_and_nothing_is_lost() {
        let ids = encode("żółw 🐢🐢 ok");
        assert!(ids.len() >= 5);
        assert_ne!(ids, encode("żółw 🐢🐡 ok"));
        assert!(encode("").is_empty());
    }
}
