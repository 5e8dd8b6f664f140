//! How clients are met: TLS of the listener.

use std::path::PathBuf;

use serde::Serialize;

use super::deprecated::SECURE_PROXY;
use crate::Known;
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::values::Values;

const SECURE_SERVING: &str = "secure-serving";
const CERT_PATH: &str = "cert-path";
const MIN_VERSION: &str = "tls-min-version";
const CIPHER_SUITES: &str = "tls-cipher-suites";
const CLIENT_CA: &str = "client-ca-path";

pub(crate) const LISTENER: Group = Group {
    heading: "TLS of the listener",
    flags: &[
        Flag::bool(SECURE_SERVING, true, "Serve TLS on the listener"),
        Flag::text(
            CERT_PATH,
            "DIR",
            "",
            "Directory with tls.crt and tls.key; empty: a self-signed certificate, fit for tests only",
        ),
        Flag::text(
            CLIENT_CA,
            "FILE",
            "",
            "PEM file of authorities: clients must show a certificate of theirs",
        ),
        Flag::text(
            MIN_VERSION,
            "VERSION",
            "VersionTLS12",
            "Lowest TLS version: VersionTLS12 or VersionTLS13",
        ),
        Flag::list(
            CIPHER_SUITES,
            "SUITES",
            "Cipher suites for TLS 1.2, by their names in Go, such as TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256; none: \
             all that are safe",
        ),
    ],
};

/// How clients are met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Listener {
    /// Serve TLS, not plain HTTP.
    pub secure_serving: bool,
    /// Directory with `tls.crt` and `tls.key`; `None`: a self-signed certificate.
    pub cert_path: Option<PathBuf>,
    /// PEM file of the authorities that clients' certificates must come from; `None`: clients need none.
    pub client_ca_path: Option<PathBuf>,
    /// Lowest version, by its name in Go. It was checked.
    pub tls_min_version: String,
    /// Suites, by their names in Go, those left out that are not offered; empty: all that are safe. They were checked.
    pub tls_cipher_suites: Vec<String>,
}

impl Listener {
    pub(crate) fn read(
        values: &Values,
        known: &Known<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Invalid> {
        let secure = values.strongest(&[SECURE_SERVING, SECURE_PROXY]).unwrap_or(SECURE_SERVING);
        let tls_min_version = values.text(MIN_VERSION).to_owned();
        (known.tls_names)(&tls_min_version, &[])
            .map_err(|error| Invalid::new(format!("invalid --{MIN_VERSION}: {error}")))?;
        let mut tls_cipher_suites: Vec<String> =
            values.list(CIPHER_SUITES).into_iter().map(str::to_owned).collect();
        let left_out = (known.tls_names)("", &tls_cipher_suites)
            .map_err(|error| Invalid::new(format!("invalid --{CIPHER_SUITES}: {error}")))?;
        if !left_out.is_empty() {
            warnings.push(format!("--{CIPHER_SUITES}: {} are too weak and not offered", left_out.join(", ")));
            tls_cipher_suites.retain(|suite| !left_out.contains(suite));
        }
        let listener = Self {
            secure_serving: values.bool(secure)?,
            cert_path: values.path(CERT_PATH),
            client_ca_path: values.path(CLIENT_CA),
            tls_min_version,
            tls_cipher_suites,
        };
        if listener.client_ca_path.is_some() && !listener.secure_serving {
            return Err(Invalid::new(format!(
                "--{CLIENT_CA} requires --{SECURE_SERVING}: without TLS no client can show a certificate"
            )));
        }
        Ok(listener)
    }
}
