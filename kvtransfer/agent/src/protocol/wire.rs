//! Numbers and bytes as they travel: little-endian, without padding. Reading is strict and never panics.

use crate::Error;

/// Takes values from the front of some bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

const SHORT: Error = Error::Malformed("it ends too early");

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// A `u32`, no more than `most`.
    pub(super) fn count(&mut self, most: usize, what: &'static str) -> Result<usize, Error> {
        let count = self.u32()?;
        usize::try_from(count).ok().filter(|count| *count <= most).ok_or(Error::Malformed(what))
    }

    /// Bytes that a `u32` in front of them counts, no more than `most`.
    pub(super) fn counted(&mut self, most: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let count = self.count(most, what)?;
        self.bytes(count)
    }

    /// Text, likewise.
    pub(super) fn text(&mut self, most: usize, what: &'static str) -> Result<&'a str, Error> {
        std::str::from_utf8(self.counted(most, what)?).map_err(|_| Error::Malformed(what))
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub(super) const fn end(&self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Malformed("more follows than belongs to it")) }
    }
}

/// Puts values at the end of some bytes.
pub(super) trait Writer {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_count(&mut self, count: usize) {
        self.put_u32(u32::try_from(count).expect("all counts are bounded far below 4 Gi"));
    }

    fn put_counted(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.put(bytes);
    }
}

impl Writer for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
