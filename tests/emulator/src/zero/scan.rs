//! Finds `"key": true` in a body that arrives in pieces, without parsing or keeping it.
//!
//! Good enough for bodies that a bench or a sidecar wrote; text that spells such a member would fool it.

use memchr::memmem::Finder;

/// Longest needle with its value: `"do_remote_decode"`, a colon, spaces, `true`.
const REACH: usize = 40;

/// Looks for one boolean member.
pub(super) struct TrueMember {
    finder: Finder<'static>,
    length: usize,
    tail: Vec<u8>,
    found: bool,
}

impl TrueMember {
    /// `quoted` is the key with its quotes.
    pub(super) fn new(quoted: &'static str) -> Self {
        Self { finder: Finder::new(quoted), length: quoted.len(), tail: Vec::new(), found: false }
    }

    /// Takes the next piece of the body.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        if self.found {
            return;
        }
        if !self.tail.is_empty() {
            // A member across the seam shows in the end of the last piece and the start of this one.
            let mut seam = std::mem::take(&mut self.tail);
            seam.extend_from_slice(&piece[..piece.len().min(REACH)]);
            self.found = self.holds(&seam);
        }
        self.found = self.found || self.holds(piece);
        self.tail.extend_from_slice(&piece[piece.len().saturating_sub(REACH)..]);
    }

    /// Whether the member was there and true.
    pub(super) fn found(&self) -> bool {
        self.found
    }

    fn holds(&self, text: &[u8]) -> bool {
        self.finder.find_iter(text).any(|at| {
            let rest = text[at + self.length..].trim_ascii_start();
            rest.strip_prefix(b":").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"true"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&str]) -> bool {
        let mut member = TrueMember::new("\"do_remote_decode\"");
        for piece in pieces {
            member.feed(piece.as_bytes());
        }
        member.found()
    }

    #[test]
    fn finds_the_member_with_and_without_spaces() {
        assert!(scan(&[r#"{"do_remote_decode":true}"#]));
        assert!(scan(&[r#"{"do_remote_decode" : true}"#]));
        assert!(!scan(&[r#"{"do_remote_decode":false,"do_remote_prefill":true}"#]));
    }

    #[test]
    fn finds_a_member_cut_at_any_place() {
        let body = r#"{"a":1,"do_remote_decode": true,"b":2}"#;
        for at in 0..body.len() {
            assert!(scan(&[&body[..at], &body[at..]]), "cut at {at}");
        }
    }
}
