//! The command line: what operators may set, checked as a whole before anything starts.
//!
//! Flags that replace those of llm-d's sidecar keep their names, defaults and messages (spec/sidecar.md 1.2, 1.6).

use std::fmt;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use kvferry_handoff::Limits;
use tracing::level_filters::LevelFilter;

use crate::connector;
use crate::failover::{Failover, Policy, Rules};
use crate::worker::{LegsTls, Rank, Settings};

/// Decode engine's port unless set.
const MODEL_SERVER_PORT: u16 = 8200;

/// Workers unless set: a proxy needs few cores, and the engine beside it needs the rest.
const MAX_DEFAULT_WORKERS: usize = 4;

/// Between the end of a decode leg and the first release: far more than an engine needs to notice that its client left.
const RELEASE_GRACE: Duration = Duration::from_millis(250);

/// A release is refused by the engine's front end at once; one that takes longer has met a busy or dying engine.
const RELEASE_ATTEMPT: Duration = Duration::from_secs(2);

/// Between two attempts.
const RELEASE_PAUSE: Duration = Duration::from_millis(500);

/// Attempts; then the engine's own lease (30 s for vLLM) is as near as the next would be.
const RELEASE_ATTEMPTS: NonZeroU8 = NonZeroU8::new(4).expect("four is not zero");

/// What a kubelet or an operator may ask of the sidecar.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "kvferry-sidecar",
    version,
    about = "Sidecar for prefill/decode disaggregated LLM serving",
    max_term_width = 100,
    // Manifests are layered; as with Go's flags, the last one given counts.
    args_override_self = true
)]
pub struct Config {
    /// Port to listen on, on all interfaces
    #[arg(long, default_value = "8000", value_name = "PORT", help_heading = "Ports")]
    port: String,

    /// Port of the decode engine in this pod [default: 8200]
    #[arg(long, value_name = "PORT", help_heading = "Ports")]
    model_server_port: Option<String>,

    /// Deprecated: use --model-server-port
    #[arg(long, value_name = "PORT", help_heading = "Ports")]
    vllm_port: Option<String>,

    /// How the engines hand KV cache over; one of: nixlv2
    #[arg(
        long,
        alias = "connector",
        default_value = "nixlv2",
        value_name = "NAME",
        help_heading = "Handoff"
    )]
    kv_connector: String,

    /// Use a random entry of the prefill header's list instead of the first
    #[arg(
        long,
        env = "ENABLE_PREFILLER_SAMPLING",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_parser = go_bool,
        value_name = "BOOL",
        help_heading = "Handoff"
    )]
    enable_prefiller_sampling: bool,

    /// Serve TLS on the listener. Not available yet: give --secure-proxy=false
    #[arg(
        long,
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_parser = go_bool,
        value_name = "BOOL",
        help_heading = "TLS"
    )]
    secure_proxy: bool,

    /// How long the prefill leg may take; 0: no limit
    #[arg(long, default_value = "0s", value_parser = go_duration, value_name = "DURATION", help_heading = "Limits")]
    prefill_timeout: Duration,

    /// How long a prefill leg goes on after its client left, before it is cancelled. A prefill that ends within it is
    /// released for certain; one that is cancelled in the very moment it ends keeps its KV until the engine's lease
    /// ends, since only its answer names the blocks
    #[arg(long, default_value = "2s", value_parser = go_duration, value_name = "DURATION", help_heading = "Limits")]
    prefill_cancel_grace: Duration,

    /// How long a disaggregated request may take, both legs together, to its last byte; 0: no limit
    #[arg(long, default_value = "0s", value_parser = go_duration, value_name = "DURATION", help_heading = "Limits")]
    request_timeout: Duration,

    /// How long opening a connection to an engine may take
    #[arg(long, default_value = "30s", value_parser = go_duration, value_name = "DURATION", help_heading = "Limits")]
    connect_timeout: Duration,

    /// How long a client may pause while it sends a body that has to be read
    #[arg(long, default_value = "60s", value_parser = go_duration, value_name = "DURATION", help_heading = "Limits")]
    body_timeout: Duration,

    /// Largest body of a disaggregated request, in bytes; a larger one is answered 413
    #[arg(long, default_value_t = 64 * 1024 * 1024, value_name = "BYTES", help_heading = "Limits")]
    max_body_size: usize,

    /// Idle connections kept to each engine; 0 or less: 1024
    #[arg(
        long,
        default_value_t = 1024,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Limits"
    )]
    max_idle_conns_per_host: i64,

    /// How long requests may go on after SIGTERM
    #[arg(long, default_value = "60s", value_parser = go_duration, value_name = "DURATION", help_heading = "Process")]
    shutdown_timeout: Duration,

    /// Threads that serve requests [default: the cores available, at most 4]
    #[arg(long, value_name = "N", help_heading = "Process")]
    workers: Option<usize>,

    /// Least severe level that is logged: off, error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_name = "LEVEL", help_heading = "Logs")]
    log_level: LevelFilter,
}

