//! Why TLS cannot be set up: which file or name, what is wrong with it, what to do.

use std::fmt;
use std::path::PathBuf;

use crate::files::MAX_FILE;
use crate::names;

/// Why TLS cannot be set up, or a new set of files is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsError {
    /// A file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// A file is larger than [`MAX_FILE`].
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file holds no certificate in PEM form.
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file holds a certificate that cannot be used.
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A file holds no private key in PEM form.
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A private key is protected by a passphrase, which nobody is there to type.
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// A private key is damaged or of a kind that is not supported.
    BadKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A private key belongs to another certificate.
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No protocol version has this name.
    UnknownVersion {
        /// The name as given.
        given: String,
    },
    /// No cipher suite has this name.
    UnknownSuite {
        /// The name as given.
        given: String,
    },
    /// Cipher suites were named, and not one of them can be offered.
    NoUsableSuite,
    /// The self-signed certificate could not be made.
    SelfSigned {
        /// What went wrong.
        detail: String,
    },
    /// The parts are fine one by one but do not make a configuration.
    Unusable {
        /// What went wrong.
        detail: String,
    },
    /// The thread that watches the files could not be started.
    Watch {
        /// What the system says.
        detail: String,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, detail } => {
                write!(
                    f,
                    "cannot read {}: {detail}; check the path, the mount and the permissions",
                    path.display()
                )
            }
            Self::TooLarge { path } => write!(
                f,
                "{} is larger than {MAX_FILE} bytes; it should hold certificates or a key in PEM form and nothing else",
                path.display()
            ),
            Self::NoCertificate { path } => write!(
                f,
                "{} holds no certificate; it must hold PEM blocks that begin with -----BEGIN CERTIFICATE-----",
                path.display()
            ),
            Self::BadCertificate { path, detail } => {
                write!(f, "a certificate in {} cannot be used ({detail}); issue it again", path.display())
            }
            Self::NoKey { path } => write!(
                f,
                "{} holds no private key; it must hold one PEM block, PKCS#8 (BEGIN PRIVATE KEY), SEC1 or PKCS#1",
                path.display()
            ),
            Self::EncryptedKey { path } => write!(
                f,
                "the private key in {} is protected by a passphrase; store it without one and restrict who can read it",
                path.display()
            ),
            Self::BadKey { path, detail } => write!(
                f,
                "the private key in {} cannot be used ({detail}); RSA of at least 2048 bits, ECDSA P-256 and P-384, \
                 and Ed25519 can",
                path.display()
            ),
            Self::KeyMismatch { certificate, key } => write!(
                f,
                "the private key in {} does not belong to the first certificate in {}; put the matching pair there, \
                 the server's own certificate before those of its issuers",
                key.display(),
                certificate.display()
            ),
            Self::UnknownVersion { given } => {
                write!(f, "\"{given}\" is no TLS version that can be set; use one of: ")?;
                names::write_versions(f)
            }
            Self::UnknownSuite { given } => {
                write!(f, "\"{given}\" is no cipher suite; use any of: ")?;
                names::write_suites(f)
            }
            Self::NoUsableSuite => {
                f.write_str("all cipher suites named are too weak to be offered; add at least one of: ")?;
                names::write_suites(f)
            }
            Self::SelfSigned { detail } => write!(
                f,
                "no self-signed certificate could be made ({detail}); give a directory with tls.crt and tls.key"
            ),
            Self::Unusable { detail } => {
                write!(
                    f,
                    "TLS cannot be configured like this ({detail}); check versions, suites and certificates"
                )
            }
            Self::Watch { detail } => write!(
                f,
                "the thread that watches TLS files did not start ({detail}); check the limit of threads"
            ),
        }
    }
}

impl std::error::Error for TlsError {}
