//! What is told of it all: logs, metrics, traces.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;

use serde::Serialize;

use super::environment::Environment;
use super::ports::Ports;
use crate::choice::{Choice, choice};
use crate::exit::Invalid;
use crate::flag::{Flag, Group};
use crate::values::Values;

const TRACING: &str = "tracing";
const METRICS_PORT: &str = "metrics-port";
const METRICS_CERT_DIR: &str = "metrics-cert-dir";
const LOG_LEVEL: &str = "log-level";
const ZAP_LOG_LEVEL: &str = "zap-log-level";
const REQUEST_LOG: &str = "request-log";

/// The old way to ask for metrics.
const METRICS_ADDR: &str = "MORIIO_METRICS_ADDR";

pub(crate) const OBSERVABILITY: Group = Group {
    heading: "Observability",
    flags: &[
        Flag::text(
            LOG_LEVEL,
            "LEVEL",
            "",
            "Least severe level that is logged: off, error, warn, info, debug or trace; none: as --zap-log-level says",
        ),
        Flag::text(
            ZAP_LOG_LEVEL,
            "LEVEL",
            "info",
            "The same as debug, info, error, panic or a verbosity: 1 to 3 info, 4 debug, 5 trace",
        ),
        Flag::bool(REQUEST_LOG, true, "Log one line for each disaggregated request"),
        Flag::port(METRICS_PORT, "0", "Port for metrics, readiness and what is in flight; 0: none"),
        Flag::text(
            METRICS_CERT_DIR,
            "DIR",
            "",
            "Directory with tls.crt and tls.key for it; empty: plain HTTP",
        ),
        Flag::bool(TRACING, false, "OpenTelemetry traces, as OTEL_* variables say"),
    ],
};

pub(crate) const WITHOUT_EFFECT: Group = Group {
    heading: "Accepted without effect (the log is always JSON without stack traces)",
    flags: &[
        Flag::bool("zap-devel", false, "zap's development mode"),
        Flag::text("zap-encoder", "ENCODER", "", "zap's encoder"),
        Flag::text("zap-stacktrace-level", "LEVEL", "", "zap's level for stack traces"),
        Flag::text("zap-time-encoding", "ENCODING", "", "zap's encoding of times"),
    ],
};

/// Values of the flags without effect that ask for nothing else than what is done anyway.
const AS_IT_IS: [(&str, &[&str]); 4] = [
    ("zap-devel", &["false"]),
    ("zap-encoder", &["", "json"]),
    ("zap-stacktrace-level", &["", "panic"]),
    ("zap-time-encoding", &["", "rfc3339", "rfc3339nano"]),
];

choice! {
    /// Least severe level that is logged.
    pub enum LogLevel {
        /// Nothing is logged.
        Off = "off",
        /// What went wrong.
        Error = "error",
        /// What may go wrong.
        Warn = "warn",
        /// What happens, in a line per request.
        Info = "info",
        /// Steps of each request.
        Debug = "debug",
        /// Bodies too.
        Trace = "trace",
    }
}

/// What is told of it all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Observability {
    /// Least severe level that is logged.
    pub log_level: LogLevel,
    /// One line for each disaggregated request.
    pub request_log: bool,
    /// Port for metrics and other things an operator asks; `None`: none. It is none of the pod's other ports.
    pub metrics_port: Option<NonZeroU16>,
    /// The one address to bind that port on, from `MORIIO_METRICS_ADDR`; `None`: all.
    #[serde(skip)]
    pub metrics_host: Option<IpAddr>,
    /// Directory with `tls.crt` and `tls.key` for that port; `None`: plain HTTP.
    pub metrics_cert_dir: Option<PathBuf>,
    /// Export traces.
    pub tracing: bool,
}

impl Observability {
    pub(crate) fn read(
        values: &Values,
        ports: &Ports,
        environment: &Environment,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Invalid> {
        let mut observability = Self {
            log_level: log_level(values)?,
            request_log: values.bool(REQUEST_LOG)?,
            metrics_port: values.optional_port(METRICS_PORT)?,
            metrics_host: None,
            metrics_cert_dir: values.path(METRICS_CERT_DIR),
            tracing: values.bool(TRACING)?,
        };
        if let (None, Some(text)) = (observability.metrics_port, &environment.moriio_metrics_addr) {
            match address(text) {
                Some((host, port)) => {
                    observability.metrics_host = host;
                    observability.metrics_port = Some(port);
                }
                None => warnings.push(format!("{METRICS_ADDR}={text:?} is ignored; use --{METRICS_PORT}")),
            }
        }
        if let Some(port) = observability.metrics_port.filter(|port| ports.taken(*port)) {
            return Err(Invalid::new(format!(
                "--{METRICS_PORT} {port} is taken by the listener or the decode engine; give another"
            )));
        }
        without_effect(values, warnings)?;
        Ok(observability)
    }
}

fn log_level(values: &Values) -> Result<LogLevel, Invalid> {
    let text = values.text(LOG_LEVEL);
    if !text.is_empty() {
        return LogLevel::of_flag(LOG_LEVEL, &text.to_ascii_lowercase());
    }
    let text = values.text(ZAP_LOG_LEVEL);
    match (text.to_ascii_lowercase().as_str(), text.parse::<u32>()) {
        ("debug", _) | (_, Ok(4)) => Ok(LogLevel::Debug),
        ("info", _) | (_, Ok(1..=3)) => Ok(LogLevel::Info),
        ("error", _) => Ok(LogLevel::Error),
        ("panic", _) => Ok(LogLevel::Off),
        (_, Ok(5..)) => Ok(LogLevel::Trace),
        _ => Err(Invalid::new(format!(
            "--{ZAP_LOG_LEVEL} must be debug, info, error, panic or an integer above 0, got {text:?}"
        ))),
    }
}

/// An address as Go's listeners take it: the host may be left out.
fn address(text: &str) -> Option<(Option<IpAddr>, NonZeroU16)> {
    if let Some(port) = text.strip_prefix(':') {
        return Some((None, port.parse().ok()?));
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some((Some(Ipv4Addr::LOCALHOST.into()), port.parse().ok()?));
    }
    let address: SocketAddr = text.parse().ok()?;
    let host = Some(address.ip()).filter(|ip| !ip.is_unspecified());
    Some((host, NonZeroU16::new(address.port())?))
}

fn without_effect(values: &Values, warnings: &mut Vec<String>) -> Result<(), Invalid> {
    values.bool("zap-devel")?;
    let ignored: Vec<String> = AS_IT_IS
        .iter()
        .filter(|(name, _)| values.source(name).is_some())
        .filter(|(name, usual)| !usual.contains(&values.text(name).to_ascii_lowercase().as_str()))
        .map(|(name, _)| format!("--{name}"))
        .collect();
    if !ignored.is_empty() {
        warnings.push(format!(
            "{} is accepted without effect: the log is always JSON without stack traces",
            ignored.join(", ")
        ));
    }
    Ok(())
}
