//! One form for JSON texts that mean the same to a chat template, as bytes for a hash.
//!
//! Two texts are the same exactly if they differ in nothing but: white space between tokens; the order of an object's
//! members; members that a later one of the same name replaces; and how the characters of a string are spelled (`\u0041`
//! is `A`). Numbers are compared by their text: `1` and `1.0` may reach a template as different words. `null`, `""`, `[]`
//! and an absent member are all different.
//!
//! A form says by itself where it ends: what it is comes first, texts and words end with a byte that no text holds, lists
//! and objects with their bracket. So no two different values give the same bytes, nor do forms one behind the other.
//!
//! What is read was checked when the body came in, so it is read once, without another check of its letters. Were it
//! wrong, it would have no form, or one that nothing else has.

use std::ops::Range;

use memchr::memchr2;

/// Nesting that is followed. Messages and tool schemas have some ten levels; what each holds may be moved once more.
const MAX_DEPTH: usize = 64;

/// Ends a text or a word: UTF-8 has no such byte.
const END: u8 = 0xff;

/// Reads JSON from its beginning to its end.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// An object that was just written to the end of a buffer: where its members lie there, in the order they came.
#[derive(Debug)]
pub(super) struct Object {
    start: usize,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    /// With its end.
    name: Range<usize>,
    value: Range<usize>,
}

/// Writes the form of `json` behind `form`. `None`: it is nested too deeply, or has a string that is no text (a lone
/// surrogate).
pub(super) fn write(json: &[u8], form: &mut Vec<u8>) -> Option<()> {
    Reader::new(json).value(form, MAX_DEPTH)
}

/// Writes the form of an object whose members are these texts, sorted by name.
pub(super) fn write_texts<const N: usize>(members: [(&str, &str); N], form: &mut Vec<u8>) {
    debug_assert!(members.is_sorted_by_key(|(name, _)| *name), "one form for one object");
    form.push(b'{');
    for text in members.into_iter().flat_map(|(name, value)| [name, value]) {
        form.push(b'"');
        form.extend_from_slice(text.as_bytes());
        form.push(END);
    }
    form.push(b'}');
}

impl<'a> Reader<'a> {
    pub(super) fn new(json: &'a [u8]) -> Self {
        Self { rest: json }
    }

    /// The next token's first byte.
    fn peek(&mut self) -> Option<u8> {
        let blank = self.rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.rest = &self.rest[blank..];
        self.rest.first().copied()
    }

    /// Goes behind the next token if it is this one.
    fn takes(&mut self, token: u8) -> bool {
        let is = self.peek() == Some(token);
        if is {
            self.rest = &self.rest[1..];
        }
        is
    }

    /// Goes on to the next item of a list that ends with `close`. `first`: it would be the list's first. `None`: there is
    /// neither an item nor the end.
    fn item(&mut self, close: u8, first: bool) -> Option<bool> {
        if self.takes(close) {
            return Some(false);
        }
        (first || self.takes(b',')).then_some(true)
    }

    /// Reads a list, of which `each` reads the items.
    pub(super) fn list(&mut self, mut each: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        let mut first = self.takes(b'[').then_some(true)?;
        while self.item(b']', first)? {
            first = false;
            each(self)?;
        }
        Some(())
    }

    /// Reads an object, and writes its members behind `form` in the order they come.
    pub(super) fn object(&mut self, form: &mut Vec<u8>) -> Option<Object> {
        self.object_within(form, MAX_DEPTH)
    }

    fn object_within(&mut self, form: &mut Vec<u8>, depth: usize) -> Option<Object> {
        let mut first = self.takes(b'{').then_some(true)?;
        let mut object = Object { start: form.len(), members: Vec::with_capacity(4) };
        form.push(b'{');
        while self.item(b'}', first)? {
            first = false;
            let name = form.len();
            if self.peek() != Some(b'"') {
                return None;
            }
            self.text(form)?;
            let value = form.len();
            self.takes(b':').then_some(())?;
            self.value(form, depth)?;
            object.members.push(Member { name: name..value, value: value..form.len() });
        }
        Some(object)
    }

