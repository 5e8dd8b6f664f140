//! What the environment says about tracing (spec/sidecar.md 9.2), checked once at start.
//!
//! What only the OTLP library uses (headers, timeout, compression, resource attributes) it reads from the process's
//! environment itself.

use std::fs;
use std::str::FromStr;
use std::time::Duration;

use crate::error::TraceError;

/// The service's name unless `OTEL_SERVICE_NAME` gives another.
const SERVICE_NAME: &str = "llm-d-disagg-sidecar";

/// The only sampler there is: follow the client's decision, and decide by trace id where there is none.
const SAMPLER: &str = "parentbased_traceidratio";

/// One request of ten is sampled.
const DEFAULT_RATIO: f64 = 0.1;

/// Where a collector beside us listens.
const LOCAL_COLLECTOR: &str = "localhost:4317";

/// Most spans that wait for export: some 300 sampled requests, in about a megabyte.
const DEFAULT_QUEUE: usize = 2_048;

/// A queue beyond this would hold tens of megabytes of the pod's memory.
const MAX_QUEUE: usize = 65_536;

/// Most spans of one export: some hundred KB, below what collectors accept (4 MB) even with long attributes.
const DEFAULT_BATCH: usize = 512;

/// How long a span waits for others to be exported with it.
const DEFAULT_DELAY: Duration = Duration::from_secs(5);

/// How long one export may take, with its retries.
const DEFAULT_EXPORT_LIMIT: Duration = Duration::from_secs(30);

/// How spans are named, chosen, collected and sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    pub(crate) service_name: String,
    /// Static, because every span carries a copy.
    pub(crate) service_version: &'static str,
    /// Share of traces that are sampled where the client has not decided, 0 to 1.
    pub(crate) ratio: f64,
    pub(crate) exporter: Exporter,
    pub(crate) batching: Batching,
}

/// Where spans go.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Exporter {
    /// Nowhere: tracing is off.
    None,
    /// JSON lines on standard output.
    Console,
    /// A collector, by gRPC.
    Otlp(Collector),
}

/// A collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Collector {
    /// With scheme.
    pub(crate) endpoint: String,
    /// PEM of the authority that signed its certificate. Otherwise the system's are trusted.
    pub(crate) authority: Option<Vec<u8>>,
    /// PEM of our certificate and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// How spans are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batching {
    /// Most that wait.
    pub(crate) queue: usize,
    /// Most of one export.
    pub(crate) batch: usize,
    pub(crate) delay: Duration,
    pub(crate) export_limit: Duration,
}

