//! Reads and sets one value deep inside a JSON object, level by level, by splicing.

use bytes::Bytes;

use crate::chunks::Chunks;
use crate::edit::Edits;
use crate::scan::scan;

/// What to do where a member on the path is absent or `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Add it.
    Create,
    /// Leave the body alone.
    Leave,
}

/// The object `json` with `value` at `path`, or `None` if nothing is to be changed: not an object, the path's first
/// member is no object, something on the way is neither object nor null, or it is missing and to be left.
///
/// `path` is never empty. Its first member is never created.
pub fn set_path(json: &[u8], path: &[&str], value: &str, missing: Missing) -> Option<Bytes> {
    set_below(&Bytes::copy_from_slice(json), path, value, Missing::Leave, missing)
}

fn set_below(json: &Bytes, path: &[&str], value: &str, here: Missing, below: Missing) -> Option<Bytes> {
    let (name, rest) = path.split_first()?;
    let watch = [*name];
    let document = scan(json, &watch).ok()?;
    let old = document.value(name).map(|range| json.slice(range)).filter(|old| &old[..] != b"null");
    let new = match (old, rest) {
        (None, _) if here == Missing::Leave => return None,
        (_, []) => Bytes::copy_from_slice(value.as_bytes()),
        (None, rest) => {
            let mut nested = value.to_owned();
            for name in rest.iter().rev() {
                nested = format!("{{\"{name}\":{nested}}}");
            }
            nested.into()
        }
        (Some(old), rest) => set_below(&old, rest, value, below, below)?,
    };
    Some(Edits::new().set(name, new).apply(&document, &Chunks::from(json.clone())).to_bytes())
}

/// The value at `path` inside the object `json`, as its raw text; `None` if it is not there or not reachable through
/// objects.
pub fn get_path(json: &Bytes, path: &[&str]) -> Option<Bytes> {
    let Some((name, rest)) = path.split_first() else {
        return Some(json.clone());
    };
    let watch = [*name];
    let range = scan(json, &watch).ok()?.value(name)?;
    get_path(&json.slice(range), rest)
}
