//! One form for JSON texts that mean the same to a chat template, as bytes for a hash.
//!
//! Two texts are the same exactly if they differ in nothing but: white space between tokens; the order of an object's
//! members; members that a later one of the same name replaces; and how the characters of a string are spelled (`\u0041`
//! is `A`). Numbers are compared by their text: `1` and `1.0` may reach a template as different words. `null`, `""`, `[]`
//! and an absent member are all different.
//!
//! Every value is absorbed with its kind and length in front, so that no two different values give the same bytes.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Nesting that is followed. Messages and tool schemas have some ten levels; each level is scanned once more.
const MAX_DEPTH: usize = 64;

/// An object's members, sorted, the last of each name. Names and values are those of the text that was read, as far as it
/// spells them plainly.
#[derive(Debug)]
pub(super) struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// The value of `name`, as its text.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.get())
    }

    /// Keeps those members whose value, as its text, is `wanted`.
    pub(super) fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.0.retain(|(_, value)| wanted(value.get()));
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader).map(Self)
    }
}

/// A text that is copied only if it is spelled with escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((Text(name), value)) = object.next_entry()? {
            members.push((name, value));
        }
        // Stable: of equal names the last is still the last.
        members.sort_by(|(one, _): &(Cow<'_, str>, _), (other, _)| one.cmp(other));
        members.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
        Ok(members)
    }
}

/// Adds `value` to `hash`. `None`: it is nested too deeply, or has a string that is no text (a lone surrogate).
pub(super) fn absorb(hash: &mut Sha256, value: &str) -> Option<()> {
    absorb_below(hash, value, MAX_DEPTH)
}

/// Adds an object with these members.
pub(super) fn absorb_members(hash: &mut Sha256, members: &Members<'_>) -> Option<()> {
    members_below(hash, members, MAX_DEPTH)
}

/// Adds an object whose members are these texts, sorted by name.
pub(super) fn absorb_texts<const N: usize>(hash: &mut Sha256, members: [(&str, &str); N]) {
    debug_assert!(members.is_sorted_by_key(|(name, _)| *name), "one form for one object");
    head(hash, b'{', N);
    for (name, value) in members {
        text(hash, name);
        text(hash, value);
    }
}

fn absorb_below(hash: &mut Sha256, value: &str, depth: usize) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let value = value.trim_matches([' ', '\t', '\n', '\r']);
    match value.as_bytes().first()? {
        b'{' => members_below(hash, &serde_json::from_str(value).ok()?, depth)?,
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(value).ok()?;
            head(hash, b'[', items.len());
            for item in items {
                absorb_below(hash, item.get(), depth)?;
            }
        }
        b'"' => match plain(value) {
            Some(plain) => text(hash, plain),
            None => text(hash, &serde_json::from_str::<String>(value).ok()?),
        },
        // A number or a word.
        _ => {
            head(hash, b'=', value.len());
            hash.update(value);
        }
    }
    Some(())
}

/// What a JSON string says, if it spells every character as itself.
fn plain(string: &str) -> Option<&str> {
    let inside = string.strip_prefix('"')?.strip_suffix('"')?;
    memchr::memchr(b'\\', inside.as_bytes()).is_none().then_some(inside)
}

fn members_below(hash: &mut Sha256, Members(members): &Members<'_>, depth: usize) -> Option<()> {
    head(hash, b'{', members.len());
    for (name, value) in members {
        text(hash, name);
        absorb_below(hash, value.get(), depth)?;
    }
    Some(())
}

fn text(hash: &mut Sha256, text: &str) {
    head(hash, b'"', text.len());
    hash.update(text);
}

