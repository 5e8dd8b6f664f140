//! YAML is read strictly, and no text stops the process in any other way than by a line that says why.

use proptest::prelude::*;
use serde_json::json;

use crate::operator::{flags, yaml};

#[test]
fn what_is_no_configuration_is_refused_in_one_line() {
    for (text, why) in [
        ("{port: 8200, invalid-yaml}", "unknown key \"invalid-yaml\""),
        ("\nport: 8100\ninvalid-yaml,\n", ""),
        ("port: 8100\nunknown-key: 1001\n", "unknown key \"unknown-key\""),
        ("port: 8100\nport: 8101\n", "duplicate entry with key \"port\""),
        ("{port: 1, \"port\": 2}", "duplicate entry with key \"port\""),
        ("{port: [1]}", "key \"port\" must be a whole number"),
        ("{port: \"8100\"}", "key \"port\" must be a whole number"),
        ("{port: 8100.5}", "key \"port\" must be a whole number"),
        ("{tracing: maybe}", "key \"tracing\" must be true or false"),
        ("{tracing: 1}", "key \"tracing\" must be true or false"),
        ("{kv-connector: {name: sglang}}", "key \"kv-connector\" must be a text"),
        ("{enable-tls: prefiller}", "key \"enable-tls\" must be a list"),
        ("{enable-tls: [[prefiller]]}", "key \"enable-tls\" must be a list of texts"),
        ("{prefill-local-ratio: some}", "key \"prefill-local-ratio\" must be a number"),
        ("{1: 2}", "is no text"),
        ("- port\n", "it is no mapping of keys to values"),
        ("8100", "it is no mapping of keys to values"),
        ("{port: 8100", ""),
        ("{\"port\": 8100,}}", ""),
        ("a: &x [*x]", ""),
        ("port: 1\n---\nport: 2\n", ""),
        // What chooses the configuration is no part of it.
        ("{configuration: '{}'}", "unknown key \"configuration\""),
        ("{configuration-file: /etc/other.yaml}", "unknown key \"configuration-file\""),
        ("{print-config: true}", "unknown key \"print-config\""),
        ("{Port: 1}", "unknown key \"Port\""),
        ("{--port: 1}", "unknown key \"--port\""),
    ] {
        for operator in [yaml(text), flags(&["--configuration-file=/f"]).file("/f", text)] {
            let refusal = operator.refusal();
            assert!(refusal.starts_with("failed to unmarshal sidecar configuration: "), "{text}: {refusal}");
            assert!(refusal.contains(why), "{text}: {refusal}");
        }
    }
}

#[test]
fn inline_and_file_exclude_each_other() {
    let both = flags(&["--configuration={}", "--configuration-file=/f"]).file("/f", "{}");
    assert_eq!(both.refusal(), "flags --configuration and --configuration-file are mutually exclusive");
    // An empty one is none.
    let one = flags(&["--configuration=", "--configuration-file=/f"]).file("/f", "port: 8100");
    assert_eq!(one.options().ports.port.get(), 8100);
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    assert_eq!(
        flags(&["--configuration-file=/none"]).refusal(),
        "failed to read sidecar configuration from file /none: no such file"
    );
}

#[test]
fn zeros_empty_texts_and_nothing_at_all_are_not_set() {
    let defaults = flags(&[]).options();
    for text in [
        "",
        "{}",
        "# only a comment\n",
        "null",
        "---\n",
        "{port: 0, model-server-port: 0, vllm-port: 0, data-parallel-size: 0, decode-chunk-size: 0, metrics-port: 0, \
         mooncake-bootstrap-port: 0, p2p-connector-port: 0, max-idle-conns-per-host: 0}",
        "{kv-connector: '', ec-connector: '', cert-path: '', inference-pool: '', pool-group: ''}",
        "{enable-tls: [], tls-insecure-skip-verify: [], prefill-retry-backoff: ''}",
        "port:\nkv-connector: ~\ntracing: null\nenable-tls: null",
    ] {
        assert_eq!(flags(&["--configuration-file=/f"]).file("/f", text).options(), defaults, "{text:?}");
    }
    let from_environment = yaml("{inference-pool: ''}").env("INFERENCE_POOL", "pool").json();
    assert_eq!(from_environment["inference-pool"], "default/pool");
}

