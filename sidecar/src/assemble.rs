//! From what the operator set to what serves: the one place where flags meet the parts they are for.

use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use kvferry_allowlist::{Allowlist, ClientSource, PoolRef, Rule};
use kvferry_config::{Known, Options, PrefillFailurePolicy, ProxyUrl, Stage};
use kvferry_handoff::Limits;
use kvferry_metrics::Metrics;
use kvferry_tls::{LegOptions, LegTls, ListenerOptions, ListenerTls, TlsError};
use kvferry_traces::Traces;

use crate::connector::{self, PrefillLimits};
use crate::error::Error;
use crate::exchange::Encode;
use crate::failover::{Failover, Policy, Rules};
use crate::upstream::{Proxies, Tallies};
use crate::worker::{LegsTls, Rank, Settings};

/// Between the end of a decode leg and the first release: far more than an engine needs to notice that its client left.
const RELEASE_GRACE: Duration = Duration::from_millis(250);

/// A release is refused by the engine's front end at once; one that takes longer has met a busy or dying engine.
const RELEASE_ATTEMPT: Duration = Duration::from_secs(2);

/// Between two attempts.
const RELEASE_PAUSE: Duration = Duration::from_millis(500);

/// Attempts; then the engine's own lease (30 s for vLLM) is as near as the next would be.
const RELEASE_ATTEMPTS: NonZeroU8 = NonZeroU8::new(4).expect("four is not zero");

/// Their names, in the order in which messages list them.
static KV_CONNECTORS: LazyLock<Vec<&'static str>> =
    LazyLock::new(|| connector::ALL.iter().map(|(name, _)| *name).collect());

/// What a configuration is checked against.
pub fn known() -> Known<'static> {
    Known {
        kv_connectors: &KV_CONNECTORS,
        ec_connectors: &Encode::NAMES,
        tls_names: &|version, suites| {
            kvferry_tls::check_names(version, suites).map_err(|error| error.to_string())
        },
        pool: &|namespace, name, group| {
            PoolRef::new(namespace, name, group).map(drop).map_err(|error| error.to_string())
        },
        allow_target: &|target| target.parse::<Rule>().map(drop).map_err(|error| error.to_string()),
    }
}

/// Makes what requests are handled by. Must be called within a tokio runtime that goes on running if the allowlist
/// follows a pool.
///
/// # Errors
/// Certificates that cannot be used.
///
/// # Panics
/// `options` was not checked against [`known`].
pub fn settings(options: &Options) -> Result<Settings, TlsError> {
    let metrics = Metrics::new(&[("version", env!("CARGO_PKG_VERSION"))], &outcomes());
    let connector_options = connector_options(options, &metrics);
    let connector = connector::by_name(&options.handoff.kv_connector, &connector_options)
        .expect("the configuration was checked against the connectors there are");
    let ranks = options.ports.ranks().enumerate().map(|(index, (port, engine))| {
        let decoder = format!("localhost:{engine}").parse().expect("localhost with a port is an endpoint");
        Arc::new(Rank { index, port, decoder: Arc::new(decoder) })
    });
    Ok(Settings {
        watch: connector::watch(&*connector, options.shortcuts.enable_speculative_prefill),
        encode: options.handoff.ec_connector.as_deref().and_then(Encode::by_name),
        decode_chunk: options.handoff.decode_chunk_size,
        ranks: ranks.collect(),
        max_body: options.limits.max_body_size.get(),
        body_patience: options.limits.body_timeout,
        sample_prefiller: options.handoff.enable_prefiller_sampling,
        failover: Arc::new(failover(options)),
        limits: Arc::new(limits(options, &*connector)),
        connect_timeout: options.limits.connect_timeout,
        max_idle_per_engine: options.limits.max_idle_conns_per_host.get(),
        listener_tls: listener_tls(options)?,
        leg_tls: legs_tls(options)?,
        tallies: Tallies::default(),
        proxies: {
            let environment = &options.environment;
            let url = |proxy: &Option<ProxyUrl>| proxy.as_ref().map(|url| url.as_str().to_owned());
            let (http, https) = (url(&environment.http_proxy), url(&environment.https_proxy));
            Proxies::new(http.as_deref(), https.as_deref(), environment.no_proxy.as_deref())
        },
        allowlist: allowlist(options),
        pod_ip: options.environment.pod_ip.clone(),
        warm_up: options.shortcuts.pair_warm_up.then(Arc::default),
        speculative: options.shortcuts.enable_speculative_prefill.then(Arc::default),
        connector_name: connector::name(&options.handoff.kv_connector),
        metrics,
        traces: Traces::off(),
        request_log: options.observability.request_log,
        connector,
    })
}

