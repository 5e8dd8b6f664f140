//! A second opinion on JSON objects, from a full parser that shares no code with the scanner under test.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

/// One top-level member of an object.
#[derive(Debug)]
pub(crate) struct Member {
    /// What the key's text spells; `None` for half a surrogate pair, which spells nothing.
    pub(crate) name: Option<String>,
    /// The key with its quotes, as offsets into the text.
    pub(crate) key: Range<usize>,
    /// The value without the white space around it.
    pub(crate) value: Range<usize>,
}

/// The members of the object that `text` is, in order; `None` if it is anything else.
pub(crate) fn members(text: &str) -> Option<Vec<Member>> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let pairs = parser.deserialize_map(Pairs).ok()?;
    parser.end().ok()?;
    let range = |raw: &RawValue| {
        let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
        start..start + raw.get().len()
    };
    let member = |(key, value): (&RawValue, &RawValue)| Member {
        name: serde_json::from_str(key.get()).ok(),
        key: range(key),
        value: range(value),
    };
    Some(pairs.into_iter().map(member).collect())
}

/// Borrows every key and value as it is spelled.
struct Pairs;

impl<'t> Visitor<'t> for Pairs {
    type Value = Vec<(&'t RawValue, &'t RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_with_their_spelling() {
        let text = r#" {"a" : [1, 2] ,"\u0062":"x","\ud800":1e999} "#;
        let members = members(text).unwrap();
        let spelled: Vec<_> =
            members.iter().map(|m| (&text[m.key.clone()], &text[m.value.clone()])).collect();
        assert_eq!(spelled, [(r#""a""#, "[1, 2]"), (r#""\u0062""#, r#""x""#), (r#""\ud800""#, "1e999")]);
        let names: Vec<_> = members.iter().map(|member| member.name.as_deref()).collect();
        assert_eq!(names, [Some("a"), Some("b"), None]);
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for text in ["", "[]", "{} {}", "{\"a\"}", "{\"a\":01}", "null"] {
            assert!(members(text).is_none(), "{text}");
        }
    }
}
