//! What a non-blocking call came to: UCX packs three answers into one pointer.

use std::ffi::c_void;
use std::ptr::NonNull;

use crate::{UCS_ERR_LAST, UCS_OK, ucs_status_ptr_t, ucs_status_t};

/// The three answers of a call that returns a status pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Done at once; no callback will come.
    Done,
    /// Failed with this status; no callback will come.
    Failed(ucs_status_t),
    /// Under way: a request to be freed with `ucp_request_free` once it is done.
    Pending(NonNull<c_void>),
}

impl Completion {
    /// Takes the pointer apart.
    pub fn of(answer: ucs_status_ptr_t) -> Self {
        // Statuses are small negative numbers written as addresses: the last hundred of the address space.
        let Some(request) = NonNull::new(answer) else { return Self::Done };
        let number = answer.addr().cast_signed();
        match ucs_status_t::try_from(number) {
            Ok(status) if (UCS_ERR_LAST..UCS_OK).contains(&status) => Self::Failed(status),
            _ => Self::Pending(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UCS_ERR_BUSY, UCS_ERR_ENDPOINT_TIMEOUT, UCS_ERR_NO_MESSAGE};

    fn answer(number: isize) -> ucs_status_ptr_t {
        std::ptr::without_provenance_mut(number.cast_unsigned())
    }

    #[test]
    fn null_is_done() {
        assert_eq!(Completion::of(std::ptr::null_mut()), Completion::Done);
    }

    #[test]
    fn the_last_hundred_addresses_are_errors() {
        assert_eq!(Completion::of(answer(-1)), Completion::Failed(UCS_ERR_NO_MESSAGE));
        assert_eq!(Completion::of(answer(-15)), Completion::Failed(UCS_ERR_BUSY));
        assert_eq!(Completion::of(answer(-80)), Completion::Failed(UCS_ERR_ENDPOINT_TIMEOUT));
        assert_eq!(Completion::of(answer(-100)), Completion::Failed(UCS_ERR_LAST));
    }

    #[test]
    fn any_other_address_is_a_request() {
        for number in [-101, -4096, 1, 64, 0x7f00_dead_b000] {
            let request = NonNull::new(answer(number)).unwrap();
            assert_eq!(Completion::of(answer(number)), Completion::Pending(request), "{number}");
        }
    }
}
