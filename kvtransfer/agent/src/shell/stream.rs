//! Streams of bytes, encrypted or not, and frames on them.

use std::net::SocketAddr;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Error;
use crate::options::Tls;

/// A connection.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Connects to `address`.
pub(super) async fn call(address: &str, tls: Option<&Tls>) -> Result<Box<dyn Duplex>, Error> {
    let unreachable = |error: std::io::Error| Error::Unreachable(address.into(), error.to_string());
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    // Latency is all that matters here; if it cannot be set, it is only slower.
    stream.set_nodelay(true).ok();
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = match &tls.peers_are {
        Some(name) => name.clone(),
        None => host_of(address)?,
    };
    let connector = TlsConnector::from(std::sync::Arc::clone(&tls.client));
    let stream = connector.connect(name, stream).await.map_err(|error| Error::Tls(error.to_string()))?;
    Ok(Box::new(stream))
}

fn host_of(address: &str) -> Result<ServerName<'static>, Error> {
    let host = address.parse::<SocketAddr>().map(|address| address.ip().to_string());
    let host = host.unwrap_or_else(|_| address.rsplit_once(':').map_or(address, |(host, _)| host).into());
    ServerName::try_from(host).map_err(|error| Error::Tls(format!("{address} names no host: {error}")))
}

/// Answers a connection.
pub(super) async fn answer(stream: TcpStream, tls: Option<&Tls>) -> Result<Box<dyn Duplex>, Error> {
    stream.set_nodelay(true).ok();
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let acceptor = TlsAcceptor::from(std::sync::Arc::clone(&tls.server));
    let stream = acceptor.accept(stream).await.map_err(|error| Error::Tls(error.to_string()))?;
    Ok(Box::new(stream))
}

/// The next frame's bytes.
pub(super) async fn frame(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    most: usize,
) -> Result<Bytes, Error> {
    let mut len = [0; 4];
    exactly(stream, &mut len).await?;
    let len = u32::from_le_bytes(len);
    let fits = usize::try_from(len).ok().filter(|len| *len <= most);
    let len = fits.ok_or(Error::Oversized(len.into(), most as u64))?;
    let mut bytes = vec![0; len];
    exactly(stream, &mut bytes).await?;
    Ok(bytes.into())
}

/// Fills `bytes`.
pub(super) async fn exactly(
    stream: &mut (impl AsyncRead + Unpin + ?Sized),
    bytes: &mut [u8],
) -> Result<(), Error> {
    stream.read_exact(bytes).await.map(drop).map_err(|error| {
        Error::PeerLost(match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "it has closed the connection".into(),
            _ => error.to_string(),
        })
    })
}
