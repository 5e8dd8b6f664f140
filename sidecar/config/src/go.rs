//! Texts as Go spells them: manifests were written for Go's parsers, so booleans and durations follow its grammar.

use std::time::Duration;

use serde::Serializer;

/// Units of a duration in nanoseconds, the longest first. Micro is written with either of Unicode's two letters.
const UNITS: [(&str, u64); 8] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ns", 1),
];

/// Digits of a fraction that can matter: an hour has 13 digits of nanoseconds, and more would overflow the sum.
const FRACTION_DIGITS: usize = 18;

/// A boolean.
pub(crate) fn bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A duration in nanoseconds: `300ms`, `-1.5s`, `2m30s`, `1h`; plain `0` too. At most some 292 years, as in Go.
pub(crate) fn nanos(text: &str) -> Option<i64> {
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if unsigned == "0" {
        return Some(0);
    }
    let mut rest = unsigned;
    let mut total: u128 = 0;
    while !rest.is_empty() || total == 0 && rest.len() == unsigned.len() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &after[..unit_end])?;
        total = total.checked_add(scaled(whole, fraction, *unit)?)?;
        rest = &after[unit_end..];
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { -total } else { total })
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn scaled(whole: &str, fraction: &str, unit: u64) -> Option<u128> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let part = if fraction.is_empty() {
        0
    } else {
        let digits: u64 = fraction.parse().ok()?;
        u128::from(digits) * u128::from(unit) / 10_u128.pow(u32::try_from(fraction.len()).ok()?)
    };
    Some(u128::from(whole) * u128::from(unit) + part)
}

/// Spells a duration so that it reads back as the same.
pub(crate) fn spell(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (name, unit) in UNITS.iter().filter(|(name, _)| name.is_ascii()) {
        let count = rest / u128::from(*unit);
        if count > 0 {
            text.push_str(&count.to_string());
            text.push_str(name);
            rest %= u128::from(*unit);
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For `serialize_with`.
pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&spell(*duration))
}

/// For `serialize_with`: no limit is spelled as the 0 that sets it.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
pub(crate) fn serialize_limit<S: Serializer>(
    limit: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serialize(&limit.unwrap_or_default(), serializer)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_spelled_as_in_go() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("-0", 0),
            ("200ms", 200),
            ("1.5s", 1500),
            (".5s", 500),
            ("2.s", 2000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("+1h0m0.25s", 3_600_250),
            ("-1s", -1000),
            ("1000us", 1),
            ("1000\u{b5}s", 1),
            ("1000\u{3bc}s", 1),
            ("1000000ns", 1),
            ("0.000000000000000000000000000001h1s", 1000),
        ] {
            assert_eq!(nanos(text), Some(millis * 1_000_000), "{text}");
        }
        for text in
            ["", "5", "s", "-", ".", ".s", "1x", "1s5", "1..5s", "1 s", "99999999h", "1d", "--1s", "0.0"]
        {
            assert_eq!(nanos(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_is_spelled_shortly() {
        for (millis, text) in
            [(0, "0s"), (200, "200ms"), (1500, "1s500ms"), (600_000, "10m"), (5_400_000, "1h30m")]
        {
            assert_eq!(spell(Duration::from_millis(millis)), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_spelled_reads_back(nanoseconds in 0..=i64::MAX) {
            let duration = Duration::from_nanos(nanoseconds.unsigned_abs());
            prop_assert_eq!(nanos(&spell(duration)), Some(nanoseconds));
        }

        #[test]
        fn no_text_is_too_odd_to_be_read(text in "\\PC{0,40}|[-+0-9.hmsnu]{0,40}") {
            let _ = nanos(&text);
        }
    }
}
