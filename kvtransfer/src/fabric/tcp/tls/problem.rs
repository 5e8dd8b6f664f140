//! What can go wrong with TLS between two sides, and which of them has to change what.

use std::fmt;

use rustls::{AlertDescription, Error};

/// Why a stream cannot be encrypted as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsProblem {
    /// This side encrypts and the peer does not.
    PeerIsPlain,
    /// The peer encrypts and this side does not.
    PeerEncrypts,
    /// This side does not accept the peer's certificate: why.
    PeerCertificate(String),
    /// The peer does not accept this side's certificate, or wants one and gets none: what it says.
    OwnCertificate(String),
    /// Anything else: no version or suite in common, records that are none, configurations of no use.
    Other(String),
}

impl TlsProblem {
    /// A stable word.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::PeerIsPlain => "tls_peer_is_plain",
            Self::PeerEncrypts => "tls_peer_encrypts",
            Self::PeerCertificate(_) => "tls_peer_certificate",
            Self::OwnCertificate(_) => "tls_own_certificate",
            Self::Other(_) => "tls",
        }
    }
}

impl From<Error> for TlsProblem {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(why) => Self::PeerCertificate(why.to_string()),
            Error::NoCertificatesPresented => Self::PeerCertificate("it shows none".into()),
            Error::AlertReceived(alert) if is_about_certificates(alert) => {
                Self::OwnCertificate(format!("{alert:?}"))
            }
            other => Self::Other(other.to_string()),
        }
    }
}

fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerIsPlain => f.write_str(
                "this side encrypts and the peer does not; give the peer TLS as well, or take it from this side",
            ),
            Self::PeerEncrypts => f.write_str(
                "the peer encrypts and this side does not; give this side TLS as well, or take it from the peer",
            ),
            Self::PeerCertificate(why) => write!(
                f,
                "the peer's certificate is not accepted ({why}); give the peer one that this side's authorities have \
                 signed for the name or address it is reached by, or make its authority known to this side"
            ),
            Self::OwnCertificate(why) => write!(
                f,
                "the peer does not accept this side's certificate ({why}); give this side one that the peer's \
                 authorities have signed, or make its authority known to the peer"
            ),
            Self::Other(why) => write!(f, "no encrypted connection: {why}"),
        }
    }
}

impl std::error::Error for TlsProblem {}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;

    use super::*;

    #[test]
    fn a_problem_says_whose_certificate_it_is_about_and_which_side_is_to_change() {
        let theirs = TlsProblem::from(Error::InvalidCertificate(CertificateError::Expired));
        assert_eq!(theirs.code(), "tls_peer_certificate");
        let ours = TlsProblem::from(Error::AlertReceived(AlertDescription::UnknownCA));
        assert_eq!(ours, TlsProblem::OwnCertificate("UnknownCA".into()));
        assert_eq!(TlsProblem::from(Error::AlertReceived(AlertDescription::DecodeError)).code(), "tls");
        assert!(TlsProblem::PeerIsPlain.to_string().contains("give the peer TLS"));
        assert!(TlsProblem::PeerEncrypts.to_string().contains("give this side TLS"));
    }
}
