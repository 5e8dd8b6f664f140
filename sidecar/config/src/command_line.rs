//! The command line, read as Go's pflag reads it: manifests of the sidecar this one replaces must mean the same here.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command};

use crate::Known;
use crate::exit::Exit;
use crate::flag::{Flag, Kind};
use crate::topics::{self, GROUPS, handoff};
use crate::values::{Source, Values};

/// As it stands in usage lines and errors.
pub(crate) const PROGRAM: &str = "kvferry-sidecar";

/// Help is wrapped to this width at most, in columns, and to the terminal's if that is narrower.
const WIDTH: usize = 100;

/// Reads the command line, without the program's name.
pub(crate) fn parse(
    args: impl Iterator<Item = OsString>,
    known: &Known<'_>,
    warnings: &mut Vec<String>,
) -> Result<Values, Exit> {
    let (args, strays) = sort(args);
    let matches = command(known).try_get_matches_from(args)?;
    let mut values = Values::default();
    for flag in topics::flags() {
        let Some(mut texts) = matches.get_many::<String>(flag.name) else { continue };
        let texts: Vec<String> = match flag.kind {
            Kind::List => texts.cloned().collect(),
            _ => texts.next_back().cloned().into_iter().collect(),
        };
        values.give(flag, Source::CommandLine, texts);
    }
    for stray in strays {
        warnings.push(format!(
            "argument \"{}\" is not used; a boolean's value follows an equals sign, as in --tracing=false",
            stray.display()
        ));
    }
    Ok(values)
}

/// Parts flags and their values from what stands between them, which pflag leaves to a program that never looked at
/// it. One dash becomes two: the oldest manifests were written for a parser to which both were as good.
fn sort(mut args: impl Iterator<Item = OsString>) -> (Vec<OsString>, Vec<OsString>) {
    let (mut flags, mut strays) = (Vec::new(), Vec::new());
    while let Some(arg) = args.next() {
        if arg == "--" {
            strays.extend(args);
            break;
        }
        let Some(body) = arg.as_encoded_bytes().strip_prefix(b"-").filter(|body| !body.is_empty()) else {
            strays.push(arg);
            continue;
        };
        let body = str::from_utf8(body.strip_prefix(b"-").unwrap_or(body)).unwrap_or_default();
        let (name, value) = body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
        let Some(flag) = topics::flag(name) else {
            // The parser has words for it.
            flags.push(arg);
            continue;
        };
        flags.push(format!("--{body}").into());
        if value.is_none() && flag.kind != Kind::Bool {
            // A value that looks like a flag is still a value.
            flags.extend(args.next());
        }
    }
    (flags, strays)
}

fn command(known: &Known<'_>) -> Command {
    let mut command = Command::new(PROGRAM)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Sidecar for prefill/decode disaggregated LLM serving")
        .after_help(
            "A flag outranks the configuration (--configuration, --configuration-file), which outranks the \
             environment. Of a flag given twice the last one counts; lists add up.",
        )
        .max_term_width(WIDTH)
        .no_binary_name(true)
        .override_usage(format!("{PROGRAM} [OPTIONS]"));
    for group in GROUPS {
        for flag in group.flags {
            command = command.arg(arg(flag, known).help_heading(group.heading));
        }
    }
    command
}

fn arg(flag: &Flag, known: &Known<'_>) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .value_name(flag.value_name)
        .action(ArgAction::Append)
        .help(help(flag, known));
    match flag.kind {
        Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg.num_args(1).allow_hyphen_values(true),
    }
}

fn help(flag: &Flag, known: &Known<'_>) -> String {
    let mut help = flag.help.to_owned();
    match flag.name {
        handoff::KV_CONNECTOR => help = format!("{help}; one of: {}", known.kv_connectors.join(", ")),
        handoff::EC_CONNECTOR => help = format!("{help}; one of: {}", known.ec_connectors.join(", ")),
        _ => {}
    }
    if let Some(instead) = flag.instead {
        help = format!("{help}. Deprecated: use {instead}");
    }
    let off = flag.kind == Kind::Bool && flag.default == "false";
    if !flag.default.is_empty() && !off {
        help = format!("{help} [default: {}]", flag.default);
    }
    if let Some(variable) = flag.env {
        help = format!("{help} [env: {variable}]");
    }
    help
}
