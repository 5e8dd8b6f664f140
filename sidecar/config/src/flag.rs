//! The rows of the tables of flags: what can be said about a setting before anyone gave it a value.

/// What a setting's value looks like, on the command line and in YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `--name` or `--name=false`; in YAML `true` or `false`.
    Bool,
    /// A whole number. In YAML 0 means "not set", as in the sidecar this one replaces.
    Integer,
    /// A whole number of which 0 means something, in YAML too.
    Amount,
    /// A number with a fraction.
    Fraction,
    /// A text. In YAML an empty one means "not set".
    Text,
    /// A duration as Go spells it, such as `1m30s`.
    Duration,
    /// Texts, separated by commas and the flag repeatable; in YAML a list.
    List,
}

/// One setting: a flag of this name and, with few exceptions, a key in YAML.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Without its dashes.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// How `--help` calls the value.
    pub value_name: &'static str,
    /// The value unless set, spelled as on the command line; empty: none.
    pub default: &'static str,
    /// The environment variable that replaces the default.
    pub env: Option<&'static str>,
    /// For `--help`.
    pub help: &'static str,
    /// For a name kept for old manifests: what to use today.
    pub instead: Option<&'static str>,
}

/// Flags that `--help` shows together.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What a person looks for.
    pub heading: &'static str,
    /// In the order shown.
    pub flags: &'static [Flag],
}

impl Flag {
    const fn new(
        name: &'static str,
        kind: Kind,
        value_name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, kind, value_name, default, env: None, help, instead: None }
    }

    pub(crate) const fn bool(name: &'static str, default: bool, help: &'static str) -> Self {
        Self::new(name, Kind::Bool, "BOOL", if default { "true" } else { "false" }, help)
    }

    pub(crate) const fn integer(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Integer, "N", default, help)
    }

    pub(crate) const fn port(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Integer, "PORT", default, help)
    }

    pub(crate) const fn amount(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Amount, "N", default, help)
    }

    pub(crate) const fn fraction(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Fraction, "RATIO", default, help)
    }

    pub(crate) const fn text(
        name: &'static str,
        value_name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Text, value_name, default, help)
    }

    pub(crate) const fn duration(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Duration, "DURATION", default, help)
    }

    pub(crate) const fn list(name: &'static str, value_name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::List, value_name, "", help)
    }

    pub(crate) const fn env(mut self, variable: &'static str) -> Self {
        self.env = Some(variable);
        self
    }

    pub(crate) const fn instead(mut self, what: &'static str) -> Self {
        self.instead = Some(what);
        self
    }
}
