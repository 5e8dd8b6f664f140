//! The bindings against NVIDIA's header where one is installed, and against libraries that only look like the driver.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod header;
mod refusals;

use kvferry_ffi_testing::C;

const CC: C<'_> = C { folder: concat!(env!("CARGO_TARGET_TMPDIR"), "/", env!("CARGO_PKG_NAME")) };

/// A function as the bindings declare it: its name, and the types of its arguments.
pub(crate) struct Declared {
    pub(crate) name: &'static str,
    pub(crate) arguments: Vec<&'static str>,
}

/// All that every supported driver must have.
pub(crate) fn required() -> Vec<Declared> {
    let source = include_str!("../../src/functions.rs");
    let body = source.split("required! {").nth(1).unwrap().split("\n}\n").next().unwrap();
    let functions = body.lines().filter_map(|line| line.trim().strip_prefix("fn ")?.strip_suffix(");"));
    let declared = |function: &'static str| {
        let (name, arguments) = function.split_once('(').unwrap();
        let types = arguments.split(", ").map(|argument| argument.split_once(": ").unwrap().1);
        Declared { name, arguments: types.collect() }
    };
    functions.map(declared).collect()
}
