//! The certificate of a listener that was given none: encrypts, proves nothing.
//!
//! Its key is ECDSA P-256 where the sidecar we replace made RSA 4096. Nobody can verify a self-signed certificate, so
//! a larger key protects nobody; it would only make the start take seconds and each handshake several milliseconds of
//! CPU. P-256 is understood by everything that speaks TLS 1.2.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use crate::error::TlsError;

/// The subject's organisation; what gateways that look at it have seen so far.
const ORGANISATION: &str = "llm-d";

/// Names of the process itself, so that a client in the same pod can be strict.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// No pod lives longer, and a new one is made at every start.
const VALID_FOR: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Valid from so long before now: clients' clocks may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);

/// A new certificate and its key.
pub(crate) fn make(provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let failed = |detail: String| TlsError::SelfSigned { detail };
    let mut params =
        CertificateParams::new(NAMES.map(str::to_owned)).map_err(|error| failed(error.to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| failed(error.to_string()))?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + now + VALID_FOR;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, ORGANISATION);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];

    let key = KeyPair::generate().map_err(|error| failed(error.to_string()))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(error.to_string()))?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|error| failed(error.to_owned()))?;
    CertifiedKey::from_der(vec![certificate.der().clone()], key, provider)
        .map(Arc::new)
        .map_err(|error| failed(error.to_string()))
}
