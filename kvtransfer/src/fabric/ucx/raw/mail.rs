//! What callbacks have noted. They run inside of UCX's calls, on the progress thread, and do nothing but append to these
//! lists; the worker takes them when the call has returned.

use std::cell::RefCell;
use std::ffi::c_void;
use std::mem;
use std::ptr::NonNull;
use std::slice;

use kvferry_ucx_sys::{UCS_OK, ucp_am_recv_param_t, ucp_ep_h, ucs_status_t};

/// Of `ucp_am_recv_attr_t`: the message came by rendezvous, so its bytes are still at the sender.
const BY_RENDEZVOUS: u64 = 1 << 17;

/// What has been noted since it was last taken.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// Messages.
    pub(super) arrived: Vec<Vec<u8>>,
    /// Operations that have ended: their number, their request, and how.
    pub(super) finished: Vec<(usize, Option<NonNull<c_void>>, ucs_status_t)>,
    /// Endpoints that broke: their number, and how.
    pub(super) broken: Vec<(usize, ucs_status_t)>,
}

thread_local! {
    static MAIL: RefCell<Mail> = RefCell::default();
}

/// Swaps all that has been noted on this thread for an empty list, whose room is used next.
pub(super) fn swap(empty: &mut Mail) {
    debug_assert!(empty.arrived.is_empty() && empty.finished.is_empty() && empty.broken.is_empty());
    MAIL.with(|mail| mem::swap(&mut *mail.borrow_mut(), empty));
}

/// A number in the place of a pointer that only comes back.
pub(super) fn as_argument(number: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(number)
}

/// Called when an operation has ended that did not do so at once.
pub(super) extern "C" fn finished(request: *mut c_void, status: ucs_status_t, number: *mut c_void) {
    note(|mail| mail.finished.push((number.addr(), NonNull::new(request), status)));
}

/// Called once when an endpoint can be used no more.
pub(super) extern "C" fn broken(number: *mut c_void, _endpoint: ucp_ep_h, status: ucs_status_t) {
    note(|mail| mail.broken.push((number.addr(), status)));
}

/// Called when a message has come.
///
/// # Safety
/// UCX's: without the flag for rendezvous, `data` is `length` bytes; `param` is there.
pub(super) unsafe extern "C" fn arrived(
    _argument: *mut c_void,
    _header: *const c_void,
    _header_length: usize,
    data: *mut c_void,
    length: usize,
    param: *const ucp_am_recv_param_t,
) -> ucs_status_t {
    // SAFETY: the caller's.
    let attributes = unsafe { (*param).recv_attr };
    // No agent of ours sends by rendezvous; whoever does is not answered.
    if attributes & BY_RENDEZVOUS == 0 && !data.is_null() {
        // SAFETY: the caller's.
        let bytes = unsafe { slice::from_raw_parts(data.cast::<u8>(), length) };
        note(|mail| mail.arrived.push(bytes.to_vec()));
    }
    UCS_OK
}

fn note(what: impl FnOnce(&mut Mail)) {
    // It is borrowed nowhere else for longer than a `swap`, which calls nothing.
    MAIL.with(|mail| {
        if let Ok(mut mail) = mail.try_borrow_mut() {
            what(&mut mail);
        }
    });
}
