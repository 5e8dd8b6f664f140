//! Whom routing headers may name.

use crate::operator::{flags, yaml};

#[test]
fn a_pool_is_named_with_or_without_its_namespace() {
    for (operator, expected) in [
        (flags(&["--inference-pool=my-namespace/my-pool"]), Some("my-namespace/my-pool")),
        (flags(&["--inference-pool=my-pool"]), Some("default/my-pool")),
        (flags(&["--inference-pool="]), None),
        (flags(&["--inference-pool="]).env("INFERENCE_POOL", "ns/pool"), None),
        (flags(&[]), None),
        (flags(&[]).env("INFERENCE_POOL", "test-namespace/test-pool"), Some("test-namespace/test-pool")),
        (flags(&["--inference-pool-namespace=ns", "--inference-pool-name=pool"]), Some("ns/pool")),
        (flags(&["--inference-pool-name=pool"]), Some("default/pool")),
        (flags(&["--inference-pool-namespace=ns"]), None),
        (
            flags(&[]).env("INFERENCE_POOL_NAMESPACE", "ns").env("INFERENCE_POOL_NAME", "pool"),
            Some("ns/pool"),
        ),
        (flags(&[]).env("INFERENCE_POOL", "a/b").env("INFERENCE_POOL_NAME", "old"), Some("a/b")),
        (flags(&["--inference-pool-name=flag"]).env("INFERENCE_POOL", "a/b"), Some("default/flag")),
        (yaml("inference-pool: y/p").env("INFERENCE_POOL", "a/b"), Some("y/p")),
        (yaml("inference-pool: y/p").flags(&["--inference-pool=f/p"]), Some("f/p")),
    ] {
        let pool = operator.options().destinations.inference_pool.map(|pool| pool.to_string());
        assert_eq!(pool.as_deref(), expected, "{operator:?}");
    }
}

#[test]
fn other_forms_of_a_pool_are_refused() {
    for (text, expected) in [
        ("a/b/c", "--inference-pool must be in format 'namespace/name' or 'name', got \"a/b/c\""),
        ("/b", "--inference-pool cannot have an empty namespace or name, got \"/b\""),
        ("a/", "--inference-pool cannot have an empty namespace or name, got \"a/\""),
        ("/", "--inference-pool cannot have an empty namespace or name, got \"/\""),
    ] {
        assert_eq!(flags(&["--inference-pool", text]).refusal(), expected);
    }
    for (namespace, name) in [("", "_/"), ("", "a/b"), ("ns", "/b"), ("a/b", "c"), ("a/", "c")] {
        let old =
            yaml(&format!("{{inference-pool-namespace: {namespace:?}, inference-pool-name: {name:?}}}"));
        let got = format!("{}/{name}", if namespace.is_empty() { "default" } else { namespace });
        assert_eq!(
            old.refusal(),
            format!("--inference-pool must be in format 'namespace/name' or 'name', got {got:?}")
        );
    }
}

#[test]
fn protection_needs_a_pool() {
    for (args, works) in [
        (&["--enable-ssrf-protection"][..], false),
        (&["--enable-ssrf-protection", "--inference-pool-namespace=ns"], false),
        (&["--enable-ssrf-protection", "--inference-pool=pool"], true),
        (&["--enable-ssrf-protection", "--inference-pool=ns/pool"], true),
        (&["--enable-ssrf-protection=false"], true),
    ] {
        if works {
            flags(args).options();
        } else {
            assert_eq!(
                flags(args).refusal(),
                "--inference-pool flag or INFERENCE_POOL environment variable is required when \
                 --enable-ssrf-protection is true"
            );
        }
    }
}

#[test]
fn a_pools_group_is_checked_by_those_who_know_it_and_only_where_it_matters() {
    let group = |args: &[&str]| flags(args).options().destinations.pool_group;
    assert_eq!(group(&[]), "inference.networking.k8s.io");
    let alpha = "--pool-group=inference.networking.x-k8s.io";
    assert_eq!(group(&[alpha, "--inference-pool=pool", "--enable-ssrf-protection"]), alpha[13..]);
    let odd = flags(&["--pool-group=pools.example.com", "--inference-pool=pool"]);
    assert_eq!(odd.options().destinations.pool_group, "pools.example.com");
    assert_eq!(
        odd.flags(&["--enable-ssrf-protection"]).refusal(),
        "unknown --pool-group \"pools.example.com\""
    );
}

#[test]
fn targets_are_checked_by_those_who_know_them() {
    let targets = flags(&["--allow-target=10.0.0.0/8, a:1", "--allow-target", "[fd00::7]:8000"]);
    assert_eq!(targets.options().destinations.allow_target, ["10.0.0.0/8", "a:1", "[fd00::7]:8000"]);
    assert_eq!(
        targets.flags(&["--allow-target=everything"]).refusal(),
        "--allow-target \"everything\": it has no port"
    );
    let listed = yaml("allow-target: [10.0.0.0/8, 'a:1']").options().destinations.allow_target;
    assert_eq!(listed, ["10.0.0.0/8", "a:1"]);
}

#[test]
fn open_destinations_are_warned_of_once_and_closed_ones_not() {
    let open = flags(&["--inference-pool=pool"]);
    assert!(open.options().destinations.are_open());
    let warning = open.warning("any host named in a routing header is dialled");
    assert!(warning.contains("--enable-ssrf-protection") && warning.contains("--allow-target"), "{warning}");
    for closing in ["--enable-ssrf-protection", "--allow-target=10.0.0.0/8"] {
        let closed = open.clone().flags(&[closing]);
        assert!(!closed.options().destinations.are_open());
        assert_eq!(closed.warnings(), [] as [&str; 0]);
    }
}