/// Why a configuration cannot be used. The messages are matched by scripts (spec/sidecar.md 1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// A configuration that was checked.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Port to listen on.
    pub port: u16,
    /// Threads that serve.
    pub workers: usize,
    /// How long requests may go on after SIGTERM.
    pub shutdown_timeout: Duration,
    /// What requests are handled by.
    pub settings: Settings,
    /// Things to say once at start.
    pub warnings: Vec<&'static str>,
}

impl Config {
    /// The log level, needed before the rest is checked.
    pub fn log_level(&self) -> LevelFilter {
        self.log_level
    }

    /// Checks everything that parsing could not.
    ///
    /// # Errors
    /// The first thing that is wrong, as one line.
    pub fn check(&self) -> Result<Checked, Invalid> {
        let mut warnings = vec![
            "any host named in a routing header is dialled; let only a trusted gateway reach this port until \
             destinations can be restricted",
        ];
        let port = port("port", &self.port)?;
        let model_server = match (&self.model_server_port, &self.vllm_port) {
            (Some(text), _) => self::port("model-server-port", text)?,
            (None, Some(text)) => self::port("vllm-port", text)?,
            (None, None) => MODEL_SERVER_PORT,
        };
        if self.vllm_port.is_some() {
            warnings.push("--vllm-port is deprecated; use --model-server-port");
        }
        let options = connector::Options::default();
        let connector = connector::by_name(&self.kv_connector, &options).ok_or_else(|| {
            let known: Vec<&str> = connector::ALL.iter().map(|(name, _)| *name).collect();
            Invalid(format!(
                "--kv-connector must be one of: {} (got {:?})",
                known.join(", "),
                self.kv_connector
            ))
        })?;
        if self.secure_proxy {
            return Err(Invalid(
                "TLS on the listener is not available yet: give --secure-proxy=false".to_owned(),
            ));
        }
        if self.max_body_size == 0 {
            return Err(Invalid("--max-body-size must be at least 1".to_owned()));
        }
        for (name, value) in [("connect-timeout", self.connect_timeout), ("body-timeout", self.body_timeout)]
        {
            if value.is_zero() {
                return Err(Invalid(format!("--{name} must be greater than 0")));
            }
        }
        if self.workers == Some(0) {
            return Err(Invalid("--workers must be at least 1".to_owned()));
        }
        let workers = self.workers.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MAX_DEFAULT_WORKERS))
        });
        let some = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let decoder =
            format!("localhost:{model_server}").parse().expect("localhost with a port is an endpoint");
        let settings = Settings {
            watch: connector::watch(&*connector),
            connector,
            ranks: vec![Arc::new(Rank { index: 0, port, decoder: Arc::new(decoder) })],
            failover: Arc::new(Failover::new(Rules {
                policy: Policy::Fail,
                retries: 0,
                pause: Duration::ZERO,
                local_ratio: 0.0,
                local_rate: 0.0,
                breaker_failures: None,
                breaker_pause: Duration::ZERO,
            })),
            max_body: self.max_body_size,
            body_patience: self.body_timeout,
            sample_prefiller: self.enable_prefiller_sampling,
            limits: Arc::new(Limits {
                prefill: some(self.prefill_timeout),
                request: some(self.request_timeout),
                prefill_grace: self.prefill_cancel_grace,
                release_grace: RELEASE_GRACE,
                release_attempt: RELEASE_ATTEMPT,
                release_pause: RELEASE_PAUSE,
                release_attempts: RELEASE_ATTEMPTS,
                decode_stall: None,
            }),
            connect_timeout: self.connect_timeout,
            max_idle_per_engine: usize::try_from(self.max_idle_conns_per_host)
                .ok()
                .filter(|max| *max > 0)
                .unwrap_or(1024),
            listener_tls: None,
            leg_tls: LegsTls::default(),
        };
        Ok(Checked { port, workers, shutdown_timeout: self.shutdown_timeout, settings, warnings })
    }
}

