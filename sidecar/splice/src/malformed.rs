//! What can be wrong with a body, and how it is told to whoever sent it.

use std::fmt;

#[cfg(doc)]
use crate::scan::MAX_WATCHED_MEMBERS;

/// Why a body is no JSON object, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// Offset of the first byte that cannot be, from the body's start.
    pub offset: usize,
    /// What is wrong there.
    pub kind: MalformedKind,
}

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedKind {
    /// Valid so far, but the top-level value is not an object.
    NotAnObject,
    /// The body ended inside the value, or is empty.
    UnexpectedEnd,
    /// A byte that JSON does not allow at that place.
    UnexpectedByte(u8),
    /// Something other than white space after the object.
    TrailingBytes,
    /// A string holds a raw control character.
    ControlCharacter,
    /// A backslash sequence that JSON does not know.
    BadEscape,
    /// Not UTF-8.
    InvalidUtf8,
    /// More than [`MAX_WATCHED_MEMBERS`] members with watched names.
    TooManyDuplicates,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            MalformedKind::NotAnObject => f.write_str("the body must be a JSON object"),
            MalformedKind::UnexpectedEnd => write!(f, "unexpected end of JSON at byte {}", self.offset),
            MalformedKind::UnexpectedByte(byte) => {
                write!(f, "unexpected {:?} at byte {}", char::from(byte), self.offset)
            }
            MalformedKind::TrailingBytes => {
                write!(f, "unexpected data after the JSON object at byte {}", self.offset)
            }
            MalformedKind::ControlCharacter => {
                write!(f, "unescaped control character in a string at byte {}", self.offset)
            }
            MalformedKind::BadEscape => {
                write!(f, "unknown escape sequence in a string at byte {}", self.offset)
            }
            MalformedKind::InvalidUtf8 => write!(f, "the body is not valid UTF-8 at byte {}", self.offset),
            MalformedKind::TooManyDuplicates => {
                write!(f, "too many duplicate keys in the JSON object at byte {}", self.offset)
            }
        }
    }
}

impl std::error::Error for Malformed {}
