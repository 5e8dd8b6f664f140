//! Authorities and certificates made for one test, folders to put them in, and one handshake over loopback.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvferry_tls::{
    HandshakeError, LegOptions, LegStream, LegTls, ListenerOptions, ListenerTls, ServerStream,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{CommonState, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub type Server = ServerStream<TcpStream>;
pub type Client = LegStream<TcpStream>;

/// A folder that goes away with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn put(&self, pair: &Pair) {
        self.write("tls.crt", &pair.certificate);
        self.write("tls.key", &pair.key);
    }

    /// With `pair` in it from the start.
    pub fn with(pair: &Pair) -> Self {
        let folder = Self::new();
        folder.put(pair);
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, both PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn server(&self, names: &[&str]) -> Pair {
        self.issue(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    pub fn client(&self) -> Pair {
        self.issue(&[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    pub fn expired(&self, name: &str) -> Pair {
        let mut params = params(&[name], ExtendedKeyUsagePurpose::ServerAuth);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.sign(&params)
    }

    fn issue(&self, names: &[&str], purpose: ExtendedKeyUsagePurpose) -> Pair {
        self.sign(&params(names, purpose))
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().clone() }
    }

    /// What rustls alone, given this authority, thinks of servers.
    pub fn verifier(&self) -> Arc<dyn ServerCertVerifier> {
        verifier(self.0.der().clone())
    }
}

fn params(names: &[&str], purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![purpose];
    params
}

pub fn verifier(anchor: CertificateDer<'static>) -> Arc<dyn ServerCertVerifier> {
    let mut store = RootCertStore::empty();
    store.add(anchor).unwrap();
    let provider = Arc::new(ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build().unwrap()
}

/// A client that is rustls and nothing of ours.
pub fn plain_client(
    verifier: Arc<dyn ServerCertVerifier>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth()
}

/// The two ends of one connection over loopback.
pub async fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// Our listener and our leg shake hands.
pub async fn shake(
    listener: &ListenerTls,
    leg: &LegTls,
    host: &str,
) -> (io::Result<Server>, io::Result<Client>) {
    let (near, far) = loopback().await;
    tokio::join!(listener.accept(far), leg.connect(host, near))
}

/// Our listener and any client of rustls shake hands.
pub async fn shake_with(
    listener: &ListenerTls,
    client: &Arc<ClientConfig>,
    host: &'static str,
) -> (io::Result<Server>, io::Result<Client>) {
    let (near, far) = loopback().await;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(client));
    tokio::join!(listener.accept(far), connector.connect(host.try_into().unwrap(), near))
}

/// Bytes reach the other side, both ways.
pub async fn converse(server: &mut Server, client: &mut Client) -> io::Result<()> {
    let mut heard = [0; 4];
    client.write_all(b"ping").await?;
    client.flush().await?;
    server.read_exact(&mut heard).await?;
    assert_eq!(&heard, b"ping");
    server.write_all(b"pong").await?;
    server.flush().await?;
    client.read_exact(&mut heard).await?;
    assert_eq!(&heard, b"pong");
    Ok(())
}

/// Handshake and a few bytes both ways must work.
pub async fn meet(listener: &ListenerTls, leg: &LegTls, host: &str) -> (Server, Client) {
    let (server, client) = shake(listener, leg, host).await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    converse(&mut server, &mut client).await.unwrap();
    (server, client)
}

/// What the other side showed.
pub fn shown(state: &CommonState) -> CertificateDer<'static> {
    state.peer_certificates().unwrap()[0].clone()
}

pub fn why<T>(result: io::Result<T>) -> HandshakeError {
    let error = result.err().unwrap();
    error.get_ref().unwrap().downcast_ref::<HandshakeError>().unwrap().clone()
}

pub fn serving(folder: &Folder) -> ListenerTls {
    ListenerTls::start(ListenerOptions { cert_dir: Some(folder.path()), ..ListenerOptions::default() })
        .unwrap()
}

pub fn self_signed() -> ListenerTls {
    ListenerTls::start(ListenerOptions::default()).unwrap()
}

pub fn unverified() -> LegTls {
    LegTls::start(LegOptions { skip_verify: true, ..LegOptions::default() }).unwrap()
}

pub fn trusting(bundle: PathBuf) -> LegTls {
    LegTls::start(LegOptions { ca: Some(bundle), ..LegOptions::default() }).unwrap()
}

/// Longest wait for something that is sure to come; a machine that needs longer is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tries until it holds.
pub async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}
