//! Bytes that are on their way through this process: what has been received and not yet understood, or is still to be
//! sent. It gives its memory back when it is not needed: there may be thousands of streams.

/// Bytes in the order they came.
#[derive(Debug, Default)]
pub(super) struct InBuf {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether room beyond [`KEPT`] is given back at once, or only when it [`rests`](Self::rest).
    lasting: bool,
}

/// Room that is kept: most frames fit, and longer messages are rare.
const KEPT: usize = 8 << 10;

impl InBuf {
    /// One whose room is used again and again while the stream is busy.
    pub(super) fn lasting() -> Self {
        Self { lasting: true, ..Self::default() }
    }

    pub(super) fn have(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn have_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Nothing happens for a while: gives the room back, if there is nothing in it.
    pub(super) fn rest(&mut self) {
        if self.start == self.end {
            self.bytes = Vec::new();
        }
    }

    /// The first `count` are dealt with.
    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start, "what is dealt with was there");
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > KEPT && !self.lasting {
                self.bytes = Vec::new();
            }
        }
    }

    /// Room for `count` bytes to come. Say how many did with [`came`](Self::came).
    pub(super) fn room(&mut self, count: usize) -> &mut [u8] {
        if self.end + count > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end + count > self.bytes.len() {
                self.bytes.resize(self.end + count, 0);
            }
        }
        &mut self.bytes[self.end..self.end + count]
    }

    pub(super) fn came(&mut self, count: usize) {
        self.end += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_whatever_room_was_made_between() {
        for mut buffer in [InBuf::default(), InBuf::lasting()] {
            passes_all(&mut buffer);
        }
    }

    fn passes_all(buffer: &mut InBuf) {
        let (mut next, mut expected) = (0_u8, 0_u8);
        for round in 1..200_usize {
            let count = round * 7 % 90;
            for byte in buffer.room(count) {
                *byte = next;
                next = next.wrapping_add(1);
            }
            buffer.came(count);
            let taken = buffer.have().len().min(round * 5 % 80);
            for byte in &buffer.have()[..taken] {
                assert_eq!(*byte, expected);
                expected = expected.wrapping_add(1);
            }
            buffer.consume(taken);
            buffer.rest();
        }
    }
}
