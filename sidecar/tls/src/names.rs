//! Versions and cipher suites by the names that Go gives them: the flags took these before us.
//!
//! As in Go, the list of suites concerns TLS 1.2 alone and its order means nothing; the three suites of TLS 1.3 are
//! always on. Go also knows names of suites that nobody should use any more. They are understood, so that a list that
//! worked before still starts the process, but they are not offered.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::{SignatureAlgorithm, SupportedCipherSuite, SupportedProtocolVersion};

use crate::error::TlsError;

/// The lowest version spoken unless the operator says otherwise.
pub const DEFAULT_MIN_VERSION: &str = "VersionTLS12";

static TLS12_AND_13: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
static TLS13_ONLY: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

const VERSIONS: [(&str, MinVersion); 2] =
    [(DEFAULT_MIN_VERSION, MinVersion::Tls12), ("VersionTLS13", MinVersion::Tls13)];

/// What TLS 1.2 may use. All have forward secrecy and authenticate what they encrypt.
static SUITES_TLS12: [(&str, &SupportedCipherSuite); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", &cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", &cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", &cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", &cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        &cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        &cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Always on, named or not.
const SUITES_TLS13: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

/// Short names that Go kept for two suites, and what they stand for.
const ALIASES: [(&str, &str); 2] = [
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

/// Suites that Go can speak and we do not: without forward secrecy, or with CBC, RC4 or 3DES.
const NOT_OFFERED: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MinVersion {
    Tls12,
    Tls13,
}

/// Which versions and suites one side offers.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// What remains of TLS 1.2; empty if only the newer version is spoken.
    tls12: Vec<SupportedCipherSuite>,
    /// Names that were understood but will not be offered.
    left_out: Vec<String>,
}

/// Checks names before anything is opened. An empty version or list stands for the default.
///
/// Gives those suites that are understood but not offered, being too weak; the caller says so once.
///
/// # Errors
/// A name that means nothing, or a list of which nothing could be offered.
pub fn check_names(min_version: &str, cipher_suites: &[String]) -> Result<Vec<String>, TlsError> {
    Policy::parse(min_version, cipher_suites).map(|policy| policy.left_out)
}

impl Policy {
    pub(crate) fn parse(min_version: &str, cipher_suites: &[String]) -> Result<Self, TlsError> {
        let version = min_version.trim();
        let min_version = match VERSIONS.iter().find(|(name, _)| *name == version) {
            Some((_, version)) => *version,
            None if version.is_empty() => MinVersion::Tls12,
            None => return Err(TlsError::UnknownVersion { given: version.to_owned() }),
        };

        let mut named = false;
        let mut offered = false;
        let mut tls12 = Vec::new();
        let mut left_out = Vec::new();
        for given in cipher_suites.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            named = true;
            let name = ALIASES
                .iter()
                .find(|(short, _)| *short == given)
                .map_or(given, |(_, standing_for)| standing_for);
            if let Some((_, suite)) = SUITES_TLS12.iter().find(|(known, _)| *known == name) {
                offered = true;
                tls12.push(**suite);
            } else if SUITES_TLS13.contains(&name) {
                offered = true;
            } else if NOT_OFFERED.contains(&name) {
                left_out.push(given.to_owned());
            } else {
                return Err(TlsError::UnknownSuite { given: given.to_owned() });
            }
        }
        if named && !offered {
            return Err(TlsError::NoUsableSuite);
        }
        if !named {
            tls12 = SUITES_TLS12.iter().map(|(_, suite)| **suite).collect();
        }
        if min_version == MinVersion::Tls13 {
            tls12.clear();
        }
        Ok(Self { tls12, left_out })
    }

    /// The versions to enable.
    pub(crate) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        if self.tls12.is_empty() { &TLS13_ONLY } else { &TLS12_AND_13 }
    }

    /// *ring* with the suites to offer, in the order of its own preference.
    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = ring::default_provider();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some() || self.tls12.contains(suite));
        Arc::new(provider)
    }

    /// Whether a server with such a key can answer clients of every version enabled. In TLS 1.2 the suite names the
    /// kind of the key.
    pub(crate) fn fits(&self, key: SignatureAlgorithm) -> bool {
        self.tls12.is_empty() || self.tls12.iter().any(|suite| suite.usable_for_signature_algorithm(key))
    }
}

