//! What an operator may set: flags, environment and YAML, merged and checked.
//!
//! It stands apart from the process so that every rule of it can be tested without one: what the process knows
//! (environment, files, DNS, cores) comes in as a [`World`], and plain data or one line of reproach comes out.
//!
//! A setting is one row in a topic's table of flags and one field in that topic's struct (see `topics/`). From the
//! row follow the flag, the key in YAML, the environment variable, the default and the line in `--help`.

mod choice;
mod command_line;
mod exit;
mod flag;
mod go;
mod options;
mod topics;
mod values;
mod world;
mod yaml;

use std::ffi::OsString;

pub use exit::Exit;
pub use flag::{Flag, Group, Kind};
pub use options::Options;
pub use topics::GROUPS;
pub use topics::destinations::{Destinations, Pool};
pub use topics::engines::Engines;
pub use topics::environment::{Environment, ProxyUrl};
pub use topics::failover::{Failover, PrefillFailurePolicy};
pub use topics::handoff::{Handoff, NIXLV2, PrefillLimits};
pub use topics::legs::{Legs, Stage};
pub use topics::limits::Limits;
pub use topics::listener::Listener;
pub use topics::moriio::{Host, Moriio};
pub use topics::nixl::Nixl;
pub use topics::observability::{LogLevel, Observability};
pub use topics::ports::Ports;
pub use topics::process::Process;
pub use topics::shortcuts::Shortcuts;
pub use world::{MAX_CONFIGURATION_BYTES, World};

/// What other parts know and a configuration is checked against: those who act on a text also say which texts they
/// take, so that there is one grammar of each, and a new connector or cipher suite changes nothing here. What is wrong
/// comes back as one line.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct Known<'a> {
    /// Names for `--kv-connector`, in the order in which messages list them.
    pub kv_connectors: &'a [&'a str],
    /// Names for `--ec-connector`, in the order in which messages list them.
    pub ec_connectors: &'a [&'a str],
    /// Checks a TLS version and names of cipher suites; of each, an empty one stands for the default. Gives the suites
    /// that are understood but not offered.
    pub tls_names: &'a CheckTlsNames<'a>,
    /// Checks an item of `--allow-target`.
    pub allow_target: &'a CheckTarget<'a>,
    /// Checks an InferencePool's namespace, name and API group.
    pub pool: &'a CheckPool<'a>,
}

/// See [`Known::tls_names`].
pub type CheckTlsNames<'a> = dyn Fn(&str, &[String]) -> Result<Vec<String>, String> + 'a;

/// See [`Known::allow_target`].
pub type CheckTarget<'a> = dyn Fn(&str) -> Result<(), String> + 'a;

/// See [`Known::pool`].
pub type CheckPool<'a> = dyn Fn(&str, &str, &str) -> Result<(), String> + 'a;

/// A configuration that was checked as a whole.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// What is in force.
    pub options: Options,
    /// Things to say once at start, each one line.
    pub warnings: Vec<String>,
    /// The operator wants to see the configuration, not a running sidecar.
    pub print_config: bool,
}

/// Reads and checks everything an operator set. `args` comes without the program's name.
///
/// A flag outranks the YAML configuration, which outranks the environment, which outranks the default.
///
/// # Errors
/// What to print, and the exit code to end with: for `--help` and `--version`, and for the first thing that is wrong.
pub fn parse<I, A>(args: I, known: &Known<'_>, world: &World<'_>) -> Result<Parsed, Exit>
where
    I: IntoIterator<Item = A>,
    A: Into<OsString>,
{
    let mut warnings = Vec::new();
    let mut values = command_line::parse(args.into_iter().map(Into::into), known, &mut warnings)?;
    yaml::add(&mut values, world, &mut warnings)?;
    values.add_environment(world, &mut warnings);
    warnings.extend(values.deprecations());
    let options = Options::read(&values, known, world, &mut warnings)?;
    let print_config = values.bool(yaml::PRINT_CONFIG)?;
    Ok(Parsed { options, warnings, print_config })
}
