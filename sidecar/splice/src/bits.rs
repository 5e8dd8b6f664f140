//! The scanner's memory of open brackets.

/// A stack of booleans at one bit each, so that a body of nothing but brackets stays cheap.
#[derive(Debug, Default)]
pub(crate) struct BitStack {
    words: Vec<u64>,
    len: usize,
}

impl BitStack {
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, bit: bool) {
        let (word, shift) = (self.len / 64, self.len % 64);
        if word == self.words.len() {
            self.words.push(0);
        }
        self.words[word] = self.words[word] & !(1 << shift) | u64::from(bit) << shift;
        self.len += 1;
    }

    /// Removes the top; false if there is none.
    pub(crate) fn pop(&mut self) -> bool {
        let had = self.len > 0;
        self.len = self.len.saturating_sub(1);
        had
    }

    pub(crate) fn top(&self) -> Option<bool> {
        let last = self.len.checked_sub(1)?;
        Some(self.words[last / 64] >> (last % 64) & 1 == 1)
    }
}
