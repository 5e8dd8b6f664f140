//! What UCX prints: the only way, for all versions, to learn what it has found and chosen.

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

/// The text that `call` prints to the stream it is given; nothing if there is no memory for it.
pub(super) fn printed(call: impl FnOnce(*mut libc::FILE)) -> String {
    let (mut buffer, mut length) = (null_mut::<c_char>(), 0);
    // SAFETY: the two places outlive the stream, which is closed below.
    let stream = unsafe { libc::open_memstream(&raw mut buffer, &raw mut length) };
    if stream.is_null() {
        return String::new();
    }
    call(stream);
    // SAFETY: the stream is open, and nobody uses it after.
    unsafe { libc::fclose(stream) };
    if buffer.is_null() {
        return String::new();
    }
    // SAFETY: closing has written a terminated string there.
    let text = unsafe { CStr::from_ptr(buffer) }.to_string_lossy().into_owned();
    // SAFETY: the stream has allocated it, and it is not used after.
    unsafe { libc::free(buffer.cast()) };
    text
}
