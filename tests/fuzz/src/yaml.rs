//! Target `yaml`: any text as the configuration that an operator wrote.
//!
//! What holds: nothing panics; a text in a file and the same text inline mean the same; what is accepted is a mapping of
//! known keys, and a flag outranks it; what is in force can be printed and read again; what is refused is told in one
//! line, with the exit code of a configuration that cannot be used.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::Path;

use kvferry_config::{Exit, GROUPS, Known, Options, Parsed, World, parse};
use serde_yaml_ng::Value;

/// A port that no seed has, so that it can only come from the flag.
const PORT: u16 = 40_123;

/// Any file: each holds the text under test.
const FILE: &str = "--configuration-file=any";

/// Exit code for a configuration that cannot be used.
const UNUSABLE: u8 = 2;

/// Checks one configuration.
pub fn yaml(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = options([FILE], text);
    // A process's arguments cannot hold a NUL.
    if !text.contains('\0') {
        let inline = options([format!("--configuration={text}").as_str()], "");
        assert_eq!(file, inline, "file and inline text differ");
    }
    match file {
        Ok(in_force) => {
            only_known_keys_were_read(text);
            a_flag_outranks_it(text);
            it_can_be_printed_and_read_again(&in_force);
        }
        Err(exit) => {
            assert_eq!(exit.code, UNUSABLE, "{exit}");
            let line = exit.text.strip_suffix('\n').expect("a message ends with its line");
            assert!(!line.trim().is_empty() && !line.contains('\n'), "not one line: {line:?}");
        }
    }
}

/// What is in force with these arguments, where every file holds `text`. Nothing else of the world has a say.
fn options<'a>(args: impl IntoIterator<Item = &'a str>, text: &str) -> Result<Options, Exit> {
    let known = Known {
        kv_connectors: &["nixlv2", "shared-storage", "sglang"],
        ec_connectors: &["ec-example"],
        tls_names: &|version, suites| {
            plain(version)?;
            suites.iter().try_for_each(|suite| plain(suite)).map(|()| Vec::new())
        },
        allow_target: &|target| plain(target),
        pool: &|namespace, name, group| [namespace, name, group].into_iter().try_for_each(plain),
    };
    let world = World {
        variable: &|_| None,
        read: &|_: &Path| -> io::Result<String> { Ok(text.to_owned()) },
        resolve: &|_, _| Ok(vec![IpAddr::from(Ipv4Addr::LOCALHOST)]),
        cores: NonZeroUsize::MIN,
    };
    let args: Vec<&str> = args.into_iter().collect();
    parse(args, &known, &world).map(|Parsed { options, .. }| options)
}

/// The names that others check are plain: letters, digits and a few signs.
fn plain(name: &str) -> Result<(), String> {
    if is_name(name) { Ok(()) } else { Err(format!("{name:?} is no name")) }
}

fn is_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

fn only_known_keys_were_read(text: &str) {
    let keys = match serde_yaml_ng::from_str(text) {
        Ok(Value::Mapping(keys)) => keys,
        Ok(Value::Null) => return,
        other => panic!("accepted, but no mapping: {other:?}"),
    };
    let is_flag = |name: &str| GROUPS.iter().flat_map(|group| group.flags).any(|flag| flag.name == name);
    for key in keys.keys() {
        assert!(key.as_str().is_some_and(is_flag), "accepted with the key {key:?}");
    }
}

fn a_flag_outranks_it(text: &str) {
    // Together with ports of the text it may be refused, as one that overlaps.
    if let Ok(in_force) = options([FILE, format!("--port={PORT}").as_str()], text) {
        assert_eq!(in_force.ports.port.get(), PORT);
    }
}

fn it_can_be_printed_and_read_again(in_force: &Options) {
    // Where nobody asks for the pool, its name is not looked at, and a slash in it cannot be told from the one before it.
    if in_force
        .destinations
        .inference_pool
        .as_ref()
        .is_some_and(|pool| !is_name(&pool.namespace) || !is_name(&pool.name))
    {
        return;
    }
    let mut printed = in_force.to_json();
    if let Some(keys) = printed.as_object_mut() {
        // What no flag sets.
        keys.remove("environment");
    }
    let again = options([FILE], &printed.to_string());
    let again = again.unwrap_or_else(|exit| panic!("{exit}; printed: {printed}"));
    assert_eq!(again.to_json(), in_force.to_json());
    assert_eq!(again, *in_force);
}
