//! The bindings against real UCX: its headers, its libraries, and libraries that only look like it.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod layout;
mod places;
mod refusals;
mod smoke;

use kvferry_ffi_testing::C;

const CC: C<'_> = C { folder: concat!(env!("CARGO_TARGET_TMPDIR"), "/", env!("CARGO_PKG_NAME")) };
