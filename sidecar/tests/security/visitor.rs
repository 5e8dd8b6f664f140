//! A client of the listener that does TLS, with nothing of ours in it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::common::{Ask, Client, Protocol, within};
use crate::pki::plain_client;

/// Both protocols of the listener, the better one first.
pub(crate) const ANY: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A client that believes anybody.
pub(crate) fn trusting() -> ClientConfig {
    trusting_with(&[&TLS12, &TLS13])
}

pub(crate) fn trusting_with(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    plain_client(Arc::new(Anybody(ring::default_provider())), versions)
}

/// The same client, offering these protocols.
pub(crate) fn speaking(mut config: ClientConfig, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A connection after its handshake.
pub(crate) async fn enter(to: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let stream = within("a connection", TcpStream::connect(to)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    within("a handshake", TlsConnector::from(Arc::clone(config)).connect(name, stream)).await
}

/// A client of the protocol that the handshake chose.
pub(crate) async fn client(to: SocketAddr, config: &Arc<ClientConfig>) -> (Client, Protocol) {
    over(enter(to, config).await.unwrap(), to).await
}

async fn over(stream: TlsStream<TcpStream>, to: SocketAddr) -> (Client, Protocol) {
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        Some(b"http/1.1") | None => Protocol::Http1,
        Some(other) => panic!("a protocol that nobody offered: {other:?}"),
    };
    (Client::over(stream, to, protocol).await, protocol)
}

/// What the listener shows to somebody new.
pub(crate) async fn shown(to: SocketAddr) -> CertificateDer<'static> {
    let stream = enter(to, &speaking(trusting(), ANY)).await.unwrap();
    crate::pki::shown(stream.get_ref().1)
}

/// Whether somebody with this configuration is served. With TLS 1.3 a client learns only after its handshake that it is
/// not welcome.
pub(crate) async fn is_served(to: SocketAddr, config: &Arc<ClientConfig>) -> bool {
    let Ok(stream) = enter(to, config).await else { return false };
    let (mut client, _) = over(stream, to).await;
    client.begin(Ask::get("/health")).await.is_ok()
}

#[derive(Debug)]
struct Anybody(CryptoProvider);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
