//! Which source wins: flag, then YAML, then environment, then default.

use serde_json::json;

use crate::operator::{flags, yaml};

/// As many keys as one file would hold.
const FILE: &str = r#"
port: 8100
vllm-port: 8301
data-parallel-size: 5
kv-connector: sglang
ec-connector: ec-example
enable-ssrf-protection: true
enable-prefiller-sampling: true
enable-tls:
- prefiller
- decoder
tls-insecure-skip-verify:
- prefiller
secure-proxy: false
cert-path: "/etc/certificates-file"
inference-pool: "file-ns/pool-file"
pool-group: inference.networking.x-k8s.io
max-idle-conns-per-host: 300
prefill-max-retries: 3
prefill-retry-backoff: "500ms"
decode-chunk-size: 128
mooncake-bootstrap-port: 9000
tracing: true
"#;

/// The same keys otherwise, in a flow mapping over several lines, indented with tabs.
const INLINE: &str = "{\n\tport: 8011,\n\tvllm-port: 8321,\n\tdata-parallel-size: 3,\n\tkv-connector: mooncake,\n\t\
     ec-connector: ec-nixl,\n\tenable-tls: ['prefiller', 'decoder'],\n\ttls-insecure-skip-verify: ['decoder'],\n\t\
     secure-proxy: false,\n\tcert-path: '/etc/certificates-inline',\n\tinference-pool: inline-ns/pool-inline,\n\t\
     max-idle-conns-per-host: 200,\n\tprefill-max-retries: 2,\n\tprefill-retry-backoff: '300ms',\n\t\
     decode-chunk-size: 256,\n\tmooncake-bootstrap-port: 9001,\n\ttracing: true\n}";

#[test]
fn a_file_overrides_the_defaults() {
    let json = flags(&["--configuration-file=/etc/sidecar.yaml"]).file("/etc/sidecar.yaml", FILE).json();
    for (key, expected) in [
        ("port", json!(8100)),
        ("model-server-port", json!(8301)),
        ("data-parallel-size", json!(5)),
        ("kv-connector", json!("sglang")),
        ("ec-connector", json!("ec-example")),
        ("enable-ssrf-protection", json!(true)),
        ("enable-prefiller-sampling", json!(true)),
        ("enable-tls", json!(["prefiller", "decoder"])),
        ("tls-insecure-skip-verify", json!(["prefiller"])),
        ("secure-serving", json!(false)),
        ("cert-path", json!("/etc/certificates-file")),
        ("inference-pool", json!("file-ns/pool-file")),
        ("pool-group", json!("inference.networking.x-k8s.io")),
        ("max-idle-conns-per-host", json!(300)),
        ("prefill-max-retries", json!(3)),
        ("prefill-retry-backoff", json!("500ms")),
        ("decode-chunk-size", json!(128)),
        ("mooncake-bootstrap-port", json!(9000)),
        ("tracing", json!(true)),
    ] {
        assert_eq!(json[key], expected, "{key}");
    }
}

#[test]
fn an_inline_configuration_overrides_the_defaults() {
    let json = yaml(INLINE).json();
    for (key, expected) in [
        ("port", json!(8011)),
        ("model-server-port", json!(8321)),
        ("data-parallel-size", json!(3)),
        ("kv-connector", json!("mooncake")),
        ("ec-connector", json!("ec-nixl")),
        ("enable-tls", json!(["prefiller", "decoder"])),
        ("tls-insecure-skip-verify", json!(["decoder"])),
        ("secure-serving", json!(false)),
        ("cert-path", json!("/etc/certificates-inline")),
        ("inference-pool", json!("inline-ns/pool-inline")),
        ("max-idle-conns-per-host", json!(200)),
        ("prefill-max-retries", json!(2)),
        ("prefill-retry-backoff", json!("300ms")),
        ("decode-chunk-size", json!(256)),
        ("mooncake-bootstrap-port", json!(9001)),
        ("tracing", json!(true)),
    ] {
        assert_eq!(json[key], expected, "{key}");
    }
}