pub(crate) fn write_versions(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write_list(f, VERSIONS.iter().map(|(name, _)| *name))
}

pub(crate) fn write_suites(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write_list(f, SUITES_TLS12.iter().map(|(name, _)| *name).chain(SUITES_TLS13))
}

fn write_list<'a>(f: &mut fmt::Formatter<'_>, names: impl Iterator<Item = &'a str>) -> fmt::Result {
    for (nth, name) in names.enumerate() {
        if nth > 0 {
            f.write_str(", ")?;
        }
        f.write_str(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn offered(min_version: &str, names: &[&str]) -> Vec<String> {
        let policy = Policy::parse(min_version, &list(names)).unwrap();
        policy.provider().cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect()
    }

    #[test]
    fn by_default_two_versions_and_nine_suites_are_offered() {
        for version in ["", "VersionTLS12", " VersionTLS12 "] {
            assert_eq!(offered(version, &[]).len(), 9);
            assert_eq!(Policy::parse(version, &[]).unwrap().versions().len(), 2);
        }
    }

    #[test]
    fn each_name_enables_the_suite_of_that_name() {
        for (name, _) in SUITES_TLS12 {
            let mut expected = list(&[
                "TLS13_AES_256_GCM_SHA384",
                "TLS13_AES_128_GCM_SHA256",
                "TLS13_CHACHA20_POLY1305_SHA256",
            ]);
            expected.push(name.to_owned());
            assert_eq!(offered("", &[name]), expected);
        }
        for (short, name) in ALIASES {
            assert_eq!(offered("", &[short]), offered("", &[name]));
        }
    }

    #[test]
    fn suites_of_tls_1_3_are_on_whatever_is_named() {
        assert_eq!(offered("", &["TLS_AES_128_GCM_SHA256"]).len(), 3);
        assert_eq!(offered("VersionTLS13", &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]).len(), 3);
        assert_eq!(Policy::parse("VersionTLS13", &[]).unwrap().versions().len(), 1);
    }

    #[test]
    fn weak_suites_are_understood_and_left_out() {
        let names = list(&["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        assert_eq!(check_names("", &names), Ok(list(&["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"])));
        assert_eq!(check_names("", &names[..1]), Err(TlsError::NoUsableSuite));
    }

    #[test]
    fn unknown_names_are_refused_with_those_that_are_known() {
        for version in ["VersionTLS11", "TLS12", "versiontls12", "1.2"] {
            let message = check_names(version, &[]).unwrap_err().to_string();
            assert_eq!(
                message,
                format!(
                    "\"{version}\" is no TLS version that can be set; use one of: VersionTLS12, VersionTLS13"
                )
            );
        }
        let message = check_names("", &list(&["ECDHE-RSA-AES128-GCM-SHA256"])).unwrap_err().to_string();
        assert!(message.starts_with("\"ECDHE-RSA-AES128-GCM-SHA256\" is no cipher suite; use any of: "));
        for (name, _) in SUITES_TLS12 {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn a_key_fits_where_a_suite_of_tls_1_2_or_no_tls_1_2_is_for_it() {
        let rsa = list(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]);
        let policy = Policy::parse("", &rsa).unwrap();
        assert!(policy.fits(SignatureAlgorithm::RSA));
        assert!(!policy.fits(SignatureAlgorithm::ECDSA));
        assert!(Policy::parse("VersionTLS13", &rsa).unwrap().fits(SignatureAlgorithm::ECDSA));
        assert!(Policy::parse("", &[]).unwrap().fits(SignatureAlgorithm::ED25519));
    }
}
