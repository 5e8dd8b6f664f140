//! Two fabrics in one process, their memory, and a relay between them that can stall and lie.

mod certificates;
mod relay;
mod side;

pub use certificates::{Authority, named};
pub use relay::{Relay, Way};
pub use side::{Side, TOKEN, place, read, segment, write};
