//! What has been received and not yet understood. It holds frames, never more of a chunk's data than came along.

/// Bytes in the order they came.
#[derive(Debug, Default)]
pub(super) struct InBuf {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// Room beyond this is given back once it is not needed: thousands of streams would keep it for one long message each.
const KEPT: usize = 8 << 10;

impl InBuf {
    pub(super) fn have(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The first `count` are dealt with.
    pub(super) fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start, "what is dealt with was there");
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > KEPT {
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
        let (mut buffer, mut next, mut expected) = (InBuf::default(), 0_u8, 0_u8);
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
        }
    }
}
