//! What must hold for any bytes a stranger sends: one function per target, which panics when a property is broken.
//!
//! The same functions are called from two sides: by the tests of this crate, on every corpus file, on mutations and on
//! generated inputs (`cargo test -p kvferry-fuzz`), and by a coverage-guided fuzzer (`make fuzz`). Each input is the
//! plain text that the target reads, so that corpus files can be read and written by hand; how a run cuts and edits it
//! is fixed in the target.
//!
//! Pure: no I/O, no clock.

mod headers;
mod oracle;
mod pieces;
// The file itself rather than the sidecar's crate: with that, everything a sidecar links would be built with a fuzzer's
// instrumentation, to test two hundred lines that depend on none of it.
#[path = "../../../sidecar/src/request/headers.rs"]
mod request_headers;
mod splice;
mod sse;
mod yaml;

pub use headers::headers;
pub use splice::splice;
pub use sse::sse;
pub use yaml::yaml;

/// A target by its name, which is also the name of its corpus folder, its dictionary and its fuzzer.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Lower case.
    pub name: &'static str,
    /// Checks one input; panics when a property is broken.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 4] = [
    Target { name: "headers", run: headers },
    Target { name: "splice", run: splice },
    Target { name: "sse", run: sse },
    Target { name: "yaml", run: yaml },
];
