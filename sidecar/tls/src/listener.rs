//! The listening side: shows a certificate, and may require one of every client.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::error::TlsError;
use crate::files::{Contents, Material, Sources};
use crate::handshake::{Side, within};
use crate::names::Policy;
use crate::self_signed;
use crate::watch::Reloaded;

/// A client's connection after its handshake.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How a listener does TLS.
#[derive(Debug, Clone, Default)]
pub struct ListenerOptions {
    /// Directory with `tls.crt` (chain, own certificate first) and `tls.key`; `None`: self-signed, made at the start.
    pub cert_dir: Option<PathBuf>,
    /// Lowest version, by Go's name; empty: [`DEFAULT_MIN_VERSION`](crate::DEFAULT_MIN_VERSION).
    pub min_version: String,
    /// Suites of TLS 1.2 by Go's names; empty: all that are offered at all.
    pub cipher_suites: Vec<String>,
    /// Bundle of authorities; if given, every client must show a certificate that one of them signed.
    pub client_ca: Option<PathBuf>,
    /// Do not offer HTTP/2: for a port whose server does not speak it.
    pub http1_only: bool,
}

/// TLS of one listening port, its files watched as long as a clone of it lives.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    config: Arc<Reloaded<ServerConfig>>,
}

/// What a connection carries, as agreed in its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, also if the client named no protocol.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// What was agreed for `stream`.
    pub fn of<IO>(stream: &ServerStream<IO>) -> Self {
        if stream.get_ref().1.alpn_protocol() == Some(HTTP2) { Self::Http2 } else { Self::Http1 }
    }
}

impl ListenerTls {
    /// Reads the files and watches them from then on. Reads from disk: call it before serving begins.
    ///
    /// # Errors
    /// Names or files that cannot be used.
    pub fn start(options: ListenerOptions) -> Result<Self, TlsError> {
        let policy = Policy::parse(&options.min_version, &options.cipher_suites)?;
        let sources = Sources { pair: options.cert_dir, authorities: options.client_ca };
        // Made once and kept over reloads of the clients' authorities: a client may have pinned it.
        let own = if sources.pair.is_none() { Some(self_signed::make(&policy.provider())?) } else { None };
        let builder = Builder { policy, sources: sources.clone(), own, http1_only: options.http1_only };
        let config = Reloaded::start(sources, move |contents| builder.build(contents))?;
        Ok(Self { config: Arc::new(config) })
    }

    /// Shakes hands with the client at the other end of `stream`, with the certificate in force now.
    ///
    /// # Errors
    /// The inner error is a [`HandshakeError`](crate::HandshakeError); the connection is of no more use.
    pub fn accept<IO>(&self, stream: IO) -> impl Future<Output = io::Result<ServerStream<IO>>> + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        within(Side::Listener, TlsAcceptor::from(self.config.get()).accept(stream))
    }
}

/// Makes a configuration of what the files hold, at the start and at every reload.
struct Builder {
    policy: Policy,
    sources: Sources,
    /// The self-signed certificate, where no directory was given.
    own: Option<Arc<CertifiedKey>>,
    http1_only: bool,
}

impl Builder {
    fn build(&self, contents: &Contents) -> Result<ServerConfig, TlsError> {
        let provider = self.policy.provider();
        let unusable = |detail: String| TlsError::Unusable { detail };
        let Material { pair, authorities } = self.sources.understand(contents, &provider)?;
        let pair = pair
            .or_else(|| self.own.clone())
            .expect("a listener without a directory has its self-signed certificate");
        if !self.policy.fits(pair.key.algorithm()) {
            tracing::warn!(
                key = ?pair.key.algorithm(),
                "no TLS 1.2 cipher suite fits the kind of the certificate's key, only TLS 1.3 clients can connect"
            );
        }

        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.policy.versions())
            .map_err(|error| unusable(error.to_string()))?;
        let known_clients_only = authorities.is_some();
        let builder = match authorities {
            Some(authorities) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider)
                    .build()
                    .map_err(|error| unusable(error.to_string()))?,
            ),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        let protocols: &[&[u8]] = if self.http1_only { &[HTTP1] } else { &[HTTP2, HTTP1] };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        if known_clients_only {
            // A resumed session shows no certificate, so one that has expired since would still open the door.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            // Sealed tickets need no memory here, whatever the number of clients.
            config.ticketer = Ticketer::new().map_err(|error| unusable(error.to_string()))?;
        }
        Ok(config)
    }
}
