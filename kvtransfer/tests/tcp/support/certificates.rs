//! Authorities, and certificates that they have signed, made anew for every test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kvferry_transfer::fabric::tcp::Tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Paper(CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let mut params = CertificateParams::default();
        let name = format!("authority {}", MADE.fetch_add(1, Ordering::Relaxed));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `name`, which may be an address.
    pub fn signs(&self, name: &str) -> Paper {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Paper(certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots.into()
    }

    /// TLS with this certificate, that trusts this authority; `mutual` if guests must show one of its certificates, too.
    pub fn tls(&self, paper: &Paper, mutual: bool) -> Tls {
        let (provider, roots) = (Arc::new(ring::default_provider()), self.roots());
        let (chain, key) = (vec![paper.0.clone()], || paper.1.clone_key());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(Arc::clone(&roots));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let server = if mutual {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build().unwrap();
            server.with_client_cert_verifier(verifier)
        } else {
            server.with_no_client_auth()
        };
        let client = if mutual {
            client.with_client_auth_cert(chain.clone(), key()).unwrap()
        } else {
            client.with_no_client_auth()
        };
        Tls {
            client: client.into(),
            server: server.with_single_cert(chain, key()).unwrap().into(),
            name: None,
        }
    }
}

/// The same, for a deployment whose agents all have certificates for `name`.
pub fn named(tls: Tls, name: &str) -> Tls {
    Tls { name: Some(ServerName::try_from(name.to_owned()).unwrap()), ..tls }
}
