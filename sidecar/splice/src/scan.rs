//! One pass over a JSON object that checks it whole and remembers where the watched top-level members lie.
//!
//! It takes the body piece by piece as it arrives from the socket, so the check overlaps the transfer and no contiguous
//! copy is needed. It is a state machine with an explicit stack of one bit a level, so nesting costs memory, never
//! program stack. Memory is bounded by [`MAX_WATCHED_MEMBERS`] and one bit per open bracket.

use std::ops::Range;

use crate::bits::BitStack;
use crate::chunks::Chunks;
use crate::malformed::{Malformed, MalformedKind};
use crate::strings::{plain_run, which};

/// How many watched members one object may have. A real request has each at most once; the limit only bounds what a
/// body full of the same key can make us remember.
pub const MAX_WATCHED_MEMBERS: usize = 256;

/// A key is kept while it may still equal a watched name: names are shorter than 32 bytes, and one byte may be
/// spelled in six (`\u0061`).
const MAX_KEY_BYTES: usize = 32 * 6;

/// Room for a key as keys are mostly spelled, in bytes.
const KEY_BYTES: usize = 32;

/// Room for so many watched members at the most, before there are any: few objects have more.
const MEMBERS: usize = 12;

/// Where one watched top-level member lies. All offsets count from the body's start.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Index into the watch list.
    pub(crate) watched: usize,
    /// How many members stand before it.
    pub(crate) ordinal: usize,
    /// End of the value before it, or just behind the opening brace.
    pub(crate) previous_end: usize,
    /// Opening quote of its key.
    pub(crate) key_start: usize,
    /// Its value, without surrounding white space.
    pub(crate) value: Range<usize>,
    /// Opening quote of the next member's key, if there is a next member.
    pub(crate) next_key: Option<usize>,
}

/// A scanned object: which of the watched members it has, and where.
#[derive(Debug, Clone)]
pub struct Document<'w> {
    pub(crate) watch: &'w [&'w str],
    pub(crate) members: Vec<Member>,
    /// Members of the object, watched or not.
    pub(crate) member_count: usize,
    /// Offset just behind the opening brace.
    pub(crate) inside: usize,
    pub(crate) len: usize,
}

impl Document<'_> {
    /// Where the value of member `name` lies; of several the last, which is the one that engines obey.
    ///
    /// `None` if the object has no such member or the name was not watched.
    pub fn value(&self, name: &str) -> Option<Range<usize>> {
        self.members
            .iter()
            .rev()
            .find(|member| self.watch[member.watched] == name)
            .map(|member| member.value.clone())
    }

    /// The watched members that are there, each as its place in the watch list and its value, in the order in which they
    /// stand.
    pub fn found(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.members.iter().map(|member| (member.watched, member.value.clone()))
    }
}