#[test]
fn flags_override_the_configuration_and_leave_the_rest_of_it() {
    let given = flags(&[
        "--port=8111",
        "--vllm-port=8422",
        "--data-parallel-size=2",
        "--kv-connector=offloading",
        "--enable-ssrf-protection=false",
        "--enable-tls=prefiller",
        "--tls-insecure-skip-verify=encoder",
        "--cert-path=/etc/certificates",
        "--inference-pool=ns/pool",
        "--max-idle-conns-per-host=400",
        "--mooncake-bootstrap-port=9002",
        "--tracing=false",
        "--configuration-file=/etc/sidecar.yaml",
    ]);
    let json = given.file("/etc/sidecar.yaml", FILE).json();
    for (key, expected) in [
        ("port", json!(8111)),
        ("model-server-port", json!(8422)),
        ("data-parallel-size", json!(2)),
        ("kv-connector", json!("offloading")),
        ("enable-ssrf-protection", json!(false)),
        ("enable-tls", json!(["prefiller"])),
        ("tls-insecure-skip-verify", json!(["encoder"])),
        ("cert-path", json!("/etc/certificates")),
        ("inference-pool", json!("ns/pool")),
        ("max-idle-conns-per-host", json!(400)),
        ("mooncake-bootstrap-port", json!(9002)),
        ("tracing", json!(false)),
        // From the file.
        ("ec-connector", json!("ec-example")),
        ("prefill-max-retries", json!(3)),
        ("prefill-retry-backoff", json!("500ms")),
        ("decode-chunk-size", json!(128)),
        ("secure-serving", json!(false)),
    ] {
        assert_eq!(json[key], expected, "{key}");
    }
}

#[test]
fn the_decode_engines_port_goes_by_flags_then_keys_then_default() {
    for (args, keys, expected) in [
        (&["--model-server-port=1", "--vllm-port=2"][..], "{model-server-port: 3, vllm-port: 4}", 1),
        (&["--vllm-port=2"], "{model-server-port: 3, vllm-port: 4}", 2),
        (&[], "{model-server-port: 3, vllm-port: 4}", 3),
        (&[], "{vllm-port: 4}", 4),
        (&[], "{}", 8200),
        (&["--model-server-port=1"], "{vllm-port: 4}", 1),
    ] {
        let port = yaml(keys).flags(args).options().ports.model_server_port.get();
        assert_eq!(port, expected, "{args:?} {keys}");
    }
}

#[test]
fn secure_serving_goes_before_secure_proxy_and_flags_before_keys() {
    for (args, keys, expected) in [
        (&[][..], "{}", true),
        (&["--secure-serving=false", "--secure-proxy=true"], "{}", false),
        (&["--secure-proxy=false", "--secure-serving=true"], "{}", true),
        (&["--secure-proxy=false"], "{}", false),
        (&["--secure-proxy=false"], "{secure-serving: true}", false),
        (&["--secure-serving"], "{secure-proxy: false}", true),
        (&[], "{secure-serving: false, secure-proxy: true}", false),
        (&[], "{secure-proxy: false}", false),
    ] {
        assert_eq!(yaml(keys).flags(args).options().listener.secure_serving, expected, "{args:?} {keys}");
    }
}

#[test]
fn kv_connector_goes_before_connector() {
    for (args, keys, expected) in [
        (&["--connector=sglang"][..], "{}", "sglang"),
        (&["--connector=sglang", "--kv-connector=mooncake"], "{}", "mooncake"),
        (&["--connector=sglang"], "{kv-connector: mooncake}", "sglang"),
        (&[], "{kv-connector: mooncake, connector: sglang}", "mooncake"),
        (&["--kv-connector=", "--connector=sglang"], "{}", "sglang"),
    ] {
        assert_eq!(yaml(keys).flags(args).options().handoff.kv_connector, expected, "{args:?} {keys}");
    }
}

