//! Why a library was not loaded, in words that say what to do.

use std::error::Error;
use std::fmt;

use crate::Candidate;

/// Why one candidate was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The loader could not open it: no such file, not a library, or one of its own libraries is missing.
    /// Its own words.
    Unloadable(String),
    /// It opened, but a function that every supported version has is missing: another library, or a broken build.
    /// The loader's words, which name the function.
    MissingSymbol(String),
    /// A version that is not supported.
    Version {
        /// What the library says it is.
        found: String,
        /// What is supported.
        wanted: &'static str,
    },
    /// A stand-in that carries the functions' names and aborts when they are called.
    Stub,
}

impl Refusal {
    /// For what the loader said when it could not open a library.
    pub fn unloadable(error: &libloading::Error) -> Self {
        Self::Unloadable(loaders_words(error))
    }

    /// For what the loader said when it could not find a function.
    pub fn missing(error: &libloading::Error) -> Self {
        Self::MissingSymbol(loaders_words(error))
    }
}

/// The error itself only says which call failed; what the loader said, with the file and the function, lies below.
fn loaders_words(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unloadable(why) => write!(f, "cannot be loaded: {why}"),
            Self::MissingSymbol(which) => write!(f, "is not the library or is broken: {which}"),
            Self::Version { found, wanted } => write!(f, "is version {found}; supported is {wanted}"),
            Self::Stub => write!(f, "is a stub without the library behind it"),
        }
    }
}

/// No candidate could be used. Shown as a list of all that was tried and how to get the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFound {
    /// The library's name for people.
    pub library: &'static str,
    /// Every candidate in the order tried, and why it was refused.
    pub tried: Vec<(Candidate, Refusal)>,
    /// What to do about it: a sentence.
    pub remedy: &'static str,
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no usable {} on this machine", self.library)?;
        for (candidate, refusal) in &self.tried {
            write!(f, "; {candidate} {refusal}")?;
        }
        write!(f, "; {}", self.remedy)
    }
}

impl Error for NotFound {}