/// Scans a whole body at once.
///
/// # Errors
/// [`Malformed`] if it is not exactly one JSON object in UTF-8.
pub fn scan<'w>(body: &[u8], watch: &'w [&'w str]) -> Result<Document<'w>, Malformed> {
    let mut scanner = Scanner::new(watch);
    scanner.feed(body)?;
    scanner.finish()
}

/// Scans a whole body that lies in pieces.
///
/// # Errors
/// [`Malformed`] if it is not exactly one JSON object in UTF-8.
pub fn scan_chunks<'w>(body: &Chunks, watch: &'w [&'w str]) -> Result<Document<'w>, Malformed> {
    let mut scanner = Scanner::new(watch);
    body.pieces().iter().try_for_each(|piece| scanner.feed(piece))?;
    scanner.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the top-level value.
    Start,
    /// A value must follow (behind a colon, or behind a comma in an array).
    Value,
    /// Behind `[`: a value or the closing bracket.
    ValueOrEnd,
    /// Behind `{`: a key or the closing brace.
    KeyOrEnd,
    /// Behind a comma in an object: a key.
    Key,
    /// Behind a key: the colon.
    Colon,
    /// Behind a value inside an object or array: a comma or the closing bracket.
    AfterValue,
    /// Behind the top-level object: white space only.
    End,
    /// Inside a string.
    String {
        is_key: bool,
    },
    /// Behind a backslash in a string.
    Escape {
        is_key: bool,
    },
    /// Inside `\uXXXX`, so many digits still to come.
    Hex {
        is_key: bool,
        left: u8,
    },
    /// Inside `true`, `false` or `null`: what must still come.
    Literal(&'static [u8]),
    Number(Number),
}

/// Where in a number the last byte was (RFC 8259, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Number {
    /// The place after one more byte, or `None` if the byte does not belong to the number.
    fn next(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Minus, b'0') => Some(Self::Zero),
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Some(Self::Integer),
            (Self::Zero | Self::Integer, b'.') => Some(Self::Point),
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Some(Self::E),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::E, b'+' | b'-') => Some(Self::Sign),
            (Self::E | Self::Sign | Self::Exponent, b'0'..=b'9') => Some(Self::Exponent),
            _ => None,
        }
    }

    /// Whether the number may end here.
    fn is_complete(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::Exponent)
    }
}

/// The resumable scan. Feed it the body's pieces in order, then finish.
#[derive(Debug)]
pub struct Scanner<'w> {
    document: Document<'w>,
    state: State,
    /// One bit for each open bracket below the top-level object: 1 for an object, 0 for an array.
    nesting: BitStack,
    /// Whether the top-level object is open.
    open: bool,
    /// Bytes consumed in earlier pieces.
    base: usize,
    /// Raw bytes of the current top-level key, while it can still match.
    key: Vec<u8>,
    key_start: usize,
    value_start: usize,
    /// Index of the member whose value is being scanned, if it is watched.
    current: Option<usize>,
    /// End of the last finished top-level value, or just behind the opening brace.
    last_end: usize,
    /// Bytes of a UTF-8 sequence that the last piece broke off.
    utf8_tail: Vec<u8>,
}

