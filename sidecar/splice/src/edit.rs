//! Splices: which top-level members to set or remove, applied to the original bytes.

use bytes::Bytes;

use crate::chunks::Chunks;
use crate::scan::Document;

/// Changes to an object's top-level members.
///
/// Setting a member replaces the value of every occurrence, since engines differ in which duplicate they obey; a member
/// that is not there is added directly behind the opening brace. Removing takes out every occurrence with one comma
/// each. Only watched names can be edited. A name given twice counts with its last change.
#[derive(Debug, Clone, Default)]
pub struct Edits<'n> {
    /// `None` removes.
    changes: Vec<(&'n str, Option<Bytes>)>,
}

impl<'n> Edits<'n> {
    /// No change.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `name` to `json`, which must be one valid JSON value.
    #[must_use]
    pub fn set(mut self, name: &'n str, json: impl Into<Bytes>) -> Self {
        self.change(name, Some(json.into()));
        self
    }

    /// Removes `name`.
    #[must_use]
    pub fn remove(mut self, name: &'n str) -> Self {
        self.change(name, None);
        self
    }

    fn change(&mut self, name: &'n str, value: Option<Bytes>) {
        self.changes.retain(|(changed, _)| *changed != name);
        self.changes.push((name, value));
    }

    fn of(&self, name: &str) -> Option<&Option<Bytes>> {
        self.changes.iter().find(|(changed, _)| *changed == name).map(|(_, value)| value)
    }

    /// The edited body. Untouched bytes are shared with `body`, not copied.
    ///
    /// `document` must be the scan of `body`; names outside its watch list would be added blindly, so they are refused
    /// in debug builds.
    pub fn apply(&self, document: &Document<'_>, body: &Chunks) -> Chunks {
        debug_assert_eq!(document.len, body.len(), "the scan belongs to another body");
        let mut out = Chunks::new();
        body.append_range(0..document.inside, &mut out);
        let mut copied = document.inside;

        let removed = document
            .members
            .iter()
            .filter(|member| matches!(self.of(document.watch[member.watched]), Some(None)))
            .count();
        let mut comma = false;
        for (name, value) in &self.changes {
            debug_assert!(document.watch.contains(name), "{name} was not watched");
            let Some(value) = value else { continue };
            if document.value(name).is_none() {
                if comma {
                    out.push(Bytes::from_static(b","));
                }
                out.push(Bytes::from(format!("\"{name}\":")));
                out.push(value.clone());
                comma = true;
            }
        }
        if comma && document.member_count > removed {
            out.push(Bytes::from_static(b","));
        }

        let mut removed_before = 0;
        for member in &document.members {
            match self.of(document.watch[member.watched]) {
                None => {}
                Some(Some(value)) => {
                    body.append_range(copied..member.value.start, &mut out);
                    out.push(value.clone());
                    copied = member.value.end;
                }
                Some(None) => {
                    // Behind a member that stays, the comma before goes too; else the one behind, if there is one.
                    let cut = if member.ordinal > removed_before {
                        member.previous_end..member.value.end
                    } else {
                        member.key_start..member.next_key.unwrap_or(member.value.end)
                    };
                    body.append_range(copied..cut.start, &mut out);
                    copied = cut.end;
                    removed_before += 1;
                }
            }
        }
        body.append_range(copied..document.len, &mut out);
        out
    }
}
