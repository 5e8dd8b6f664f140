//! A collector behind TLS: its certificate must come from the authority that the environment names.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use common::{Collector, PATIENCE, traces_to};
use http::{HeaderMap, Method};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A collector with a certificate of its own making, and the file that holds it.
fn collector(file: &str) -> (Collector, PathBuf) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file);
    fs::write(&path, cert.pem()).unwrap();
    (Collector::start_with(Some(TlsAcceptor::from(Arc::new(config)))), path)
}

#[test]
fn spans_arrive_at_a_collector_that_the_named_authority_vouches_for() {
    let (collector, authority) = collector("trusted.pem");
    let endpoint = format!("https://localhost:{}", collector.port());
    let variables =
        [("OTEL_TRACES_SAMPLER_ARG", "1"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", authority.to_str().unwrap())];
    let traces = traces_to(&endpoint, &variables);
    drop(traces.request(&HeaderMap::new(), &Method::GET, "/v1/models"));
    assert_eq!(collector.spans(&traces).into_keys().collect::<Vec<_>>(), ["GET /v1/models"]);
}

#[test]
fn a_collector_that_nobody_vouches_for_gets_nothing() {
    let (collector, _) = collector("distrusted.pem");
    let (_, other_authority) = self::collector("other.pem");
    let endpoint = format!("https://localhost:{}", collector.port());
    let variables = [
        ("OTEL_TRACES_SAMPLER_ARG", "1"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", other_authority.to_str().unwrap()),
    ];
    let traces = traces_to(&endpoint, &variables);
    drop(traces.request(&HeaderMap::new(), &Method::GET, "/v1/models"));
    traces.shutdown(PATIENCE).unwrap();
    assert_eq!(traces.spans_dropped(), 1);
    assert!(collector.all_spans(&traces).is_empty());
}
