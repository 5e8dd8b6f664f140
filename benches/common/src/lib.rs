//! What all benches share, so that a median, a goal and a figure's date mean the same in each of them.

pub mod axis;
pub mod num;
pub mod procfs;
mod ratio;
pub mod stamp;
pub mod svg;

pub use ratio::Ratio;

/// What went wrong, in words that say what to do; a bench has nobody who would match on variants.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Everything fallible in a bench.
pub type Result<T> = std::result::Result<T, Error>;
