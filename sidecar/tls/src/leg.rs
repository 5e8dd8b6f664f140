//! The dialling side: who the peer must be, and what it gets to see of us.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::error::TlsError;
use crate::files::{Contents, Material, Sources};
use crate::handshake::{HandshakeError, Side, within};
use crate::names::Policy;
use crate::unverified::Unverified;
use crate::watch::Reloaded;

/// A leg's connection after its handshake. With TLS 1.3 a peer that refuses *our* certificate may say so only later:
/// see [`late_refusal`](crate::late_refusal).
pub type LegStream<IO> = tokio_rustls::client::TlsStream<IO>;

/// Sessions kept for resumption, eight to a host: 128 hosts, more prefillers than one decoder is paired with in a
/// while. One host more costs a full handshake now and then, a larger store megabytes in every sidecar.
pub const MAX_RESUMABLE: usize = 1024;

/// How one kind of leg does TLS.
#[derive(Debug, Clone, Default)]
pub struct LegOptions {
    /// Accept any certificate. `ca` is not read then.
    pub skip_verify: bool,
    /// Bundle of authorities trusted besides the system's.
    pub ca: Option<PathBuf>,
    /// Directory with `tls.crt` and `tls.key` for peers that ask who we are.
    pub client_cert_dir: Option<PathBuf>,
    /// Lowest version, by Go's name; empty: [`DEFAULT_MIN_VERSION`](crate::DEFAULT_MIN_VERSION).
    pub min_version: String,
    /// Suites of TLS 1.2 by Go's names; empty: all that are offered at all.
    pub cipher_suites: Vec<String>,
}

/// TLS of one kind of leg, its files watched as long as a clone of it lives.
#[derive(Debug, Clone)]
pub struct LegTls {
    state: Arc<Reloaded<State>>,
}

#[derive(Debug)]
enum State {
    Ready(Arc<ClientConfig>),
    /// Nothing could be verified. Not an error before a leg is really to be opened.
    NoAuthorities,
}

impl LegTls {
    /// Reads the files and watches them from then on. Reads from disk: call it before serving begins.
    ///
    /// # Errors
    /// Names or files that cannot be used.
    pub fn start(options: LegOptions) -> Result<Self, TlsError> {
        let policy = Policy::parse(&options.min_version, &options.cipher_suites)?;
        let (system, ca) =
            if options.skip_verify { (None, None) } else { (Some(system_authorities()), options.ca) };
        let sources = Sources { pair: options.client_cert_dir, authorities: ca };
        let builder = Builder { policy, sources: sources.clone(), system };
        let state = Reloaded::start(sources, move |contents| builder.build(contents))?;
        if matches!(*state.get(), State::NoAuthorities) {
            tracing::warn!(error = %HandshakeError::NoAuthorities, "TLS legs will not open");
        }
        Ok(Self { state: Arc::new(state) })
    }

    /// Shakes hands with `host` at the other end of `stream`. The host is a DNS name or an IP address, IPv6 with or
    /// without brackets; its certificate must be for it.
    ///
    /// # Errors
    /// The inner error is a [`HandshakeError`]; the connection is of no more use.
    pub fn connect<IO>(
        &self,
        host: &str,
        stream: IO,
    ) -> impl Future<Output = io::Result<LegStream<IO>>> + use<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let prepared = self.prepare(host);
        async move {
            let (config, name) = prepared?;
            within(Side::Leg, TlsConnector::from(config).connect(name, stream)).await
        }
    }

    fn prepare(&self, host: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>), HandshakeError> {
        let name = server_name(host)?;
        match &*self.state.get() {
            State::Ready(config) => Ok((Arc::clone(config), name)),
            State::NoAuthorities => Err(HandshakeError::NoAuthorities),
        }
    }
}

/// What the peer's certificate must be for. It is sent to the peer (SNI) if it is a name.
fn server_name(host: &str) -> Result<ServerName<'static>, HandshakeError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    // A zone says which interface leads to a link-local address; no certificate knows it.
    let bare = if bare.contains(':') { bare.split('%').next().unwrap_or(bare) } else { bare };
    ServerName::try_from(bare.to_owned()).map_err(|_| HandshakeError::BadName { host: host.to_owned() })
}

/// The authorities that the system trusts, or none of them.
fn system_authorities() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "a part of the system's certificate authorities was not read");
    }
    let mut store = RootCertStore::empty();
    // Bundles of old systems hold some that no longer parse; the others still count.
    store.add_parsable_certificates(found.certs);
    store
}

/// Makes a configuration of what the files hold, at the start and at every reload.
struct Builder {
    policy: Policy,
    sources: Sources,
    /// `None`: no verification.
    system: Option<RootCertStore>,
}

impl Builder {
    fn build(&self, contents: &Contents) -> Result<State, TlsError> {
        let provider = self.policy.provider();
        let unusable = |detail: String| TlsError::Unusable { detail };
        let Material { pair, authorities } = self.sources.understand(contents, &provider)?;

        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(self.policy.versions())
            .map_err(|error| unusable(error.to_string()))?;
        let builder = match &self.system {
            Some(system) => {
                let mut trusted = system.clone();
                trusted.roots.extend(authorities.into_iter().flat_map(|bundle| bundle.roots));
                if trusted.is_empty() {
                    return Ok(State::NoAuthorities);
                }
                builder.with_webpki_verifier(
                    WebPkiServerVerifier::builder_with_provider(Arc::new(trusted), provider)
                        .build()
                        .map_err(|error| unusable(error.to_string()))?,
                )
            }
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider))),
        };
        let mut config = match pair {
            Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair))),
            None => builder.with_no_client_auth(),
        };
        // Engines are spoken to in HTTP/1.1 only.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::in_memory_sessions(MAX_RESUMABLE);
        Ok(State::Ready(Arc::new(config)))
    }
}
