//! One handshake: its deadline, and what its failure means to an operator.

use std::time::Duration;
use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// A handshake takes two round trips; a peer that needs longer than this is stuck or up to no good (spec/sidecar.md 5).
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a handshake failed; the inner error of the [`io::Error`] that `accept` and `connect` give.
#[derive(Debug, Clone, PartialEq)]
pub enum HandshakeError {
    /// Not done within [`HANDSHAKE_TIMEOUT`].
    Stalled,
    /// The leg verifies certificates, and there is no authority to verify them with.
    NoAuthorities,
    /// The host is neither a name nor an address that a certificate could be for.
    BadName {
        /// The host as given.
        host: String,
    },
    /// The peer's certificate was refused by us.
    Refused(CertificateError),
    /// On a leg: the peer refuses our client certificate, or wants one where we have none.
    WantsCertificate {
        /// The alert it sent.
        detail: String,
    },
    /// On the listener: the client refuses the certificate that it was shown.
    Distrusted {
        /// The alert it sent.
        detail: String,
    },
    /// The peer sent none, and the listener requires one.
    NoCertificate,
    /// Versions or cipher suites have nothing in common.
    NothingInCommon {
        /// What the protocol library says.
        detail: String,
    },
    /// The peer does not speak TLS.
    NotTls,
    /// Anything else.
    Other {
        /// What the protocol library or the system says.
        detail: String,
    },
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS handshake failed: ")?;
        match self {
            Self::Stalled => write!(f, "not done within {} s", HANDSHAKE_TIMEOUT.as_secs()),
            Self::NoAuthorities => f.write_str(
                "there is no certificate authority to verify the peer with; install the system's bundle (package \
                 ca-certificates), point SSL_CERT_FILE to one, give the legs a CA bundle (--leg-ca-path), or \
                 turn verification off (--tls-insecure-skip-verify)",
            ),
            Self::BadName { host } => {
                write!(f, "\"{host}\" is neither a DNS name nor an IP address that a certificate could be for")
            }
            Self::Refused(error) => write_refused(f, error),
            Self::WantsCertificate { detail } => write!(
                f,
                "the peer wants a client certificate that it trusts ({detail}); give this leg a directory with \
                 tls.crt and tls.key signed by an authority that the peer knows (--prefiller-client-cert-path, \
                 --decoder-client-cert-path, --encoder-client-cert-path)"
            ),
            Self::Distrusted { detail } => write!(
                f,
                "the client does not trust this listener's certificate ({detail}); make its issuer known to the \
                 client, or give the listener a certificate that the client trusts"
            ),
            Self::NoCertificate => f.write_str("the client showed no certificate, and this listener requires one"),
            Self::NothingInCommon { detail } => write!(
                f,
                "no version or cipher suite in common ({detail}); compare --tls-min-version and \
                 --tls-cipher-suites with what the other side speaks and with its kind of key"
            ),
            Self::NotTls => f.write_str("the other side does not speak TLS; does it speak plain HTTP on this port?"),
            Self::Other { detail } => f.write_str(detail),
        }
    }
}

fn write_refused(f: &mut fmt::Formatter<'_>, error: &CertificateError) -> fmt::Result {
    f.write_str("the peer's certificate is refused: ")?;
    match error {
        CertificateError::UnknownIssuer => f.write_str(
            "no trusted authority signed it; add its issuer to the CA bundle (--leg-ca-path for legs, --client-ca-path \
             for clients), or turn verification of a leg off (--tls-insecure-skip-verify)",
        ),
        // These say what the certificate has and what was expected.
        error => write!(f, "{error}"),
    }
}

impl std::error::Error for HandshakeError {}

impl From<HandshakeError> for io::Error {
    fn from(error: HandshakeError) -> Self {
        let kind = match error {
            HandshakeError::Stalled => io::ErrorKind::TimedOut,
            HandshakeError::BadName { .. } => io::ErrorKind::InvalidInput,
            HandshakeError::NoAuthorities => io::ErrorKind::NotFound,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// Which end of the handshake is ours.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Listener,
    Leg,
}

/// Runs `handshake` within the timeout. Errors of the network keep their kind.
pub(crate) async fn within<T>(side: Side, handshake: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(result) => result.map_err(|error| match meaning(side, &error) {
            Some(meaning) => meaning.into(),
            None => io::Error::new(error.kind(), HandshakeError::Other { detail: error.to_string() }),
        }),
        Err(_) => Err(HandshakeError::Stalled.into()),
    }
}

/// What an error read from an open leg means, if it is about the handshake. With TLS 1.3 a peer judges our certificate
/// after our side of the handshake is done, so its refusal is met by the first read.
pub fn late_refusal(error: &io::Error) -> Option<HandshakeError> {
    meaning(Side::Leg, error).filter(|meaning| matches!(meaning, HandshakeError::WantsCertificate { .. }))
}

fn meaning(side: Side, error: &io::Error) -> Option<HandshakeError> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    let detail = error.to_string();
    Some(match error {
        Error::InvalidCertificate(refused) => HandshakeError::Refused(refused.clone()),
        Error::NoCertificatesPresented => HandshakeError::NoCertificate,
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => HandshakeError::NotTls,
        Error::PeerIncompatible(_)
        | Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion) => {
            HandshakeError::NothingInCommon { detail }
        }
        Error::AlertReceived(
            AlertDescription::AccessDenied
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate,
        ) => match side {
            Side::Leg => HandshakeError::WantsCertificate { detail },
            Side::Listener => HandshakeError::Distrusted { detail },
        },
        _ => HandshakeError::Other { detail },
    })
}