#[test]
fn false_and_a_zero_that_means_something_count() {
    let json = yaml("{secure-proxy: false, enable-prefiller-sampling: false, prefill-max-retries: 0}")
        .env("ENABLE_PREFILLER_SAMPLING", "true")
        .json();
    assert_eq!(json["secure-serving"], false);
    assert_eq!(json["enable-prefiller-sampling"], false);
    let json = yaml("{prefill-breaker-failures: 0, prefill-local-ratio: 0, prefill-timeout: 0}").json();
    assert_eq!(json["prefill-breaker-failures"], 0);
    assert_eq!(json["prefill-local-ratio"], 0.0);
    assert_eq!(json["prefill-timeout"], "0s");
}

#[test]
fn scalars_are_read_as_the_key_wants_them() {
    for (text, key, expected) in [
        ("tracing: yes", "tracing", json!(true)),
        ("tracing: On", "tracing", json!(true)),
        ("secure-proxy: off", "secure-serving", json!(false)),
        ("secure-serving: No", "secure-serving", json!(false)),
        ("inference-pool: 123", "inference-pool", json!("default/123")),
        ("pod-name: true", "pod-name", json!("true")),
        ("port: 0x1f90", "port", json!(8080)),
        ("{\"port\": 8080, \"enable-tls\": [\"decoder\"]}", "enable-tls", json!(["decoder"])),
    ] {
        assert_eq!(yaml(text).json()[key], expected, "{text}");
    }
}

#[test]
fn a_retry_pause_that_cannot_be_read_is_told_and_the_default_kept() {
    let operator = yaml("{prefill-retry-backoff: soon, prefill-max-retries: 1}");
    assert_eq!(operator.json()["prefill-retry-backoff"], "200ms");
    let warning = operator.warning("prefill-retry-backoff");
    assert!(warning.contains("\"soon\"") && warning.ends_with("using 200ms"), "{warning}");
    // On the command line it is refused.
    assert!(flags(&["--prefill-retry-backoff=soon"]).refusal().contains("--prefill-retry-backoff"));
    // And a flag makes the key unimportant.
    let json = yaml("prefill-retry-backoff: soon").flags(&["--prefill-retry-backoff=1s"]).json();
    assert_eq!(json["prefill-retry-backoff"], "1s");
}

fn near_yaml() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("port"),
        Just("tracing"),
        Just("enable-tls"),
        Just("prefill-timeout"),
        Just("prefill-local-ratio"),
        Just("kv-connector"),
        Just("allow-target"),
        Just("prefiller"),
        Just("10.0.0.0/8"),
        Just("8100"),
        Just("-1"),
        Just("99999999999999999999"),
        Just("1e999"),
        Just(".nan"),
        Just("30s"),
        Just("yes"),
        Just("~"),
        Just(": "),
        Just("\n"),
        Just("\n  "),
        Just("\t"),
        Just("- "),
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(", "),
        Just("\""),
        Just("'"),
        Just("&a "),
        Just("*a"),
        Just("<<"),
        Just("!!int "),
        Just("!x "),
        Just("|"),
        Just("? "),
        Just("#"),
        Just("---\n"),
        Just("%YAML 1.1\n"),
        Just("\u{feff}"),
    ];
    proptest::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_text_does_more_than_set_or_be_refused(text in prop_oneof![near_yaml(), any::<String>()]) {
        for operator in [yaml(&text), flags(&["--configuration-file=/f"]).file("/f", &text)] {
            match operator.parse() {
                Ok(parsed) => prop_assert!(parsed.options.to_json().is_object()),
                Err(exit) => {
                    prop_assert_eq!(exit.code, 2);
                    prop_assert_eq!(exit.text.lines().count(), 1, "{}", exit.text);
                }
            }
        }
    }
}
