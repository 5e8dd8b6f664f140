//! The configuration in YAML or JSON, inline or in a file. It is read strictly: a key with a typing error must not be
//! taken for one that was left out.

use serde_yaml_ng::{Mapping, Value};

use crate::exit::Invalid;
use crate::flag::{Flag, Group, Kind};
use crate::topics;
use crate::values::{Source, Values};
use crate::world::World;

const INLINE: &str = "configuration";
const FILE: &str = "configuration-file";
pub(crate) const PRINT_CONFIG: &str = "print-config";

/// Under this key a configuration that was printed shows what only variables set. It may be given back whole.
const ENVIRONMENT: &str = "environment";

pub(crate) const CONFIGURATION: Group = Group {
    heading: "Configuration file",
    flags: &[
        Flag::text(FILE, "PATH", "", "YAML file whose keys are the names of these flags, without dashes"),
        Flag::text(INLINE, "YAML", "", "The same as a text, YAML or JSON; not together with the file"),
        Flag::bool(PRINT_CONFIG, false, "Print the configuration in force as JSON, and stop"),
    ],
};

/// Adds what the configuration says, if there is one.
pub(crate) fn add(values: &mut Values, world: &World<'_>, warnings: &mut Vec<String>) -> Result<(), Invalid> {
    let text = match (values.optional(INLINE), values.path(FILE)) {
        (Some(_), Some(_)) => {
            return Err(Invalid::new(format!("flags --{INLINE} and --{FILE} are mutually exclusive")));
        }
        (Some(text), None) => text,
        (None, Some(path)) => (world.read)(&path).map_err(|error| {
            Invalid::new(format!(
                "failed to read sidecar configuration from file {}: {error}",
                path.display()
            ))
        })?,
        (None, None) => return Ok(()),
    };
    for (flag, texts) in read(&text, warnings)? {
        values.give(flag, Source::Yaml, texts);
    }
    Ok(())
}

/// The settings in a text, as they would stand on the command line. What counts as "not set" is left out.
fn read(text: &str, warnings: &mut Vec<String>) -> Result<Vec<(&'static Flag, Vec<String>)>, Invalid> {
    let unusable = |why: &dyn std::fmt::Display| {
        // Some of the parser's messages quote the text, and a message is one line.
        let why = why.to_string().replace('\n', " ");
        Invalid::new(format!("failed to unmarshal sidecar configuration: {why}"))
    };
    // Duplicate keys are refused by the parser.
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| unusable(&error))?;
    let keys = match value {
        Value::Null => Mapping::new(),
        Value::Mapping(keys) => keys,
        _ => return Err(unusable(&"it is no mapping of keys to values")),
    };
    let mut given = Vec::new();
    for (key, value) in &keys {
        let name = key.as_str().ok_or_else(|| unusable(&format!("key {key:?} is no text")))?;
        if name == ENVIRONMENT {
            warnings
                .push(format!("key {ENVIRONMENT:?} of the configuration has no effect: set the variables"));
            continue;
        }
        let flag = topics::flag(name)
            .filter(|flag| CONFIGURATION.flags.iter().all(|not| not.name != flag.name))
            .ok_or_else(|| unusable(&format!("unknown key {name:?}")))?;
        let texts = texts(flag.kind, value)
            .map_err(|expected| unusable(&format!("key {name:?} must be {expected}")))?;
        if let Some(texts) = texts {
            given.push((flag, texts));
        }
    }
    Ok(given)
}

/// A value as it would stand on the command line, `None` if it counts as not set, or what it should have been.
fn texts(kind: Kind, value: &Value) -> Result<Option<Vec<String>>, &'static str> {
    if value.is_null() {
        return Ok(None);
    }
    let texts = match kind {
        Kind::Bool => vec![boolean(value).ok_or("true or false")?.to_string()],
        Kind::Integer | Kind::Amount => match value.as_i64().ok_or("a whole number")? {
            0 if kind == Kind::Integer => return Ok(None),
            number => vec![number.to_string()],
        },
        Kind::Fraction => vec![value.as_f64().ok_or("a number")?.to_string()],
        Kind::Text | Kind::Duration => vec![scalar(value).ok_or("a text")?],
        Kind::List => {
            let items = value.as_sequence().ok_or("a list")?;
            items.iter().map(scalar).collect::<Option<_>>().ok_or("a list of texts")?
        }
    };
    Ok(Some(texts).filter(|texts| texts.iter().any(|text| !text.is_empty())))
}

/// YAML 1.1 had more words for booleans, and files were written for a parser that knows them.
fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "y" | "yes" | "on" => Some(true),
            "n" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// A text may look like a number or a boolean and is still a text, where one is asked for.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}
