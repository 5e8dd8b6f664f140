//! The credentials of encrypted fabrics: made once for each run of the suite, and handed to its processes by their
//! environment. Each side shows them to the other.

use std::sync::{Arc, OnceLock};

use kvferry_transfer::fabric::tcp::Tls;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::side::PEER;

/// What a process of the suite is given: a certificate for this host, and its key.
pub fn credentials() -> String {
    static MADE: OnceLock<String> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let paper = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        serde_json::to_string(&(paper.cert.der().to_vec(), paper.signing_key.serialize_der())).unwrap()
    });
    made.clone()
}

/// What this process was given.
pub fn tls() -> Tls {
    let given = std::env::var(PEER).expect("only processes of the suite open fabrics");
    let (certificate, key): (Vec<u8>, Vec<u8>) = serde_json::from_str(&given).unwrap();
    let (chain, key) = (vec![CertificateDer::from(certificate)], PrivateKeyDer::try_from(key).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let (roots, provider) = (Arc::new(roots), Arc::new(ring::default_provider()));
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .unwrap();
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    Tls { client: client.into(), server: server.into(), name: None }
}
