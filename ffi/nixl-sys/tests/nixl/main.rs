//! The bindings against real NIXL: its header, its libraries, and libraries that only look like it.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod layout;
mod look_alike;
mod refusals;
mod smoke;
mod wheels;

use kvferry_ffi_testing::C;

const CC: C<'_> = C { folder: concat!(env!("CARGO_TARGET_TMPDIR"), "/", env!("CARGO_PKG_NAME")) };