    fn value(&mut self, form: &mut Vec<u8>, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match self.peek()? {
            b'{' => self.object_within(form, depth)?.settle(form),
            b'[' => {
                form.push(b'[');
                self.list(|list| list.value(form, depth))?;
                form.push(b']');
            }
            b'"' => self.text(form)?,
            // A number or a word.
            _ => {
                let behind = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
                let len = self.rest.iter().position(behind).unwrap_or(self.rest.len());
                let (word, rest) = self.rest.split_at(len);
                form.push(b'=');
                form.extend_from_slice(word);
                form.push(END);
                self.rest = rest;
            }
        }
        Some(())
    }

    /// Reads a string, of which the opening quote comes next.
    fn text(&mut self, form: &mut Vec<u8>) -> Option<()> {
        form.push(b'"');
        self.rest = self.rest.get(1..)?;
        loop {
            let (run, rest) = self.rest.split_at(memchr2(b'"', b'\\', self.rest)?);
            form.extend_from_slice(run);
            let special = *rest.first()?;
            self.rest = &rest[1..];
            if special == b'"' {
                form.push(END);
                return Some(());
            }
            let letter = self.escape()?;
            form.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// What is spelled behind a backslash.
    fn escape(&mut self) -> Option<char> {
        let (kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(*kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                if !(0xd800..0xe000).contains(&unit) {
                    return char::from_u32(unit.into());
                }
                self.rest = self.rest.strip_prefix(b"\\u")?;
                return char::decode_utf16([unit, self.unit()?]).next()?.ok();
            }
            _ => return None,
        })
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Option<u16> {
        let (digits, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        let digit =
            |unit: u16, digit: &u8| Some(unit << 4 | u16::try_from(char::from(*digit).to_digit(16)?).ok()?);
        digits.iter().try_fold(0, digit)
    }
}

impl Object {
    /// Whether its member `name` is this text.
    pub(super) fn says(&self, form: &[u8], name: &str, text: &str) -> bool {
        let is = |at: &Range<usize>, text: &str| {
            form[at.clone()].strip_prefix(b"\"").and_then(|form| form.strip_suffix(&[END]))
                == Some(text.as_bytes())
        };
        self.members
            .iter()
            .rfind(|member| is(&member.name, name))
            .is_some_and(|member| is(&member.value, text))
    }

    /// Takes out the members that are null or an empty list.
    pub(super) fn drop_empty(&mut self, form: &[u8]) {
        self.keep_last_of_each_name(form);
        self.members.retain(|member| !matches!(&form[member.value.clone()], b"=null\xff" | b"[]"));
    }

    /// Gives it its one form, at the end of `form`.
    pub(super) fn settle(mut self, form: &mut Vec<u8>) {
        self.keep_last_of_each_name(form);
        let end = form.len();
        for member in self.members {
            form.extend_from_within(member.name.start..member.value.end);
        }
        form.push(b'}');
        form.drain(self.start + 1..end);
    }

    fn keep_last_of_each_name(&mut self, form: &[u8]) {
        let name = |member: &Member| &form[member.name.clone()];
        // Stable: of equal names the last is still the last.
        self.members.sort_by(|one, other| name(one).cmp(name(other)));
        self.members.dedup_by(|later, earlier| {
            let same = name(later) == name(earlier);
            if same {
                std::mem::swap(later, earlier);
            }
            same
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn digest(json: &str) -> Option<Vec<u8>> {
        let mut form = Vec::new();
        write(json.as_bytes(), &mut form)?;
        Some(form)
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
            let mut form = Vec::new();
            write_texts([("a", value), ("b", "x")], &mut form);
            let read = serde_json::json!({"b": "x", "a": value}).to_string();
            assert_eq!(digest(&read), Some(form), "{read}");
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
