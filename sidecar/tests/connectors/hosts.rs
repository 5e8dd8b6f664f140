//! A loopback address for every engine: some protocols have every engine listen on the same port.

use std::sync::atomic::{AtomicU32, Ordering};

/// An address that no other test of this program uses, and no other program that runs now.
pub(crate) fn own_host() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (process, next) = (std::process::id() % 62_500, NEXT.fetch_add(1, Ordering::Relaxed));
    assert!(next < 250, "every test has its address");
    format!("127.{}.{}.{}", 1 + process / 250, 1 + process % 250, 1 + next)
}
