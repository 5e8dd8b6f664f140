//! Why tracing cannot start, or did not end well.

use std::fmt;
use std::io;
use std::time::Duration;

/// What can go wrong.
#[derive(Debug)]
pub enum TraceError {
    /// `OTEL_TRACES_EXPORTER` names something else than the exporters there are.
    UnknownExporter(String),
    /// A file that a variable names cannot be read.
    File {
        /// The variable.
        variable: &'static str,
        /// The file.
        path: String,
        /// Why not.
        error: io::Error,
    },
    /// Only one of a client certificate and its key is given.
    HalfIdentity,
    /// The collector's address or its TLS settings are wrong.
    Collector(String),
    /// The thread that exports cannot be started.
    Thread(io::Error),
    /// At shutdown the collector did not take the last spans in time.
    NotFlushed {
        /// How long it was waited for.
        limit: Duration,
    },
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownExporter(name) => write!(
                f,
                "OTEL_TRACES_EXPORTER is {name:?}, which is no exporter; use \"console\", \"otlp\" or \"none\""
            ),
            Self::File { variable, path, error } => {
                write!(f, "{variable} names {path:?}, which cannot be read: {error}")
            }
            Self::HalfIdentity => f.write_str(
                "a client certificate for the trace collector needs both OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and \
                 OTEL_EXPORTER_OTLP_CLIENT_KEY",
            ),
            Self::Collector(reason) => write!(
                f,
                "cannot use the trace collector that OTEL_EXPORTER_OTLP_* describes (an endpoint looks like \
                 http://host:4317): {reason}"
            ),
            Self::Thread(error) => write!(f, "cannot start the thread that exports traces: {error}"),
            Self::NotFlushed { limit } => {
                write!(f, "the last spans were not exported within {} ms; they are lost", limit.as_millis())
            }
        }
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { error, .. } | Self::Thread(error) => Some(error),
            Self::UnknownExporter(_) | Self::HalfIdentity | Self::Collector(_) | Self::NotFlushed { .. } => {
                None
            }
        }
    }
}
