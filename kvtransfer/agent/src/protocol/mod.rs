//! What agents say to each other over the control connection: bytes to meanings and back, and nothing else. What comes from a
//! peer is not believed: every count and length is bounded before it is used, and what does not fit is refused whole.
//!
//! A connection begins with [`MAGIC`] from each side. Then come frames: their length (4 bytes, little-endian), and as many
//! bytes, of which the first says what it is.
//!
//! 1. [`Greeting`] each way: versions, name, epoch, a nonce. Short, for anybody may send one.
//! 2. [`Frame::Proof`] each way, if there is a secret: an HMAC over both greetings, by role.
//! 3. [`Frame::Hello`] each way: fabrics and their metadata, regions, what the caller says about itself.
//! 4. All else, in any order.
//!
//! The proof shows who was there when the connection was made; only TLS keeps others from speaking in it afterwards.

mod frame;
mod greeting;
mod hello;
mod proof;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use frame::Frame;
pub(crate) use greeting::{Greeting, MAGIC, check};
pub(crate) use hello::{Carried, Hello, TableRegion};
pub(crate) use proof::{Role, prove, proves};

/// The lowest and highest version that this release speaks. It is 1 until the first release; every change of a frame raises
/// the highest.
pub(crate) const VERSIONS: (u16, u16) = (1, 1);