/// How a request may end, besides well and with its client gone.
fn outcomes() -> Vec<&'static str> {
    let mut outcomes = Error::CODES.to_vec();
    outcomes.extend(["prefill_refused", "decode_refused", "decode_error_event"]);
    outcomes
}

fn limits(options: &Options, connector: &dyn connector::Connector) -> Limits {
    let grace = options.limits.prefill_cancel_grace;
    Limits {
        prefill: [connector.patience(), options.limits.prefill_timeout].into_iter().flatten().min(),
        request: options.limits.request_timeout,
        decode_stall: options.limits.decode_stall_timeout,
        prefill_grace: if connector.cancels_at_once() { Duration::ZERO } else { grace },
        release_grace: RELEASE_GRACE,
        release_attempt: RELEASE_ATTEMPT,
        release_pause: RELEASE_PAUSE,
        release_attempts: RELEASE_ATTEMPTS,
    }
}

fn failover(options: &Options) -> Failover {
    let failover = &options.failover;
    Failover::new(Rules {
        policy: match failover.prefill_failure_policy {
            PrefillFailurePolicy::Fail => Policy::Fail,
            PrefillFailurePolicy::RetryOther => Policy::RetryOther,
            PrefillFailurePolicy::Local => Policy::Local,
        },
        retries: failover.prefill_max_retries,
        pause: failover.prefill_retry_backoff,
        local_ratio: failover.prefill_local_ratio,
        local_rate: f64::from(failover.prefill_local_min_rate),
        breaker_failures: failover.prefill_breaker_failures,
        breaker_pause: failover.prefill_breaker_pause,
    })
}

fn connector_options(options: &Options, metrics: &Metrics) -> connector::Options {
    connector::Options {
        prefill_limits: match options.handoff.prefill_limits {
            kvferry_config::PrefillLimits::PerApi => PrefillLimits::PerApi,
            kvferry_config::PrefillLimits::Compat => PrefillLimits::Compat,
        },
        sglang_bootstrap_port: options.environment.sglang_bootstrap_port.get(),
        mooncake_bootstrap_port: options.engines.mooncake_bootstrap_port.get(),
        p2p_port: options.engines.p2p_connector_port.get(),
        p2p_pull: options.engines.enable_p2p_pull,
        port: options.ports.port.get(),
        ranks: options.ports.data_parallel_size.get(),
        pod_ip: options.environment.pod_ip.clone(),
        push: options.nixl.nixl_push_mode,
        first_token_forwarding: options.shortcuts.first_token_forwarding,
        bidirectional: options.nixl.bidirectional_kv.then(|| bidirectional(options)),
        moriio: moriio(options),
        metrics: metrics.clone(),
    }
}

fn bidirectional(options: &Options) -> connector::BidirectionalOptions {
    let (nixl, process) = (&options.nixl, &options.process);
    connector::BidirectionalOptions {
        session_header: nixl
            .bidirectional_session_header
            .parse()
            .expect("the configuration was checked to hold a header's name"),
        cache_size: nixl.bidirectional_cache_size,
        cache_ttl: nixl.bidirectional_cache_ttl,
        pod: process
            .pod_namespace
            .as_ref()
            .zip(process.pod_name.as_ref())
            .map(|(namespace, name)| format!("{namespace}/{name}")),
    }
}

