//! What `--help` and `--version` show, and how the command line as a whole is read.

use kvferry_config::{Flag, GROUPS};

use crate::operator::{Operator, flags};

/// What is printed to one who asked.
fn asked(args: &[&str]) -> String {
    let exit = flags(args).parse().unwrap_err();
    assert_eq!(exit.code, 0, "{exit}");
    exit.text
}

#[test]
fn help_shows_every_flag_under_its_heading() {
    let help = asked(&["--help"]);
    let (mut heading, mut shown) = ("", Vec::new());
    for line in help.lines() {
        if let Some(title) = line.strip_suffix(':').filter(|title| !title.starts_with(' ')) {
            heading = title;
        }
        // Deeper lines may begin with a flag too, but are text.
        if let Some(rest) = line.strip_prefix("      --") {
            let name = rest.split([' ', '[']).next().unwrap();
            shown.push((heading, name));
        }
    }
    let expected: Vec<(&str, &str)> =
        GROUPS.iter().flat_map(|group| group.flags.iter().map(|flag| (group.heading, flag.name))).collect();
    assert_eq!(shown, expected);
}

#[test]
fn help_tells_defaults_variables_connectors_and_what_replaces_old_names() {
    let help = asked(&["-h"]).split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [
        "[default: 8000]",
        "[env: INFERENCE_POOL]",
        "one of: nixlv2, shared-storage, sglang, mooncake, offloading",
        "one of: ec-example, ec-nixl",
        "Deprecated: use --model-server-port",
    ] {
        assert!(help.contains(text), "{text}: {help}");
    }
}

#[test]
fn every_old_name_says_what_to_use_and_every_name_is_there_once() {
    let all: Vec<&Flag> = GROUPS.iter().flat_map(|group| group.flags).collect();
    for (nth, flag) in all.iter().enumerate() {
        assert!(all[..nth].iter().all(|other| other.name != flag.name), "{}", flag.name);
        assert!(!flag.help.is_empty() && !flag.help.ends_with('.'), "{}: {}", flag.name, flag.help);
    }
    let deprecated = GROUPS.iter().find(|group| group.heading == "Deprecated").unwrap();
    for group in GROUPS {
        let old = group.heading == deprecated.heading;
        assert!(group.flags.iter().all(|flag| flag.instead.is_some() == old), "{}", group.heading);
    }
}

#[test]
fn the_version_is_told() {
    assert_eq!(asked(&["--version"]), format!("kvferry-sidecar {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn an_unknown_flag_is_answered_with_usage_and_exit_code_2() {
    for args in [&["--unknown"][..], &["--unknown=1"], &["-x"], &["--ports=1"]] {
        let exit = flags(args).parse().unwrap_err();
        assert_eq!(exit.code, 2, "{args:?}");
        assert!(exit.text.contains("Usage: kvferry-sidecar"), "{args:?}: {exit}");
    }
    let exit = flags(&["--prot=1"]).parse().unwrap_err();
    assert!(exit.text.contains("a similar argument exists: '--port'"), "{exit}");
    let exit = flags(&["--port"]).parse().unwrap_err();
    assert_eq!(exit.code, 2);
    assert!(exit.text.contains("a value is required for '--port <PORT>'"), "{exit}");
}

#[test]
fn values_are_read_as_pflag_reads_them() {
    let port = |operator: &Operator| operator.options().ports.port.get();
    for args in [
        &["--port", "8100"][..],
        &["--port=8100"],
        &["--port=1", "--port=8100"],
        &["-port", "8100"],
        &["-port=8100"],
        &["--tracing", "--port=8100"],
    ] {
        assert_eq!(port(&flags(args)), 8100, "{args:?}");
    }
    let tracing = |args: &[&str]| flags(args).options().observability.tracing;
    for (arg, on) in [
        ("--tracing", true),
        ("-tracing", true),
        ("--tracing=true", true),
        ("--tracing=1", true),
        ("--tracing=T", true),
        ("--tracing=false", false),
        ("--tracing=0", false),
        ("--tracing=F", false),
    ] {
        assert_eq!(tracing(&[arg]), on, "{arg}");
    }
    assert!(!tracing(&["--tracing", "--tracing=false"]));
    assert_eq!(
        flags(&["--decode-chunk-size", "-1"]).refusal(),
        "--decode-chunk-size must be a non-negative integer of at most 4294967295 (0: not in chunks), got -1"
    );
    // What follows a flag that takes a value is its value, whatever it looks like.
    assert_eq!(
        flags(&["--cert-path", "-port"]).options().listener.cert_path.unwrap().to_str(),
        Some("-port")
    );
}

#[test]
fn arguments_between_flags_change_nothing_but_are_told() {
    for args in [
        &["--tracing", "false", "--port=8100"][..],
        &["--tracing", "--port=8100", "--", "--false"],
        &["--tracing", "--port=8100", ""],
        &["-", "--tracing", "--port", "8100"],
    ] {
        let operator = flags(args);
        let options = operator.options();
        assert_eq!((options.observability.tracing, options.ports.port.get()), (true, 8100), "{args:?}");
        operator.warning("is not used; a boolean's value follows an equals sign");
    }
}

#[test]
fn lists_are_comma_separated_and_repeatable() {
    for args in [
        &["--moriio-remote-hosts=10.0.0.1,10.0.0.2"][..],
        &["--moriio-remote-hosts=10.0.0.1", "--moriio-remote-hosts", "10.0.0.2"],
        &["--moriio-remote-hosts", " 10.0.0.1 ,, 10.0.0.2,"],
    ] {
        let hosts = flags(&["--moriio-dp-size=2", "--moriio-dp-size-local=1"]).flags(args).options();
        let names: Vec<_> = hosts.moriio.moriio_remote_hosts.iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["10.0.0.1", "10.0.0.2"], "{args:?}");
    }
}