#[test]
fn the_environment_replaces_defaults_and_nothing_stronger() {
    for (variable, value, key, expected, flag, over) in [
        ("INFERENCE_POOL", "e/p", "inference-pool", json!("e/p"), "--inference-pool=f/p", json!("f/p")),
        (
            "ENABLE_PREFILLER_SAMPLING",
            "true",
            "enable-prefiller-sampling",
            json!(true),
            "--enable-prefiller-sampling=false",
            json!(false),
        ),
        (
            "MOONCAKE_BOOTSTRAP_PORT",
            "9100",
            "mooncake-bootstrap-port",
            json!(9100),
            "--mooncake-bootstrap-port=1",
            json!(1),
        ),
        ("P2P_CONNECTOR_PORT", "9500", "p2p-connector-port", json!(9500), "--p2p-connector-port=1", json!(1)),
        (
            "POD_IP",
            "10.0.0.7",
            "moriio-local-pod-ip",
            json!("10.0.0.7"),
            "--moriio-local-pod-ip=10.0.0.8",
            json!("10.0.0.8"),
        ),
        ("POD_NAME", "pod-0", "pod-name", json!("pod-0"), "--pod-name=pod-1", json!("pod-1")),
        ("POD_NAMESPACE", "llm", "pod-namespace", json!("llm"), "--pod-namespace=other", json!("other")),
    ] {
        let operator = flags(&[]).env(variable, value);
        assert_eq!(operator.json()[key], expected, "{variable}");
        assert_eq!(operator.clone().flags(&[flag]).json()[key], over, "{variable}");
        let (name, given) = flag.trim_start_matches('-').split_once('=').unwrap();
        let keys = format!("{name}: {given}");
        assert_eq!(operator.flags(&["--configuration", &keys]).json()[key], over, "{variable}");
    }
}

#[test]
fn a_variable_that_cannot_be_read_is_passed_over_and_told() {
    for (variable, value) in [
        ("ENABLE_PREFILLER_SAMPLING", "maybe"),
        ("MOONCAKE_BOOTSTRAP_PORT", "tcp://10.0.0.1:80"),
        ("P2P_CONNECTOR_PORT", "1.5"),
        ("SGLANG_BOOTSTRAP_PORT", "eight"),
        ("SGLANG_BOOTSTRAP_PORT", "70000"),
        ("MORIIO_DNS_RESOLVE_TTL_SECONDS", "-1"),
        ("MORIIO_DNS_RESOLVE_TIMEOUT_SECONDS", "0"),
        ("MORIIO_METRICS_ADDR", "metrics"),
    ] {
        let operator = flags(&[]).env(variable, value);
        operator.warning(variable);
        let (mut with, without) = (operator.options(), flags(&[]).options());
        with.environment.moriio_metrics_addr = None;
        assert_eq!(with, without, "{variable}");
    }
    // An empty one says nothing, so there is nothing to tell.
    let empty = flags(&[]).env("ENABLE_PREFILLER_SAMPLING", "").env("P2P_CONNECTOR_PORT", "");
    assert_eq!(empty.warnings(), flags(&[]).warnings());
}

#[test]
fn some_things_are_set_by_the_environment_alone() {
    let environment = flags(&[])
        .env("SGLANG_BOOTSTRAP_PORT", "9001")
        .env("POD_IP", "10.0.0.7")
        .env("MORIIO_DNS_RESOLVE_TTL_SECONDS", "5")
        .env("MORIIO_DNS_RESOLVE_TIMEOUT_SECONDS", "1")
        .env("http_proxy", "http://proxy:3128")
        .env("HTTPS_PROXY", "http://loud:3128")
        .env("https_proxy", "http://quiet:3128")
        .env("no_proxy", "localhost,10.0.0.0/8")
        .options()
        .environment;
    assert_eq!(environment.sglang_bootstrap_port.get(), 9001);
    assert_eq!(environment.moriio_dns_resolve_ttl_seconds.as_secs(), 5);
    assert_eq!(environment.moriio_dns_resolve_timeout_seconds.as_secs(), 1);
    assert_eq!(environment.http_proxy.unwrap().as_str(), "http://proxy:3128");
    assert_eq!(environment.https_proxy.unwrap().as_str(), "http://loud:3128");
    assert_eq!(environment.no_proxy.as_deref(), Some("localhost,10.0.0.0/8"));
}

#[test]
fn a_proxys_password_is_never_printed() {
    for (url, printed) in [
        ("http://user:secret@proxy:3128", "http://***@proxy:3128"),
        ("user:secret@proxy:3128", "***@proxy:3128"),
        ("http://user:se@cret@proxy", "http://***@proxy"),
        ("http://proxy:3128", "http://proxy:3128"),
    ] {
        let options = flags(&[]).env("HTTP_PROXY", url).options();
        assert_eq!(options.to_json()["environment"]["HTTP_PROXY"], printed);
        assert!(!format!("{options:?}").contains("secret"));
        assert_eq!(options.environment.http_proxy.unwrap().as_str(), url);
    }
}