fn port(name: &str, text: &str) -> Result<u16, Invalid> {
    let number: i64 =
        text.parse().map_err(|_| Invalid(format!("--{name} must be a valid integer, got {text:?}")))?;
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| Invalid(format!("--{name} must be between 1 and 65535, got {number}")))
}

/// A boolean as Go spells them: manifests were written for Go's flag parser.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("give true or false".to_owned()),
    }
}

/// A duration as Go spells them: `300ms`, `1.5s`, `2m30s`, `1h`; plain `0` too.
fn go_duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let wrong = || format!("{text:?} is no duration; give a number with a unit, such as 300ms, 30s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == &rest[..unit]).ok_or_else(wrong)?;
        seconds += number * scale;
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str]) -> Result<Checked, String> {
        let args = ["kvferry-sidecar", "--secure-proxy=false"].iter().chain(args);
        Config::try_parse_from(args)
            .map_err(|error| error.to_string())?
            .check()
            .map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let checked = check(&[]).unwrap();
        assert_eq!(checked.port, 8000);
        assert_eq!(checked.settings.ranks[0].decoder.to_string(), "localhost:8200");
        assert_eq!(checked.settings.max_body, 67_108_864);
        assert_eq!(checked.settings.max_idle_per_engine, 1024);
        assert_eq!(checked.settings.limits.prefill, None);
        assert_eq!(checked.settings.limits.request, None);
        assert_eq!(checked.shutdown_timeout, Duration::from_secs(60));
    }

    #[test]
    fn the_decode_engines_port_has_two_flags_and_the_new_one_wins() {
        let decoder = |args: &[&str]| check(args).unwrap().settings.ranks[0].decoder.port();
        assert_eq!(decoder(&["--vllm-port=9001"]), 9001);
        assert_eq!(decoder(&["--vllm-port", "9001", "--model-server-port", "9002"]), 9002);
        assert_eq!(check(&["--vllm-port=9001"]).unwrap().warnings.len(), 2);
    }

    #[test]
    fn what_cannot_work_is_refused_in_one_line() {
        for (args, message) in [
            (&["--port=x"][..], "--port must be a valid integer, got \"x\""),
            (&["--port=0"], "--port must be between 1 and 65535, got 0"),
            (&["--model-server-port=70000"], "--model-server-port must be between 1 and 65535, got 70000"),
            (&["--kv-connector=lmcache"], "--kv-connector must be one of: nixlv2 (got \"lmcache\")"),
            (&["--secure-proxy"], "TLS on the listener is not available yet: give --secure-proxy=false"),
            (&["--max-body-size=0"], "--max-body-size must be at least 1"),
            (&["--connect-timeout=0s"], "--connect-timeout must be greater than 0"),
            (&["--workers=0"], "--workers must be at least 1"),
        ] {
            let error = check(args).unwrap_err();
            assert!(error.contains(message), "{args:?}: {error}");
        }
        for args in
            [["--prefill-timeout=5"], ["--prefill-timeout=x"], ["--secure-proxy=maybe"], ["--unknown"]]
        {
            assert!(check(&args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn durations_are_spelled_as_in_go() {
        for (text, millis) in
            [("0", 0), ("0s", 0), ("200ms", 200), ("1.5s", 1500), ("1m30s", 90_000), ("1h", 3_600_000)]
        {
            assert_eq!(go_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1x", "1s5", "1..5s"] {
            assert!(go_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn old_flag_names_and_go_booleans_are_understood() {
        assert!(
            check(&["--connector=nixlv2", "--enable-prefiller-sampling"]).unwrap().settings.sample_prefiller
        );
        assert!(!check(&["--enable-prefiller-sampling=F"]).unwrap().settings.sample_prefiller);
        assert_eq!(check(&["--max-idle-conns-per-host=-1"]).unwrap().settings.max_idle_per_engine, 1024);
    }
}
