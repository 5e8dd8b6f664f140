//! What the plots share: words, and that what they hold cannot break the picture.

use std::fmt::Write as _;

/// Why writing a picture never fails.
pub const INFALLIBLE: &str = "writing to a String cannot fail";

/// Words at a place; `anchor` is `start`, `middle` or `end`.
pub fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, size: f64, colour: &str, words: &str) {
    let words = escape(words);
    writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"{colour}\">{words}</text>"
    )
    .expect(INFALLIBLE);
}

/// Words as they stand in a picture's text.
pub fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Checks that tags nest and close, and that no text holds a bare `<` or `&`; for tests of plots. Returns how many
/// elements there are.
///
/// # Errors
/// The first fault, in words.
pub fn well_formed(svg: &str) -> Result<usize, String> {
    let mut open: Vec<&str> = Vec::new();
    let mut elements = 0;
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        let words = &rest[..start];
        let entities = ["&amp;", "&lt;", "&gt;", "&quot;"];
        let bare =
            words.match_indices('&').any(|(at, _)| !entities.iter().any(|e| words[at..].starts_with(e)));
        if bare {
            return Err(format!("bare ampersand in {words:?}"));
        }
        let end = rest[start..].find('>').ok_or("a tag that never ends")? + start;
        let tag = &rest[start + 1..end];
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
        } else {
            elements += 1;
            if tag.matches('"').count() % 2 == 1 {
                return Err(format!("odd quotes in <{tag}>"));
            }
            if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or(tag));
            }
        }
        rest = &rest[end + 1..];
    }
    if open.is_empty() { Ok(elements) } else { Err(format!("left open: {open:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checker_itself_finds_faults() {
        assert!(
            well_formed("<a><b></a>").is_err()
                && well_formed("<a>&</a>").is_err()
                && well_formed("<a>").is_err()
        );
    }
}
