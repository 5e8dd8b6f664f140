//! TLS of the listener and of the legs: who may read what passes, and how an operator changes that without a restart.
//!
//! - [`ListenerTls`] answers clients (and scrapers of the metrics port): a certificate from a directory or a
//!   self-signed one, and, if asked for, clients that must show a certificate too.
//! - [`LegTls`] opens legs to engines and other sidecars: the peer's certificate is verified unless the operator turns
//!   that off, and a certificate of our own is shown to peers that ask for one.
//!
//! Files are watched. A new set takes effect for new connections once it has been read the same twice and every part
//! of it fits; until then, and whenever it does not fit, the previous set stays. Open connections are never touched.
//!
//! Versions and cipher suites are named as Go names them, because that is what the flags have always taken.
//! The cryptography is *ring*'s, passed explicitly: no process-wide default is read or set.

mod error;
mod files;
mod handshake;
mod leg;
mod listener;
mod names;
mod self_signed;
mod unverified;
mod watch;

pub use error::TlsError;
pub use files::MAX_FILE;
pub use handshake::{HANDSHAKE_TIMEOUT, HandshakeError, late_refusal};
pub use leg::{LegOptions, LegStream, LegTls, MAX_RESUMABLE};
pub use listener::{ListenerOptions, ListenerTls, Protocol, ServerStream};
pub use names::{DEFAULT_MIN_VERSION, check_names};
pub use watch::{POLL, SETTLE};