fn moriio(options: &Options) -> connector::MoriIoOptions {
    let (moriio, environment) = (&options.moriio, &options.environment);
    let host =
        |host: &kvferry_config::Host| connector::Host { name: host.name.clone(), address: host.address };
    connector::MoriIoOptions {
        write_mode: moriio.moriio_write_mode,
        parallel_dispatch: moriio.moriio_parallel_dispatch,
        parallel_decode_wait_timeout: moriio.moriio_parallel_decode_wait_timeout,
        decode_notify_port: moriio.moriio_decode_notify_port.get(),
        decode_handshake_port: moriio.moriio_decode_handshake_port.get(),
        prefill_notify_port: moriio.moriio_prefill_notify_port.get(),
        prefill_handshake_port: moriio.moriio_prefill_handshake_port.get(),
        tp_size: moriio.moriio_tp_size.get(),
        dp_size: moriio.moriio_dp_size.get(),
        dp_size_local: moriio.moriio_dp_size_local.map(std::num::NonZeroU32::get),
        local_pod: moriio.moriio_local_pod_ip.as_ref().map(host),
        remote_hosts: moriio.moriio_remote_hosts.iter().map(host).collect(),
        decode_hosts: moriio.moriio_decode_hosts.iter().map(host).collect(),
        dns_ttl: environment.moriio_dns_resolve_ttl_seconds,
        dns_timeout: environment.moriio_dns_resolve_timeout_seconds,
    }
}

fn listener_tls(options: &Options) -> Result<Option<ListenerTls>, TlsError> {
    let listener = &options.listener;
    listener
        .secure_serving
        .then(|| {
            ListenerTls::start(ListenerOptions {
                cert_dir: listener.cert_path.clone(),
                min_version: listener.tls_min_version.clone(),
                cipher_suites: listener.tls_cipher_suites.clone(),
                client_ca: listener.client_ca_path.clone(),
                http1_only: false,
            })
        })
        .transpose()
}

fn legs_tls(options: &Options) -> Result<LegsTls, TlsError> {
    let leg = |stage: Stage| -> Result<Option<LegTls>, TlsError> {
        let legs = &options.legs;
        if !legs.enable_tls.contains(&stage) {
            return Ok(None);
        }
        LegTls::start(LegOptions {
            skip_verify: legs.tls_insecure_skip_verify.contains(&stage),
            ca: legs.leg_ca_path.clone(),
            client_cert_dir: legs.client_cert_path(stage).map(Path::to_path_buf),
            min_version: options.listener.tls_min_version.clone(),
            cipher_suites: options.listener.tls_cipher_suites.clone(),
        })
        .map(Some)
    };
    Ok(LegsTls {
        prefill: leg(Stage::Prefiller)?,
        decode: leg(Stage::Decoder)?,
        encode: leg(Stage::Encoder)?,
    })
}

fn allowlist(options: &Options) -> Allowlist {
    let destinations = &options.destinations;
    let rules: Vec<Rule> = destinations
        .allow_target
        .iter()
        .map(|target| target.parse().expect("the configuration was checked against the allowlist's rules"))
        .collect();
    match &destinations.inference_pool {
        Some(pool) if destinations.enable_ssrf_protection => {
            let pool = PoolRef::new(&pool.namespace, &pool.name, &destinations.pool_group)
                .expect("the configuration was checked against the pools there are");
            Allowlist::watch(pool, rules, ClientSource::Infer).expect("the caller is within a runtime")
        }
        _ => Allowlist::fixed(rules),
    }
}

/// TLS of the operator's port, if it has a certificate.
///
/// # Errors
/// The certificate cannot be used.
pub fn admin_tls(options: &Options, directory: PathBuf) -> Result<ListenerTls, TlsError> {
    ListenerTls::start(ListenerOptions {
        cert_dir: Some(directory),
        min_version: options.listener.tls_min_version.clone(),
        cipher_suites: options.listener.tls_cipher_suites.clone(),
        client_ca: None,
        http1_only: true,
    })
}