impl<'w> Scanner<'w> {
    /// A scan that remembers the top-level members named in `watch`, each shorter than 32 bytes.
    pub fn new(watch: &'w [&'w str]) -> Self {
        let members = Vec::with_capacity(watch.len().min(MEMBERS));
        Self {
            document: Document { watch, members, member_count: 0, inside: 0, len: 0 },
            state: State::Start,
            nesting: BitStack::default(),
            open: false,
            base: 0,
            key: Vec::with_capacity(KEY_BYTES),
            key_start: 0,
            value_start: 0,
            current: None,
            last_end: 0,
            utf8_tail: Vec::new(),
        }
    }

    /// Takes the next piece of the body.
    ///
    /// # Errors
    /// [`Malformed`] at the first byte that cannot be; the scan is over then.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        self.scan_piece(piece)?;
        self.check_utf8(piece)?;
        self.base += piece.len();
        Ok(())
    }

    /// The body is complete.
    ///
    /// # Errors
    /// [`Malformed`] if it ended early.
    pub fn finish(mut self) -> Result<Document<'w>, Malformed> {
        self.document.len = self.base;
        if self.state == State::End {
            Ok(self.document)
        } else {
            Err(Malformed { offset: self.base, kind: MalformedKind::UnexpectedEnd })
        }
    }

    fn scan_piece(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            match self.state {
                State::String { is_key } => at = self.string_run(piece, at, is_key)?,
                State::Number(place) => match place.next(byte) {
                    Some(next) => {
                        self.state = State::Number(next);
                        at += 1;
                    }
                    // The byte behind the number is looked at again as what follows a value.
                    None if place.is_complete() => self.end_value(at),
                    None => return Err(self.unexpected(at, byte)),
                },
                State::Escape { is_key } => {
                    self.keep_key(is_key, &[byte]);
                    self.state = match byte {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => State::String { is_key },
                        b'u' => State::Hex { is_key, left: 4 },
                        _ => return Err(self.malformed(at, MalformedKind::BadEscape)),
                    };
                    at += 1;
                }
                State::Hex { is_key, left } => {
                    if !byte.is_ascii_hexdigit() {
                        return Err(self.malformed(at, MalformedKind::BadEscape));
                    }
                    self.keep_key(is_key, &[byte]);
                    self.state = if left == 1 {
                        State::String { is_key }
                    } else {
                        State::Hex { is_key, left: left - 1 }
                    };
                    at += 1;
                }
                State::Literal(rest) => {
                    if rest.first() != Some(&byte) {
                        return Err(self.unexpected(at, byte));
                    }
                    at += 1;
                    match &rest[1..] {
                        [] => self.end_value(at),
                        rest => self.state = State::Literal(rest),
                    }
                }
                _ => {
                    if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                        self.structural(at, byte)?;
                    }
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// Consumes string bytes: to the closing quote, or to the piece's end. Returns where to go on.
    ///
    /// Escapes that lie whole in the piece are skipped here, since going round by way of the states costs several times
    /// the bytes themselves, and code and escaped non-ASCII text are full of them.
    fn string_run(&mut self, piece: &[u8], start: usize, is_key: bool) -> Result<usize, Malformed> {
        let mut at = start;
        let end = loop {
            let rest = &piece[at..];
            let run =
                plain_run(rest).map_err(|bad| self.malformed(at + bad, MalformedKind::ControlCharacter))?;
            match &rest[run..] {
                [] => {
                    self.keep_key(is_key, &piece[start..]);
                    return Ok(piece.len());
                }
                [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => at += run + 2,
                [b'\\', b'u', hex @ ..] if hex.len() >= 4 && hex[..4].iter().all(u8::is_ascii_hexdigit) => {
                    at += run + 6;
                }
                // Broken off by the piece's end, or wrong: byte by byte.
                [b'\\', ..] => {
                    self.state = State::Escape { is_key };
                    break at + run + 1;
                }
                _ => {
                    self.keep_key(is_key, &piece[start..at + run]);
                    let end = at + run + 1;
                    if is_key {
                        self.state = State::Colon;
                    } else {
                        self.end_value(end);
                    }
                    return Ok(end);
                }
            }
        };
        self.keep_key(is_key, &piece[start..end]);
        Ok(end)
    }

    /// A byte between values: brackets, commas, colons and first bytes of values.
    fn structural(&mut self, at: usize, byte: u8) -> Result<(), Malformed> {
        match (self.state, byte) {
            (State::Start, b'{') => {
                self.open = true;
                self.document.inside = self.base + at + 1;
                self.last_end = self.document.inside;
                self.state = State::KeyOrEnd;
            }
            (State::Start, b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                return Err(self.malformed(at, MalformedKind::NotAnObject));
            }
            (State::KeyOrEnd | State::Key, b'"') => self.start_key(at),
            (State::KeyOrEnd, b'}') | (State::ValueOrEnd, b']') => self.close(at),
            (State::AfterValue, b'}') if self.in_object() => self.close(at),
            (State::AfterValue, b']') if !self.in_object() => self.close(at),
            (State::AfterValue, b',') => {
                self.state = if self.in_object() { State::Key } else { State::Value }
            }
            (State::Colon, b':') => {
                self.state = State::Value;
                if self.nesting.is_empty() {
                    self.match_key(at)?;
                }
            }
            (State::Value | State::ValueOrEnd, _) => self.start_value(at, byte)?,
            (State::End, _) => return Err(self.malformed(at, MalformedKind::TrailingBytes)),
            _ => return Err(self.unexpected(at, byte)),
        }
        Ok(())
    }

    fn start_value(&mut self, at: usize, byte: u8) -> Result<(), Malformed> {
        if self.nesting.is_empty() {
            self.value_start = self.base + at;
        }
        self.state = match byte {
            b'"' => State::String { is_key: false },
            b'{' => {
                self.nesting.push(true);
                State::KeyOrEnd
            }
            b'[' => {
                self.nesting.push(false);
                State::ValueOrEnd
            }
            b't' => State::Literal(b"rue"),
            b'f' => State::Literal(b"alse"),
            b'n' => State::Literal(b"ull"),
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            _ => return Err(self.unexpected(at, byte)),
        };
        Ok(())
    }

    fn start_key(&mut self, at: usize) {
        self.state = State::String { is_key: true };
        if self.nesting.is_empty() {
            self.key.clear();
            self.key_start = self.base + at;
            // The member before this one now knows its neighbour.
            if let Some(before) = self.document.members.last_mut()
                && before.ordinal + 1 == self.document.member_count
            {
                before.next_key = Some(self.key_start);
            }
        }
    }

    fn keep_key(&mut self, is_key: bool, bytes: &[u8]) {
        if is_key && self.nesting.is_empty() {
            // One byte over the limit is enough to know that it matches nothing.
            let room = (MAX_KEY_BYTES + 1).saturating_sub(self.key.len());
            self.key.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// A top-level key is complete: is it watched?
    fn match_key(&mut self, at: usize) -> Result<(), Malformed> {
        let ordinal = self.document.member_count;
        self.document.member_count += 1;
        self.current = None;
        if self.key.len() > MAX_KEY_BYTES {
            return Ok(());
        }
        let Some(watched) = which(&self.key, self.document.watch) else {
            return Ok(());
        };
        if self.document.members.len() == MAX_WATCHED_MEMBERS {
            return Err(self.malformed(at, MalformedKind::TooManyDuplicates));
        }
        self.current = Some(self.document.members.len());
        self.document.members.push(Member {
            watched,
            ordinal,
            previous_end: self.last_end,
            key_start: self.key_start,
            value: 0..0,
            next_key: None,
        });
        Ok(())
    }

    /// A closing bracket at `at`.
    fn close(&mut self, at: usize) {
        if self.nesting.pop() {
            self.end_value(at + 1);
        } else {
            self.open = false;
            self.state = State::End;
        }
    }

    /// A value ended just before `end`.
    fn end_value(&mut self, end: usize) {
        self.state = State::AfterValue;
        if self.nesting.is_empty() {
            self.last_end = self.base + end;
            if let Some(current) = self.current.take() {
                self.document.members[current].value = self.value_start..self.last_end;
            }
        }
    }

    /// Whether the innermost open bracket is an object's. The top-level object counts.
    fn in_object(&self) -> bool {
        self.nesting.top().unwrap_or(self.open)
    }

    fn check_utf8(&mut self, piece: &[u8]) -> Result<(), Malformed> {
        let mut rest = piece;
        if !self.utf8_tail.is_empty() {
            // A sequence has at most four bytes: complete the broken one byte by byte.
            while let Some((&byte, after)) = rest.split_first() {
                self.utf8_tail.push(byte);
                rest = after;
                match std::str::from_utf8(&self.utf8_tail) {
                    Ok(_) => {
                        self.utf8_tail.clear();
                        break;
                    }
                    Err(error) if error.error_len().is_some() => {
                        return Err(self.malformed(0, MalformedKind::InvalidUtf8));
                    }
                    Err(_) => {}
                }
            }
        }
        match std::str::from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                self.utf8_tail.extend_from_slice(&rest[error.valid_up_to()..]);
                Ok(())
            }
            Err(error) => {
                let at = piece.len() - rest.len() + error.valid_up_to();
                Err(self.malformed(at, MalformedKind::InvalidUtf8))
            }
        }
    }

    fn malformed(&self, at: usize, kind: MalformedKind) -> Malformed {
        Malformed { offset: self.base + at, kind }
    }

    fn unexpected(&self, at: usize, byte: u8) -> Malformed {
        self.malformed(at, MalformedKind::UnexpectedByte(byte))
    }
}
