//! Finds and opens a shared library at run time, so that one binary runs on machines with any version of it or none.
//!
//! A library that is absent, broken or too old is a [`NotFound`] that lists every place tried and why each was refused:
//! it never ends the process. The file that was really loaded is always known ([`Bound::file`]), since a machine may
//! hold several copies.
//!
//! [`Padded`] is for what is handed to such a library: parameters that a newer version may read further than today's
//! headers say.

mod candidate;
mod open;
mod padded;
mod places;
mod refusal;

pub use candidate::Candidate;
pub use open::{Binding, Bound, Handles, open_any};
pub use padded::{Padded, TAIL, Zeroable};
pub use places::{files_under, python_folders};
pub use refusal::{NotFound, Refusal};
