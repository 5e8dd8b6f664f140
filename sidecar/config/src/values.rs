//! What was given, from wherever it came, under the name of its flag: the one place that knows which source wins.

use std::collections::BTreeMap;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::exit::Invalid;
use crate::flag::{Flag, Kind};
use crate::topics;
use crate::world::World;
use crate::{choice::Choice, go};

/// Where a value came from, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Environment,
    Yaml,
    CommandLine,
}

#[derive(Debug)]
struct Given {
    source: Source,
    /// One for all kinds but a list.
    texts: Vec<String>,
}

/// Everything that was given.
#[derive(Debug, Default)]
pub(crate) struct Values {
    by_name: BTreeMap<&'static str, Given>,
}

impl Values {
    /// Notes a value, unless a stronger source gave one already.
    pub(crate) fn give(&mut self, flag: &Flag, source: Source, texts: Vec<String>) {
        if self.by_name.get(flag.name).is_none_or(|given| given.source < source) {
            self.by_name.insert(flag.name, Given { source, texts });
        }
    }

    /// Notes what the environment says. A variable that cannot be read as its flag's kind is no reason not to start:
    /// pods share variables that were meant for others.
    pub(crate) fn add_environment(&mut self, world: &World<'_>, warnings: &mut Vec<String>) {
        for flag in topics::flags() {
            let Some(variable) = flag.env else { continue };
            let Some(text) = (world.variable)(variable).filter(|text| !text.is_empty()) else { continue };
            let usable = match flag.kind {
                Kind::Bool => go::bool(&text).is_some(),
                Kind::Integer | Kind::Amount => text.parse::<i64>().is_ok(),
                Kind::Fraction | Kind::Text | Kind::Duration | Kind::List => true,
            };
            if usable {
                self.give(flag, Source::Environment, vec![text]);
            } else {
                warnings.push(format!("{variable}={text:?} is ignored: --{} cannot take it", flag.name));
            }
        }
    }

    /// One line for each name in use that has a better one.
    pub(crate) fn deprecations(&self) -> Vec<String> {
        topics::flags()
            .filter_map(|flag| {
                let source = self.source(flag.name)?;
                let instead = flag.instead?;
                Some(match (source, flag.env) {
                    (Source::Environment, Some(variable)) => {
                        format!("{variable} is deprecated; use {instead}")
                    }
                    _ => format!("--{} is deprecated; use {instead}", flag.name),
                })
            })
            .collect()
    }

    /// Where the value in force came from; `None`: it is the default.
    pub(crate) fn source(&self, name: &str) -> Option<Source> {
        self.by_name.get(name).map(|given| given.source)
    }

    /// Of several names for one setting, the one whose value is in force: the strongest source's, then the first
    /// listed. An empty value is as good as none.
    pub(crate) fn strongest(&self, names: &[&'static str]) -> Option<&'static str> {
        let mut best: Option<(Source, &'static str)> = None;
        for name in names {
            let Some(given) = self.by_name.get(name) else { continue };
            let empty = given.texts.iter().all(String::is_empty);
            if !empty && best.is_none_or(|(source, _)| source < given.source) {
                best = Some((given.source, name));
            }
        }
        best.map(|(_, name)| name)
    }

    /// The text in force, perhaps empty.
    pub(crate) fn text(&self, name: &str) -> &str {
        let given = self.by_name.get(name).and_then(|given| given.texts.last());
        given.map_or_else(|| row(name).default, String::as_str)
    }

    /// The text in force, unless empty.
    pub(crate) fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// The path in force, unless empty.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.optional(name).map(PathBuf::from)
    }

    /// The items in force, without spaces around them and without empty ones.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let texts = self.by_name.get(name).map_or(&[][..], |given| &given.texts);
        texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty()).collect()
    }

    pub(crate) fn bool(&self, name: &str) -> Result<bool, Invalid> {
        let text = self.text(name);
        go::bool(text).ok_or_else(|| Invalid::new(format!("--{name} must be true or false, got {text:?}")))
    }

