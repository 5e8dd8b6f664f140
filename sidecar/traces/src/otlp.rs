//! The exporter that speaks gRPC to a collector.

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};

use crate::config::Collector;
use crate::error::TraceError;

/// An exporter to `collector`. It connects when it first has something to send, on the runtime that is current now.
pub(crate) fn exporter(collector: &Collector) -> Result<SpanExporter, TraceError> {
    let mut builder = SpanExporter::builder().with_tonic().with_endpoint(&collector.endpoint);
    if collector.endpoint.starts_with("https://") {
        let mut tls = match &collector.authority {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &collector.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        builder = builder.with_tls_config(tls);
    }
    builder.build().map_err(|error| TraceError::Collector(error.to_string()))
}
