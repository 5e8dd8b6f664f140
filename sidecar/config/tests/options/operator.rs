//! An operator who set things, in a world without a process.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;

use kvferry_config::{Exit, Known, Options, Parsed, World, parse};
use serde_json::Value;

/// The connectors of the contract.
pub const KV_CONNECTORS: [&str; 5] = ["nixlv2", "shared-storage", "sglang", "mooncake", "offloading"];
pub const EC_CONNECTORS: [&str; 2] = ["ec-example", "ec-nixl"];

/// What an operator set, and the name server there is.
#[derive(Debug, Clone, Default)]
pub struct Operator {
    args: Vec<String>,
    environment: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
    hosts: BTreeMap<String, Vec<IpAddr>>,
}

/// An operator who gave flags.
pub fn flags(args: &[&str]) -> Operator {
    Operator { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..Operator::default() }
}

/// An operator who gave a configuration.
pub fn yaml(text: &str) -> Operator {
    flags(&["--configuration", text])
}

impl Operator {
    pub fn flags(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    pub fn host(mut self, name: &str, addresses: &[&str]) -> Self {
        self.hosts.insert(name.to_owned(), addresses.iter().map(|text| text.parse().unwrap()).collect());
        self
    }

    pub fn parse(&self) -> Result<Parsed, Exit> {
        let known = Known {
            kv_connectors: &KV_CONNECTORS,
            ec_connectors: &EC_CONNECTORS,
            tls_names: &tls_names,
            allow_target: &|text| {
                if text.contains(['/', ':']) { Ok(()) } else { Err("it has no port".to_owned()) }
            },
            pool: &|_, _, group| {
                if group.ends_with("k8s.io") {
                    Ok(())
                } else {
                    Err(format!("unknown --pool-group {group:?}"))
                }
            },
        };
        let world = World {
            variable: &|name| self.environment.get(name).cloned(),
            read: &|path| {
                let text = self.files.get(path.to_str().unwrap()).cloned();
                text.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))
            },
            resolve: &|name, _| {
                let addresses = self.hosts.get(name).cloned();
                addresses.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such name"))
            },
            cores: NonZeroUsize::new(16).unwrap(),
        };
        parse(&self.args, &known, &world)
    }

    #[track_caller]
    pub fn options(&self) -> Options {
        self.parse().unwrap_or_else(|exit| panic!("{self:?} is refused: {exit}")).options
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        self.options().to_json()
    }

    #[track_caller]
    pub fn warnings(&self) -> Vec<String> {
        self.parse().unwrap_or_else(|exit| panic!("{self:?} is refused: {exit}")).warnings
    }

    /// The one warning that holds the text; more or fewer are a failure.
    #[track_caller]
    pub fn warning(&self, text: &str) -> String {
        let all = self.warnings();
        let mut those: Vec<_> = all.iter().filter(|warning| warning.contains(text)).cloned().collect();
        assert_eq!(those.len(), 1, "{self:?}: warnings with {text:?} among {all:#?}");
        those.remove(0)
    }

    /// The line that refuses this, without the program's name.
    #[track_caller]
    pub fn refusal(&self) -> String {
        let Err(exit) = self.parse() else { panic!("{self:?} is accepted") };
        assert_eq!(exit.code, 2, "{exit}");
        let line = exit.text.strip_prefix("kvferry-sidecar: ").unwrap().trim_end_matches('\n');
        assert!(!line.contains('\n'), "more than one line: {line:?}");
        line.to_owned()
    }
}

/// Knows two versions, and suites by what their names say.
fn tls_names(version: &str, suites: &[String]) -> Result<Vec<String>, String> {
    if !["", "VersionTLS12", "VersionTLS13"].contains(&version) {
        return Err(format!("{version:?} is no version"));
    }
    if let Some(unknown) = suites.iter().find(|suite| !suite.starts_with("TLS_")) {
        return Err(format!("{unknown:?} is no suite"));
    }
    Ok(suites.iter().filter(|suite| suite.contains("_CBC_")).cloned().collect())
}