    pub(crate) fn choice<C: Choice>(&self, name: &str) -> Result<C, Invalid> {
        C::of_flag(name, self.text(name))
    }

    pub(crate) fn integer(&self, name: &str) -> Result<i64, Invalid> {
        let text = self.text(name);
        text.parse().map_err(|_| Invalid::new(format!("--{name} must be a valid integer, got {text:?}")))
    }

    /// A whole number no smaller than `least` that `N` can hold.
    fn at_least<N: TryFrom<i64>>(&self, name: &str, least: i64) -> Result<N, Invalid> {
        let number = self.integer(name)?;
        if number < least {
            return Err(Invalid::new(format!("--{name} must be at least {least}, got {number}")));
        }
        N::try_from(number).map_err(|_| Invalid::new(format!("--{name} is too large: {number}")))
    }

    /// A whole number from 0 on.
    pub(crate) fn count(&self, name: &str) -> Result<u32, Invalid> {
        self.at_least(name, 0)
    }

    /// A whole number from 1 on.
    pub(crate) fn positive(&self, name: &str) -> Result<NonZeroU32, Invalid> {
        let number: u32 = self.at_least(name, 1)?;
        Ok(NonZeroU32::new(number).expect("at least 1"))
    }

    /// A number of bytes or things from 1 on.
    pub(crate) fn size(&self, name: &str) -> Result<NonZeroUsize, Invalid> {
        let number: usize = self.at_least(name, 1)?;
        Ok(NonZeroUsize::new(number).expect("at least 1"))
    }

    pub(crate) fn port(&self, name: &str) -> Result<NonZeroU16, Invalid> {
        let number = self.integer(name)?;
        u16::try_from(number)
            .ok()
            .and_then(NonZeroU16::new)
            .ok_or_else(|| Invalid::new(format!("--{name} must be between 1 and 65535, got {number}")))
    }

    /// A port, or `None` for 0.
    pub(crate) fn optional_port(&self, name: &str) -> Result<Option<NonZeroU16>, Invalid> {
        if self.integer(name)? == 0 { Ok(None) } else { self.port(name).map(Some) }
    }

    /// A number with a fraction, from 0 to 1.
    pub(crate) fn ratio(&self, name: &str) -> Result<f64, Invalid> {
        let text = self.text(name);
        f64::from_str(text)
            .ok()
            .filter(|number| (0.0..=1.0).contains(number))
            .ok_or_else(|| Invalid::new(format!("--{name} must be a number from 0 to 1, got {text:?}")))
    }

    /// A duration in nanoseconds, perhaps negative.
    pub(crate) fn nanos(&self, name: &str) -> Result<i64, Invalid> {
        let text = self.text(name);
        go::nanos(text).ok_or_else(|| {
            Invalid::new(format!(
                "--{name} must be a number with a unit, such as 300ms, 30s or 1m30s, got {text:?}"
            ))
        })
    }

    /// A duration from 0 on.
    pub(crate) fn duration(&self, name: &str) -> Result<Duration, Invalid> {
        u64::try_from(self.nanos(name)?)
            .map(Duration::from_nanos)
            .map_err(|_| Invalid::new(format!("--{name} must not be negative, got {:?}", self.text(name))))
    }

    /// A duration above 0.
    pub(crate) fn positive_duration(&self, name: &str) -> Result<Duration, Invalid> {
        match self.duration(name)? {
            Duration::ZERO => Err(Invalid::new(format!("--{name} must be greater than 0"))),
            duration => Ok(duration),
        }
    }

    /// A duration of which 0 means "no limit".
    pub(crate) fn limit(&self, name: &str) -> Result<Option<Duration>, Invalid> {
        Ok(Some(self.duration(name)?).filter(|limit| !limit.is_zero()))
    }
}

fn row(name: &str) -> &'static Flag {
    topics::flag(name).expect("only names with a row are read")
}