fn head(hash: &mut Sha256, kind: u8, len: usize) {
    hash.update([kind]);
    hash.update((len as u64).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn digest(json: &str) -> Option<[u8; 32]> {
        let mut hash = Sha256::new();
        absorb(&mut hash, json)?;
        Some(hash.finalize().into())
    }

    #[test]
    fn what_means_the_same_is_the_same() {
        for (one, other) in [
            (r#"{"a":1,"b":[true,null]}"#, " {\n\"b\" : [ true , null ],\t\"a\":1 } "),
            (r#"{"a":"A/é😀"}"#, r#"{"\u0061":"\u0041\/\u00e9\ud83d\ude00"}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"b":0,"a":1,"b":7,"\u0061":2,"c":[],"a":3}"#, r#"{"a":3,"b":7,"c":[]}"#),
            ("[]", "[ ]"),
        ] {
            assert!(digest(one).is_some());
            assert_eq!(digest(one), digest(other), "{one} {other}");
        }
    }

    #[test]
    fn texts_put_together_are_the_object_they_would_be_read_as() {
        for value in ["", "plain", "a \"quoted\" word \\ and a\nline", "é😀"] {
            let mut hash = Sha256::new();
            absorb_texts(&mut hash, [("a", value), ("b", "x")]);
            let read = serde_json::json!({"b": "x", "a": value}).to_string();
            assert_eq!(digest(&read), Some(hash.finalize().into()), "{read}");
        }
    }

    #[test]
    fn what_a_template_could_tell_apart_is_different() {
        let values = [
            "1",
            "1.0",
            "1e0",
            "10",
            "-1",
            "\"1\"",
            "true",
            "\"true\"",
            "null",
            "\"\"",
            "[]",
            "{}",
            "[[]]",
            "[1]",
            "[1,0]",
            "[10]",
            r#"{"a":1}"#,
            r#"{"a":10}"#,
            r#"{"b":1}"#,
            r#"{"a":null}"#,
            r#"["a",1]"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":{},"b":1}"#,
            r#"["ab",""]"#,
            r#"["a","b"]"#,
            "\" \"",
            "\"é\"",
            "\"e\u{301}\"",
        ];
        for (index, one) in values.iter().enumerate() {
            for other in &values[..index] {
                assert_ne!(digest(one), digest(other), "{one} {other}");
            }
        }
    }

    #[test]
    fn what_no_template_can_render_has_no_form() {
        let deep = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(digest(&deep(MAX_DEPTH - 1)).is_some());
        assert_eq!(digest(&deep(MAX_DEPTH)), None);
        assert_eq!(digest(r#"["\ud800"]"#), None);
    }

    /// A value, to be written in several ways.
    #[derive(Debug, Clone)]
    enum Json {
        Word(String),
        Text(String),
        List(Vec<Json>),
        Object(BTreeMap<String, Json>),
    }

    fn json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            prop_oneof!["null", "true", "false", "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,3})?(e-?[0-9])?"]
                .prop_map(Json::Word),
            "\\PC{0,6}".prop_map(Json::Text),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::List),
                prop::collection::btree_map("[a-d]{1,2}", inner, 0..4).prop_map(Json::Object),
            ]
        })
    }

    impl Json {
        /// Writes it with `space` between tokens; `odd`: members backwards, strings in escapes.
        fn write(&self, space: &str, odd: bool) -> String {
            match self {
                Self::Word(word) => word.clone(),
                Self::Text(text) => Self::string(text, odd),
                Self::List(items) => {
                    let items: Vec<_> = items.iter().map(|item| item.write(space, odd)).collect();
                    format!("[{space}{}{space}]", items.join(&format!("{space},{space}")))
                }
                Self::Object(members) => {
                    let mut members: Vec<_> = members
                        .iter()
                        .map(|(name, value)| {
                            format!("{}{space}:{space}{}", Self::string(name, odd), value.write(space, odd))
                        })
                        .collect();
                    if odd {
                        members.reverse();
                    }
                    format!("{{{space}{}{space}}}", members.join(&format!("{space},{space}")))
                }
            }
        }

        fn string(text: &str, escaped: bool) -> String {
            if !escaped {
                return serde_json::to_string(text).unwrap();
            }
            let units: Vec<_> = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            format!("\"{}\"", units.concat())
        }

        /// The same with its first leaf changed.
        fn changed(&self) -> Self {
            match self {
                Self::Word(word) if word == "null" => Self::Word("true".into()),
                Self::Word(word) if word.ends_with(['e', 'l']) => Self::Word("null".into()),
                Self::Word(number) => Self::Word(format!("{number}0")),
                Self::Text(text) => Self::Text(format!("{text} ")),
                Self::List(items) => {
                    let mut items = items.clone();
                    match items.first_mut() {
                        Some(first) => *first = first.changed(),
                        None => items.push(Self::Word("null".into())),
                    }
                    Self::List(items)
                }
                Self::Object(members) => {
                    let mut members = members.clone();
                    match members.values_mut().next() {
                        Some(first) => *first = first.changed(),
                        None => drop(members.insert("a".into(), Self::Word("null".into()))),
                    }
                    Self::Object(members)
                }
            }
        }
    }

    proptest! {
        #[test]
        fn layout_order_and_spelling_never_matter(json in json(), space in "[ \n\r\t]{0,3}") {
            prop_assert!(digest(&json.write("", false)).is_some());
            prop_assert_eq!(digest(&json.write("", false)), digest(&json.write(&space, true)));
        }

        #[test]
        fn a_value_always_matters(json in json()) {
            prop_assert_ne!(digest(&json.write("", false)), digest(&json.changed().write("", false)));
        }
    }
}
