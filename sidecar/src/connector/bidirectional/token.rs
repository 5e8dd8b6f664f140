//! The session token: which engine served a chat last, as the scheduler wrote it: base64 of `<namespace>/<pod>-rank-<n>`.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig as Config};

/// With padding or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, PADDING_OPTIONAL);
const PADDING_OPTIONAL: GeneralPurposeConfig =
    Config::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// Longest token that is looked at, in bytes. Kubernetes' names have at most 253 characters each.
const MAX_LEN: usize = 1024;

/// This pod as tokens name it.
#[derive(Debug)]
pub(super) struct Pod {
    /// `<namespace>/<pod>`; `None` if unknown: then no token names this pod.
    name: Option<String>,
    ranks: u16,
}

impl Pod {
    pub(super) fn new(name: Option<String>, ranks: u16) -> Self {
        Self { name, ranks }
    }

    /// Whether `token` names an engine of this pod.
    pub(super) fn is_named_by(&self, token: &[u8]) -> bool {
        self.rank(token).is_some_and(|rank| rank < self.ranks)
    }

    fn rank(&self, token: &[u8]) -> Option<u16> {
        if token.len() > MAX_LEN {
            return None;
        }
        // Both alphabets of base64 occur in headers.
        let standard = token.trim_ascii().iter().map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        });
        let plain = BASE64.decode(standard.collect::<Vec<_>>()).ok()?;
        let rank = plain.strip_prefix(self.name.as_ref()?.as_bytes())?.strip_prefix(b"-rank-")?;
        let digits = rank.iter().all(u8::is_ascii_digit);
        std::str::from_utf8(rank).ok().filter(|_| digits)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};

    use super::*;

    fn pod() -> Pod {
        Pod::new(Some("llm/decode-0".into()), 2)
    }

    #[test]
    fn a_token_names_a_rank_of_this_pod_in_every_spelling_of_base64() {
        for rank in ["llm/decode-0-rank-0", "llm/decode-0-rank-1"] {
            for base64 in [STANDARD, STANDARD_NO_PAD, URL_SAFE] {
                let token = base64.encode(rank);
                assert!(pod().is_named_by(token.as_bytes()), "{token}");
                assert!(pod().is_named_by(format!(" {token} ").as_bytes()));
            }
        }
    }

    #[test]
    fn any_other_token_does_not() {
        for name in [
            "llm/decode-0",
            "llm/decode-0-rank-",
            "llm/decode-0-rank-2",
            "llm/decode-0-rank-+1",
            "llm/decode-0-rank-99999",
            "llm/decode-1-rank-0",
            "other/decode-0-rank-0",
            "xllm/decode-0-rank-0",
            "",
        ] {
            assert!(!pod().is_named_by(STANDARD.encode(name).as_bytes()), "{name}");
        }
        assert!(!pod().is_named_by(b"llm/decode-0-rank-0"), "it is not base64");
        assert!(!pod().is_named_by(&b"A".repeat(MAX_LEN + 4)));
        let nameless = Pod::new(None, 2);
        assert!(!nameless.is_named_by(STANDARD.encode("llm/decode-0-rank-0").as_bytes()));
    }
}
