//! Target `splice`: any bytes as a JSON body that is scanned and edited.
//!
//! What holds: the scanner and a full parser agree on what an object is and where its members lie, wherever the body
//! was cut; an edited object is an object, its edited members say what they were set to, and every other byte is the
//! one that came.

use bytes::Bytes;
use kvferry_splice::{
    Chunks, Document, Edits, MAX_WATCHED_MEMBERS, Malformed, MalformedKind, Missing, Scanner, get_path, scan,
    set_path,
};

use crate::oracle::{Member, members};
use crate::pieces::{SIZES, chunks};

/// Members that the connectors look for, one of each kind of value.
const WATCH: [&str; 4] = ["stream", "max_tokens", "kv_transfer_params", "n"];

/// One edit: the member, and what it becomes; `None` removes it.
type Change = (&'static str, Option<&'static str>);

/// What a connector may do to a body, from nothing to everything at once.
const PLANS: [&[Change]; 7] = [
    &[],
    &[("stream", Some("false"))],
    &[("n", Some("1")), ("kv_transfer_params", Some(r#"{"a":[null,"}\""]}"#))],
    &[
        ("stream", Some("true")),
        ("max_tokens", Some("1")),
        ("kv_transfer_params", Some("null")),
        ("n", Some("\"\"")),
    ],
    &[("stream", None)],
    &[("stream", None), ("max_tokens", None), ("kv_transfer_params", None), ("n", None)],
    &[("kv_transfer_params", Some("null")), ("stream", Some("false")), ("max_tokens", None)],
];

/// Where cached tokens stand in an answer's usage: the deepest edit there is.
const DEEP: [&str; 3] = ["usage", "prompt_tokens_details", "cached_tokens"];

/// Checks one body.
pub fn splice(data: &[u8]) {
    let scanned = scan(data, &WATCH);
    pieces_are_judged_like_the_whole(data, &scanned);
    let parsed = std::str::from_utf8(data).ok().and_then(|text| Some((text, members(text)?)));
    match (&scanned, &parsed) {
        (Ok(document), Some((text, members))) => {
            members_lie_where_the_parser_says(document, members);
            for plan in PLANS {
                edits_leave_the_rest_alone(document, text, members, plan);
            }
        }
        (Ok(_), None) => panic!("accepted, but a parser refuses it"),
        (Err(error), Some((_, members))) => {
            let watched = members.iter().filter(|member| is_watched(member)).count();
            assert!(
                error.kind == MalformedKind::TooManyDuplicates && watched > MAX_WATCHED_MEMBERS,
                "refused, but a parser accepts it: {error}"
            );
        }
        (Err(error), None) => {
            assert!(error.offset <= data.len(), "the error is behind the end: {error:?}");
        }
    }
    let deep = parsed.as_ref().map(|(text, members)| (*text, members.as_slice()));
    deep_edits_change_one_value(data, deep);
}

fn is_watched(member: &Member) -> bool {
    member.name.as_deref().is_some_and(|name| WATCH.contains(&name))
}

fn pieces_are_judged_like_the_whole(data: &[u8], whole: &Result<Document<'_>, Malformed>) {
    for size in SIZES {
        let mut scanner = Scanner::new(&WATCH);
        let cut = data.chunks(size).try_for_each(|piece| scanner.feed(piece)).and_then(|()| scanner.finish());
        assert_eq!(
            cut.is_ok(),
            whole.is_ok(),
            "pieces of {size}: {:?}, whole: {:?}",
            cut.err(),
            whole.as_ref().err()
        );
        if let (Ok(cut), Ok(whole)) = (cut, whole) {
            for name in WATCH {
                assert_eq!(cut.value(name), whole.value(name), "{name} in pieces of {size}");
            }
        }
    }
}

fn members_lie_where_the_parser_says(document: &Document<'_>, members: &[Member]) {
    for name in WATCH {
        let last = members.iter().rev().find(|member| member.name.as_deref() == Some(name));
        assert_eq!(document.value(name), last.map(|member| member.value.clone()), "{name}");
    }
}

fn edits_leave_the_rest_alone(document: &Document<'_>, text: &str, members: &[Member], plan: &[Change]) {
    let edits = plan.iter().fold(Edits::new(), |edits, (name, value)| match value {
        Some(value) => edits.set(name, *value),
        None => edits.remove(name),
    });
    let edited = edits.apply(document, &Chunks::from(Bytes::copy_from_slice(text.as_bytes()))).to_bytes();
    for size in SIZES {
        let cut = edits.apply(document, &chunks(text.as_bytes(), size));
        assert_eq!(cut.len(), edited.len(), "pieces of {size}");
        assert_eq!(cut.to_bytes(), edited, "pieces of {size}");
    }
    let edited = std::str::from_utf8(&edited).expect("splices of text into text are text");
    let expected = Expected::new(text, members, plan);
    if members.iter().all(|member| expected.fate(member) != Fate::Goes) {
        assert_eq!(edited, expected.without_removals(), "{plan:?}");
    }
    expected.check(edited);
}

/// What a plan does to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stays,
    Becomes(&'static str),
    Goes,
}

/// What an edit must lead to, worked out from the parser's view of the body.
struct Expected<'e> {
    text: &'e str,
    members: &'e [Member],
    plan: &'e [Change],
}

impl<'e> Expected<'e> {
    fn new(text: &'e str, members: &'e [Member], plan: &'e [Change]) -> Self {
        Self { text, members, plan }
    }

    fn fate(&self, member: &Member) -> Fate {
        match self.plan.iter().find(|(name, _)| member.name.as_deref() == Some(name)) {
            None => Fate::Stays,
            Some((_, Some(value))) => Fate::Becomes(value),
            Some((_, None)) => Fate::Goes,
        }
    }

    /// Members that the body did not have, as text.
    fn added(&self) -> Vec<String> {
        let has = |name: &str| self.members.iter().any(|member| member.name.as_deref() == Some(name));
        let absent = self.plan.iter().filter(|(name, _)| !has(name));
        absent.filter_map(|(name, value)| Some(format!("\"{name}\":{}", (*value)?))).collect()
    }

    /// Key, colon and value of a member that stays, each byte as it was but an edited value's.
    fn core(&self, member: &Member) -> String {
        let before = &self.text[member.key.start..member.value.start];
        let value = match self.fate(member) {
            Fate::Becomes(value) => value,
            _ => &self.text[member.value.clone()],
        };
        format!("{before}{value}")
    }

    /// Offset just behind the opening brace; only white space stands before it.
    fn inside(&self) -> usize {
        self.text.find('{').expect("an object has a brace") + 1
    }

    /// The one right answer where nothing is removed.
    fn without_removals(&self) -> String {
        let mut out = self.text[..self.inside()].to_owned();
        out.push_str(&self.added().join(","));
        if !self.added().is_empty() && !self.members.is_empty() {
            out.push(',');
        }
        let mut copied = self.inside();
        for member in self.members {
            if let Fate::Becomes(value) = self.fate(member) {
                out.push_str(&self.text[copied..member.value.start]);
                out.push_str(value);
                copied = member.value.end;
            }
        }
        out.push_str(&self.text[copied..]);
        out
    }

    /// Checks `edited` member by member. Where one was removed, its neighbours' white space is the only freedom.
    fn check(&self, edited: &str) {
        let found = members(edited)
            .unwrap_or_else(|| panic!("an edit by {:?} broke the object: {edited}", self.plan));
        let kept: Vec<&Member> =
            self.members.iter().filter(|member| self.fate(member) != Fate::Goes).collect();
        let expected: Vec<String> =
            self.added().into_iter().chain(kept.iter().map(|member| self.core(member))).collect();
        let cores: Vec<&str> =
            found.iter().map(|member| &edited[member.key.start..member.value.end]).collect();
        assert_eq!(cores, expected, "{:?}", self.plan);
        assert!(edited.starts_with(&self.text[..self.inside()]));
        let tail = &self.text[self.text.rfind('}').expect("an object has a closing brace")..];
        assert!(edited.ends_with(tail));
    }
}

fn deep_edits_change_one_value(data: &[u8], parsed: Option<(&str, &[Member])>) {
    const NUMBER: &str = "7";
    let body = Bytes::copy_from_slice(data);
    let was = get_path(&body, &DEEP);
    for missing in [Missing::Create, Missing::Leave] {
        let Some(edited) = set_path(data, &DEEP, NUMBER, missing) else {
            assert!(was.is_none() || missing == Missing::Leave, "a value that is there was not set");
            continue;
        };
        assert_eq!(get_path(&edited, &DEEP).as_deref(), Some(NUMBER.as_bytes()));
        assert_eq!(
            set_path(&edited, &DEEP, NUMBER, missing),
            Some(edited.clone()),
            "a second edit changes more"
        );
        let (text, before) = parsed.expect("only objects are edited");
        let edited = std::str::from_utf8(&edited).expect("splices of text into text are text");
        let after = members(edited).expect("an edited object is an object");
        assert_eq!(before.len(), after.len(), "a member came or went");
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(text[before.key.clone()], edited[after.key.clone()]);
            if before.name.as_deref() != Some(DEEP[0]) {
                assert_eq!(text[before.value.clone()], edited[after.value.clone()]);
            }
        }
    }
}
