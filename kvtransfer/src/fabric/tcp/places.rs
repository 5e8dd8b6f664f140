//! Lists of places for one call of the system, or for one round of a cipher: from where it sends, and to where it
//! receives.

#![expect(unsafe_code, reason = "places lie in memory that others write, and are reached by pointer")]

use std::marker::PhantomData;
use std::ptr;

use super::limits::TURN_BYTES;
use super::memory::Ranges;

/// Places that one call of the system takes: `IOV_MAX` of Linux.
const PLACES: usize = 1024;

#[derive(Debug)]
struct List {
    /// Each lies in a region that `Ranges` keeps, or in a buffer; what it is borrowed from outlives the list.
    list: Vec<libc::iovec>,
    bytes: u64,
}

impl List {
    fn new() -> Self {
        Self { list: Vec::with_capacity(16), bytes: 0 }
    }

    fn full(&self) -> bool {
        self.list.len() == PLACES || self.bytes >= TURN_BYTES
    }

    fn push(&mut self, base: *mut libc::c_void, len: usize) {
        if len > 0 {
            self.list.push(libc::iovec { iov_base: base, iov_len: len });
            self.bytes += len as u64;
        }
    }

    /// Whether all of it fitted.
    fn push_ranges(&mut self, ranges: &Ranges) -> bool {
        for vector in ranges.vectors() {
            if self.full() {
                return false;
            }
            let room = usize::try_from(TURN_BYTES - self.bytes).unwrap_or(usize::MAX);
            let len = vector.iov_len.min(room);
            self.push(vector.iov_base, len);
            if len < vector.iov_len {
                return false;
            }
        }
        true
    }

    /// Names the next `most` bytes or fewer, in pieces: where each lies, its length, and how many came before it.
    fn walk(&self, cursor: &mut Cursor, most: usize, mut each: impl FnMut(*mut u8, usize, usize)) -> usize {
        let mut done = 0;
        while done < most
            && let Some(place) = self.list.get(cursor.place)
        {
            let len = (place.iov_len - cursor.within).min(most - done);
            each(place.iov_base.cast::<u8>().wrapping_add(cursor.within), len, done);
            cursor.within += len;
            done += len;
            if cursor.within == place.iov_len {
                *cursor = Cursor { place: cursor.place + 1, within: 0 };
            }
        }
        done
    }
}

/// How far somebody has come in a list.
#[derive(Debug, Default)]
struct Cursor {
    place: usize,
    within: usize,
}

/// What is to be sent, for as long as it is borrowed.
#[derive(Debug)]
pub(super) struct Gather<'a> {
    list: List,
    cursor: Cursor,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'a> Gather<'a> {
    pub(super) fn new() -> Self {
        Self { list: List::new(), cursor: Cursor::default(), borrowed: PhantomData }
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.list.bytes
    }

    /// `false` if there is no room for more.
    pub(super) fn push(&mut self, bytes: &'a [u8]) -> bool {
        if self.list.full() {
            return false;
        }
        self.list.push(bytes.as_ptr().cast_mut().cast(), bytes.len());
        true
    }

    /// `false` if not all of it had room.
    pub(super) fn push_ranges(&mut self, ranges: &'a Ranges) -> bool {
        self.list.push_ranges(ranges)
    }

    /// For a call of the system that reads there.
    pub(super) fn vectors(&self) -> &[libc::iovec] {
        &self.list.list
    }

    /// Copies the next bytes out, as many as `into` has room for; returns how many.
    pub(super) fn take(&mut self, into: &mut [u8]) -> usize {
        let Self { list, cursor, .. } = self;
        list.walk(cursor, into.len(), |base, len, done| {
            let into = &mut into[done..done + len];
            // SAFETY: `base` has `len` bytes of a place that is borrowed or kept for as long as this list is (see `List`);
            // `into` is a buffer of ours, apart from it. Others may write there meanwhile, which a copy does not mind.
            unsafe { ptr::copy_nonoverlapping(base, into.as_mut_ptr(), len) };
        })
    }
}

/// Where to receive to, for as long as it is borrowed.
#[derive(Debug)]
pub(super) struct Scatter<'a> {
    list: List,
    cursor: Cursor,
    filled: u64,
    borrowed: PhantomData<&'a mut [u8]>,
}

impl<'a> Scatter<'a> {
    pub(super) fn new() -> Self {
        Self { list: List::new(), cursor: Cursor::default(), filled: 0, borrowed: PhantomData }
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.list.bytes
    }

    pub(super) fn push(&mut self, buffer: &'a mut [u8]) {
        if self.list.list.len() < PLACES {
            self.list.push(buffer.as_mut_ptr().cast(), buffer.len());
        }
    }

    /// `false` if not all of it had room.
    pub(super) fn push_ranges(&mut self, ranges: &'a mut Ranges) -> bool {
        self.list.push_ranges(ranges)
    }

    /// For a call of the system that writes there.
    pub(super) fn vectors(&mut self) -> &[libc::iovec] {
        &self.list.list
    }

    /// Bytes that have not been [`put`](Self::put) there.
    pub(super) fn room(&self) -> usize {
        usize::try_from(self.list.bytes - self.filled).unwrap_or(usize::MAX)
    }

    /// Copies `from` to the next places, as far as there is room; returns how much.
    pub(super) fn put(&mut self, from: &[u8]) -> usize {
        let Self { list, cursor, filled, .. } = self;
        let count = list.walk(cursor, from.len(), |base, len, done| {
            let from = &from[done..done + len];
            // SAFETY: `base` has `len` bytes of a buffer that is borrowed alone, or of a region that is kept, for as long as
            // this list is (see `List`); `from` is a buffer of ours, apart from both.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), base, len) };
        });
        *filled += count as u64;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_and_put_across_places_in_whatever_pieces() {
        let (first, second, third) = ([1_u8, 2, 3], [4_u8], [5_u8, 6, 7, 8]);
        for step in 1..9 {
            let mut gather = Gather::new();
            assert!(gather.push(&first) && gather.push(&second) && gather.push(&third));
            let (mut one, mut other) = ([0; 5], [0; 2]);
            let mut scatter = Scatter::new();
            scatter.push(&mut one);
            scatter.push(&mut other);
            let mut piece = vec![0; step];
            loop {
                let taken = gather.take(&mut piece);
                if taken == 0 {
                    break;
                }
                let room = scatter.room();
                assert_eq!(scatter.put(&piece[..taken]), taken.min(room));
            }
            assert_eq!(scatter.room(), 0);
            assert_eq!((one, other), ([1, 2, 3, 4, 5], [6, 7]), "what has no room is not put anywhere");
        }
    }
}
