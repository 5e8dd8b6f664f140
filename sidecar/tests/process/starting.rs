//! What keeps the sidecar from starting is said in one line, with an exit code.

use std::net::TcpListener;

use crate::child::run;

#[test]
fn a_configuration_that_cannot_work_ends_with_code_2_and_one_line() {
    for (args, says) in [
        (&["--port=x"][..], "--port must be a valid integer, got \"x\""),
        (&["--port=0"], "--port must be between 1 and 65535, got 0"),
        (&["--port=65536"], "--port must be between 1 and 65535"),
        (&["--model-server-port=-1"], "--model-server-port must be between 1 and 65535"),
        (&["--kv-connector=other"], "--kv-connector must be one of: "),
        (&["--max-body-size=0"], "--max-body-size must be at least 1"),
        (&["--workers=0"], "--workers must be at least 1"),
        (&["--body-timeout=0s"], "--body-timeout must be greater than 0"),
        (&["--connect-timeout=0s"], "--connect-timeout must be greater than 0"),
        (&["--cert-path=/nowhere", "--secure-proxy=false", "--client-ca-path=x"], "--client-ca-path"),
    ] {
        let all = [&["--secure-proxy=false"], args].concat();
        let all = if args[0].starts_with("--secure") { args } else { &all };
        let output = run(all);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
        assert_eq!(said.matches('\n').count(), 1, "{args:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn flags_that_cannot_be_understood_end_with_code_2_and_name_the_flag() {
    for (args, names) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--prefill-timeout=5"], "--prefill-timeout"),
        (&["--request-timeout=soon"], "--request-timeout"),
        (&["--secure-proxy=maybe"], "--secure-proxy"),
        (&["--max-body-size=64MiB"], "--max-body-size"),
        (&["--log-level=loud"], "--log-level"),
    ] {
        let output = run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.lines().next().unwrap().contains(names), "{args:?}: {said}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (flag, says) in [("--help", "--shutdown-timeout"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = run(&[flag]);
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(says));
    }
}

#[test]
fn a_port_in_use_ends_with_code_1_and_one_line() {
    for host in ["127.0.0.1:0", "[::]:0"] {
        // A machine without IPv6 has only one of the two.
        let Ok(other) = TcpListener::bind(host) else { continue };
        let port = other.local_addr().unwrap().port();
        let output = run(&["--secure-proxy=false", &format!("--port={port}")]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("port {port}")), "{said}");
        assert_eq!(said.matches('\n').count(), 1, "{said}");
    }
}
