//! The two ways in which reading a configuration ends without one.

use std::fmt;

/// Exit code for what cannot be used, as Go's flag parsers have it.
const UNUSABLE: u8 = 2;

/// Why a configuration cannot be used, in one line that says what to do. Scripts match some of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid(String);

impl Invalid {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// The process should print this and end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// What to print, with its line end: to standard output if [`code`](Self::code) is 0, else to standard error.
    pub text: String,
    /// 0 after `--help` and `--version`, 2 for a configuration that cannot be used.
    pub code: u8,
}

impl From<Invalid> for Exit {
    fn from(invalid: Invalid) -> Self {
        Self { text: format!("{}: {invalid}\n", crate::command_line::PROGRAM), code: UNUSABLE }
    }
}

impl From<clap::Error> for Exit {
    fn from(error: clap::Error) -> Self {
        let code = if error.use_stderr() { UNUSABLE } else { 0 };
        Self { text: error.render().to_string(), code }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

impl std::error::Error for Exit {}
