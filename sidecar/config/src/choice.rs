//! Settings that are one of a few words: the enum, its words, and the message that lists them, from one declaration.

use crate::exit::Invalid;

/// A value that is one of a few words.
pub(crate) trait Choice: Copy + Sized + 'static {
    /// Every value, in the order in which messages list them.
    const ALL: &'static [Self];

    /// The word on the command line.
    fn word(self) -> &'static str;

    /// The value of a word.
    fn of_word(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|choice| choice.word() == text)
    }

    /// All words, for a message.
    fn words() -> String {
        Self::ALL.iter().map(|choice| choice.word()).collect::<Vec<_>>().join(", ")
    }

    /// The value of a flag's text.
    fn of_flag(name: &str, text: &str) -> Result<Self, Invalid> {
        Self::of_word(text)
            .ok_or_else(|| Invalid::new(format!("--{name} must be one of: {} (got {text:?})", Self::words())))
    }
}

/// Declares such an enum.
macro_rules! choice {
    (
        $(#[$about:meta])*
        pub enum $name:ident { $( $(#[$each:meta])* $variant:ident = $word:literal, )+ }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $( $(#[$each])* $variant, )+ }

        impl $crate::choice::Choice for $name {
            const ALL: &'static [Self] = &[$( Self::$variant, )+];

            fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )+ }
            }
        }

        impl $name {
            /// As it is spelled on the command line.
            pub fn as_str(self) -> &'static str {
                $crate::choice::Choice::word(self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

pub(crate) use choice;