impl Config {
    pub(crate) fn from_env(
        service_version: &'static str,
        env: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self, TraceError> {
        // To be set to nothing is not to be set, says the standard.
        let env =
            |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let exporter = match env("OTEL_TRACES_EXPORTER").as_deref() {
            None | Some("console") => Exporter::Console,
            Some("otlp") => Exporter::Otlp(Collector::from_env(&env)?),
            Some("none") => Exporter::None,
            Some(other) => return Err(TraceError::UnknownExporter(other.to_owned())),
        };
        if let Some(sampler) = env("OTEL_TRACES_SAMPLER").filter(|sampler| sampler != SAMPLER) {
            tracing::warn!(%sampler, "OTEL_TRACES_SAMPLER is not supported: sampling by {SAMPLER}");
        }
        let ratio =
            number(&env, "OTEL_TRACES_SAMPLER_ARG", DEFAULT_RATIO, |ratio| (0.0..=1.0).contains(ratio));
        let queue =
            number(&env, "OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE, |size| (1..=MAX_QUEUE).contains(size));
        let batch = number(&env, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", DEFAULT_BATCH, |size| {
            (1..=MAX_QUEUE).contains(size)
        });
        Ok(Self {
            service_name: env("OTEL_SERVICE_NAME").unwrap_or_else(|| SERVICE_NAME.to_owned()),
            service_version,
            ratio,
            exporter,
            batching: Batching {
                queue,
                batch: batch.min(queue),
                delay: millis(&env, "OTEL_BSP_SCHEDULE_DELAY", DEFAULT_DELAY),
                export_limit: millis(&env, "OTEL_BSP_EXPORT_TIMEOUT", DEFAULT_EXPORT_LIMIT),
            },
        })
    }
}

impl Collector {
    fn from_env(env: &impl Fn(&str) -> Option<String>) -> Result<Self, TraceError> {
        // What is said for traces goes before what is said for all signals.
        let either = |signal: &'static str, general: &'static str| {
            env(signal).map(|value| (signal, value)).or_else(|| env(general).map(|value| (general, value)))
        };
        let endpoint = either("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
        let insecure = either("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE");
        let authority = either("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE");
        let certificate =
            either("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE");
        let key = either("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY");

        let plaintext = match &insecure {
            Some((_, insecure)) => insecure.eq_ignore_ascii_case("true"),
            None => endpoint.is_none() && authority.is_none(),
        };
        let endpoint = endpoint.map_or_else(|| LOCAL_COLLECTOR.to_owned(), |(_, endpoint)| endpoint);
        let endpoint = match (endpoint.contains("://"), plaintext) {
            (true, _) => endpoint,
            (false, true) => format!("http://{endpoint}"),
            (false, false) => format!("https://{endpoint}"),
        };
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(TraceError::HalfIdentity),
        };
        Ok(Self { endpoint, authority: authority.map(read).transpose()?, identity })
    }
}

fn read((variable, path): (&'static str, String)) -> Result<Vec<u8>, TraceError> {
    fs::read(&path).map_err(|error| TraceError::File { variable, path, error })
}

/// The number that a variable holds; the default, with a warning, if it holds none that will do.
fn number<T: FromStr + std::fmt::Display>(
    env: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    default: T,
    will_do: impl Fn(&T) -> bool,
) -> T {
    let Some(text) = env(name) else { return default };
    match text.parse() {
        Ok(number) if will_do(&number) => number,
        _ => {
            tracing::warn!("{name} is {text:?}, which is out of range or no number: using {default}");
            default
        }
    }
}

fn millis(env: &impl Fn(&str) -> Option<String>, name: &'static str, default: Duration) -> Duration {
    let default_ms = u64::try_from(default.as_millis()).expect("defaults are short");
    Duration::from_millis(number(env, name, default_ms, |ms| *ms > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, TraceError> {
        Config::from_env("1.2.3", &|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn collector(variables: &[(&str, &str)]) -> Collector {
        let variables = [&[("OTEL_TRACES_EXPORTER", "otlp")], variables].concat();
        match config(&variables).unwrap().exporter {
            Exporter::Otlp(collector) => collector,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_variables_a_tenth_goes_to_the_console() {
        let config = config(&[]).unwrap();
        assert_eq!(config.exporter, Exporter::Console);
        assert_eq!(config.service_name, "llm-d-disagg-sidecar");
        assert_eq!(config.service_version, "1.2.3");
        assert!((config.ratio - 0.1).abs() < f64::EPSILON);
        assert_eq!(config.batching.queue, 2_048);
    }

    #[test]
    fn an_empty_variable_is_as_good_as_none() {
        let empty = config(&[("OTEL_SERVICE_NAME", ""), ("OTEL_TRACES_EXPORTER", " ")]).unwrap();
        assert_eq!(empty, config(&[]).unwrap());
    }

    #[test]
    fn the_service_name_and_the_ratio_can_be_set() {
        let variables = [("OTEL_SERVICE_NAME", "mine"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
        let config = config(&variables).unwrap();
        assert_eq!(config.service_name, "mine");
        assert!((config.ratio - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn another_sampler_or_a_ratio_that_is_none_falls_back() {
        for ratio in ["2", "-0.1", "NaN", "much"] {
            let variables = [("OTEL_TRACES_SAMPLER", "always_on"), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
            assert!((config(&variables).unwrap().ratio - 0.1).abs() < f64::EPSILON, "{ratio}");
        }
    }

    #[test]
    fn the_collector_beside_us_is_spoken_to_in_plaintext() {
        assert_eq!(
            collector(&[]),
            Collector { endpoint: "http://localhost:4317".to_owned(), authority: None, identity: None }
        );
    }

    #[test]
    fn an_endpoints_scheme_rules_and_without_one_insecure_does() {
        const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const INSECURE: &str = "OTEL_EXPORTER_OTLP_INSECURE";
        for (variables, endpoint) in [
            (vec![(ENDPOINT, "http://c:1")], "http://c:1"),
            (vec![(ENDPOINT, "https://c:1"), (INSECURE, "true")], "https://c:1"),
            (vec![(ENDPOINT, "c:1")], "https://c:1"),
            (vec![(ENDPOINT, "c:1"), (INSECURE, "TRUE")], "http://c:1"),
            (vec![(INSECURE, "true")], "http://localhost:4317"),
            (vec![(INSECURE, "false")], "https://localhost:4317"),
            (
                vec![(ENDPOINT, "http://c:1"), ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:2")],
                "http://t:2",
            ),
        ] {
            assert_eq!(collector(&variables).endpoint, endpoint, "{variables:?}");
        }
    }

    #[test]
    fn a_certificate_alone_means_tls() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let collector = collector(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", path)]);
        assert_eq!(collector.endpoint, "https://localhost:4317");
        assert!(collector.authority.unwrap().starts_with(b"[package]"));
    }

    #[test]
    fn wrong_variables_are_named() {
        for (variables, said) in [
            (vec![("OTEL_TRACES_EXPORTER", "zipkin")], "\"zipkin\""),
            (
                vec![("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")],
                "OTEL_EXPORTER_OTLP_CERTIFICATE names \"/nowhere/ca.pem\"",
            ),
            (
                vec![("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere/key.pem")],
                "needs both",
            ),
        ] {
            let error = config(&variables).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
