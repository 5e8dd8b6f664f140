//! Certificates, keys and bundles as they lie on disk: read within bounds, understood as a whole or refused.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

use crate::error::TlsError;

/// Largest file read, in bytes. All public authorities together take about a quarter of it; a wrong path (a disk
/// image, a log) must not fill the memory.
pub const MAX_FILE: u64 = 1024 * 1024;

/// The certificate chain in a directory, as Kubernetes secrets of type `kubernetes.io/tls` name it.
const CERTIFICATE: &str = "tls.crt";
/// Its private key.
const KEY: &str = "tls.key";

/// Where one side's files are.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// The directory of our own certificate and key.
    pub(crate) pair: Option<PathBuf>,
    /// The bundle of authorities that may have signed the peer's.
    pub(crate) authorities: Option<PathBuf>,
}

/// What the files held at one moment. Compared byte by byte: times and inodes change without a change of content, and
/// on some volumes the content without them. It holds a private key, so it cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    pair: Option<(Outcome, Outcome)>,
    authorities: Option<Outcome>,
}

type Outcome = Result<Vec<u8>, TlsError>;

/// What the files mean.
pub(crate) struct Material {
    pub(crate) pair: Option<Arc<CertifiedKey>>,
    pub(crate) authorities: Option<RootCertStore>,
}

impl Sources {
    /// Nothing on disk, so nothing that could change.
    pub(crate) fn are_none(&self) -> bool {
        self.pair.is_none() && self.authorities.is_none()
    }

    pub(crate) fn read(&self) -> Contents {
        Contents {
            pair: self.pair.as_ref().map(|folder| (read(&folder.join(CERTIFICATE)), read(&folder.join(KEY)))),
            authorities: self.authorities.as_deref().map(read),
        }
    }

    /// What `contents`, read from here, mean. All of it fits, or it is an error.
    pub(crate) fn understand(
        &self,
        contents: &Contents,
        provider: &CryptoProvider,
    ) -> Result<Material, TlsError> {
        let pair = match (&self.pair, &contents.pair) {
            (Some(folder), Some((certificate, key))) => {
                Some(Arc::new(pair(folder, held(certificate)?, held(key)?, provider)?))
            }
            _ => None,
        };
        let authorities = match (&self.authorities, &contents.authorities) {
            (Some(path), Some(bundle)) => Some(authorities(path, held(bundle)?)?),
            _ => None,
        };
        Ok(Material { pair, authorities })
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pair, &self.authorities) {
            (Some(pair), Some(bundle)) => write!(f, "{} and {}", pair.display(), bundle.display()),
            (Some(path), None) | (None, Some(path)) => write!(f, "{}", path.display()),
            (None, None) => f.write_str("no files"),
        }
    }
}

fn read(path: &Path) -> Outcome {
    let unreadable = |detail: String| TlsError::Unreadable { path: path.to_owned(), detail };
    let failed = |error: std::io::Error| unreadable(error.to_string());
    // Opening a pipe would wait for somebody to write into it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(unreadable("not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > MAX_FILE {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

fn held(outcome: &Outcome) -> Result<&[u8], TlsError> {
    outcome.as_deref().map_err(Clone::clone)
}

fn pair(
    folder: &Path,
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let (certificate_path, key_path) = (folder.join(CERTIFICATE), folder.join(KEY));
    let chain = certificates(&certificate_path, certificate)?;
    let key_der = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
        if key.windows(9).any(|word| word == b"ENCRYPTED") {
            TlsError::EncryptedKey { path: key_path.clone() }
        } else {
            TlsError::NoKey { path: key_path.clone() }
        }
    })?;
    let key = provider
        .key_provider
        .load_private_key(key_der)
        .map_err(|error| TlsError::BadKey { path: key_path.clone(), detail: error.to_string() })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(TlsError::KeyMismatch { certificate: certificate_path, key: key_path })
        }
        Err(error) => Err(TlsError::BadCertificate { path: certificate_path, detail: error.to_string() }),
    }
}

fn authorities(path: &Path, bundle: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path, bundle)? {
        store
            .add(certificate)
            .map_err(|error| TlsError::BadCertificate { path: path.to_owned(), detail: error.to_string() })?;
    }
    Ok(store)
}

/// All certificates of a file, at least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| {
        TlsError::BadCertificate { path: path.to_owned(), detail: format!("not valid PEM: {error}") }
    })?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(found)
}
