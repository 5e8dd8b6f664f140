//! TLS in front of an engine that knows none: decrypts, and passes bytes on. It ends its connections as rudely as can be.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::pki::{Authority, Pair};

/// Both versions there are.
pub(crate) const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// Who came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Met {
    /// The server's name as the client knows it (SNI).
    pub(crate) name: Option<String>,
    /// By ALPN.
    pub(crate) protocol: Option<Vec<u8>>,
    /// The client's, if it was asked for one.
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// A running front. Dropping it closes its port.
pub(crate) struct Front {
    address: SocketAddr,
    met: Arc<Mutex<Vec<Met>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Front {
    /// One that shows `pair` to everybody.
    pub(crate) async fn showing(pair: &Pair, engine: SocketAddr) -> Self {
        Self::with(config(pair, None, VERSIONS), engine).await
    }

    pub(crate) async fn with(config: ServerConfig, engine: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let met = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, seen) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&met));
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(pass(acceptor.clone(), stream, engine, Arc::clone(&seen)));
            }
        });
        Self { address, met, accepting }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// As its certificate names it.
    pub(crate) fn target(&self) -> String {
        format!("localhost:{}", self.port())
    }

    /// Everybody whose handshake was completed.
    pub(crate) fn met(&self) -> Vec<Met> {
        self.met.lock().unwrap().clone()
    }
}

/// Shows `pair`; with `clients`, asks for certificates of that authority.
pub(crate) fn config(
    pair: &Pair,
    clients: Option<&Authority>,
    versions: &[&'static SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(vec![pair.der.clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

async fn pass(acceptor: TlsAcceptor, stream: TcpStream, engine: SocketAddr, seen: Arc<Mutex<Vec<Met>>>) {
    let stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((_, mut stream)) => {
            // Closing with the client's bytes unread would be a reset, and that can overtake the alert.
            let mut rest = [0; 512];
            while let Ok(1..) = stream.read(&mut rest).await {}
            return;
        }
    };
    let state = stream.get_ref().1;
    seen.lock().unwrap().push(Met {
        name: state.server_name().map(str::to_owned),
        protocol: state.alpn_protocol().map(<[u8]>::to_vec),
        certificate: state.peer_certificates().map(|chain| chain[0].clone()),
    });
    let Ok(mut engine) = TcpStream::connect(engine).await else { return };
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let (mut from_engine, mut to_engine) = engine.split();
    // Either side ending is the end, and without a word to the other: that is how TLS ends where a process was killed.
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_engine) => {}
        _ = tokio::io::copy(&mut from_engine, &mut to_client) => {}
    }
}
