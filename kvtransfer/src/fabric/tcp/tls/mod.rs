//! TLS for every stream, if it is asked for: both ends encrypt or neither does. A side that encrypts never talks to one
//! that does not, whoever asks for it, so nobody in between can talk them out of it.
//!
//! The first byte tells: a TLS connection begins with a record of a handshake, a plain one with the `k` of our hello. So
//! either side can say to the other what is wrong, in the words that it understands.
//!
//! It works in user space, on the progress threads. Kernel TLS would save a copy on each side, but kernels before 6.14
//! cannot follow a change of keys, which AES-GCM needs after some 400 GB of a stream.

mod problem;
mod records;
mod session;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};

pub use problem::TlsProblem;
pub(super) use session::Session;

/// The first byte of a plain stream: of our hello.
const PLAIN: u8 = super::hello::MAGIC[0];
/// The first byte of an encrypted one: a record of a handshake (RFC 8446, 5.1).
pub(super) const HANDSHAKE: u8 = 0x16;

/// How streams are encrypted. Certificates, authorities, versions and suites are those of the two configurations; with a
/// verifier of clients in `server`, each side proves who it is.
#[derive(Debug, Clone)]
pub struct Tls {
    /// For streams that this side opens.
    pub client: Arc<ClientConfig>,
    /// For streams that come in.
    pub server: Arc<ServerConfig>,
    /// The name that peers' certificates are for, if all agents of the deployment have the same; else it is the address
    /// at which a peer is reached.
    pub name: Option<ServerName<'static>>,
}
