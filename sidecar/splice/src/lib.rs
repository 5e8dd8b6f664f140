//! Edits of JSON bodies and SSE streams that leave every byte but the edited ones as it was.
//!
//! An engine's chat template renders parts of a request verbatim, and tool schemas, number texts and key order reach
//! the model. So a body is never parsed into values and written back: one scan finds where the few top-level members of
//! interest lie ([`Scanner`]), edits are made as splices of byte ranges ([`Edits`]), and everything between goes on as
//! the same reference-counted bytes that arrived ([`Chunks`]).
//!
//! Pure: no I/O, no clock.

mod bits;
mod chunks;
mod edit;
mod malformed;
mod path;
mod scan;
mod sse;
mod strings;

pub use chunks::Chunks;
pub use edit::Edits;
pub use malformed::{Malformed, MalformedKind};
pub use memchr::memmem::Finder;
pub use path::{Missing, get_path, set_path};
pub use scan::{Document, MAX_WATCHED_MEMBERS, Scanner, scan, scan_chunks};
pub use sse::{MAX_HELD_LINE, SseRewriter};
