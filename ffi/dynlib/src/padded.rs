//! Parameter structs with room behind them, for libraries that may know a longer version of the struct.
//!
//! UCX only ever adds fields at the end and reads those whose bit is set in a mask. Some fields of an options struct
//! carry no such bit, though, and NIXL's have none at all. A newer library that reads past the end must find zeroes
//! that belong to the struct, not whatever lies behind it.

use std::ops::{Deref, DerefMut};

/// Spare bytes behind a struct. UCX's longest struct that grew did so by 32 bytes in nine minor versions; this is
/// eight times that.
pub const TAIL: usize = 256;

/// A C struct for which all-zero bytes are a valid value.
///
/// # Safety
/// Every field must be a boolean, an integer, a float, a raw pointer, an `Option` of a function pointer, or made of
/// such.
pub unsafe trait Zeroable {}

/// A `T` of zeroes with [`TAIL`] zero bytes behind it, which also belong to it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Padded<T> {
    value: T,
    tail: [u8; TAIL],
}

impl<T: Zeroable> Padded<T> {
    /// All bytes zero.
    pub fn zeroed() -> Self {
        // SAFETY: `Zeroable` says that zeroes are a value of `T`; they are one of bytes.
        unsafe { std::mem::zeroed() }
    }
}

impl<T: Zeroable> Default for Padded<T> {
    fn default() -> Self {
        Self::zeroed()
    }
}

impl<T> Padded<T> {
    /// For a call that reads the struct. Good for the tail too.
    pub fn as_ptr(&self) -> *const T {
        std::ptr::from_ref(self).cast()
    }

    /// For a call that fills in the struct. Good for the tail too.
    pub fn as_mut_ptr(&mut self) -> *mut T {
        std::ptr::from_mut(self).cast()
    }
}

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Padded<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Options {
        mask: u64,
        name: *const std::ffi::c_char,
    }

    // SAFETY: an integer and a raw pointer.
    unsafe impl Zeroable for Options {}

    #[test]
    fn what_lies_behind_the_struct_is_zero_and_its_own() {
        let mut options = Padded::<Options>::zeroed();
        options.mask = u64::MAX;
        assert!(options.name.is_null());
        let whole = size_of::<Options>() + TAIL;
        assert_eq!(size_of_val(&options), whole);
        // SAFETY: the pointer is good for the whole padded value, all of it initialised.
        let bytes = unsafe { std::slice::from_raw_parts(options.as_ptr().cast::<u8>(), whole) };
        assert_eq!(bytes[..8], [0xff; 8]);
        assert!(bytes[8..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_longer_struct_may_be_written_through_the_pointer() {
        let mut options = Padded::<Options>::zeroed();
        // SAFETY: the last byte of the tail is within the padded value.
        unsafe { options.as_mut_ptr().cast::<u8>().add(size_of::<Options>() + TAIL - 1).write(7) };
        assert_eq!(options.tail[TAIL - 1], 7);
        assert_eq!(options.mask, 0);
    }
}
