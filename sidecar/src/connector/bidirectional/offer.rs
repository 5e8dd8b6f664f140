//! What a decode engine offers to whoever continues a chat: the `kv_transfer_params` of its answer.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Says that it is an offer.
const SWITCH: &str = "do_remote_decode";

/// Members that go on to the prefill engine, the engine's own id first. An offer without the first [`NEEDED`] is of no use.
const MEMBERS: [&str; 11] = [
    "remote_engine_id",
    "remote_request_id",
    "remote_host",
    "remote_port",
    "remote_block_ids",
    "remote_num_tokens",
    "remote_blocks_expiry_time",
    "tp_size",
    "dcp_size",
    "pp_size",
    "transfer_mode",
];
const NEEDED: usize = 5;

/// How the parameters of a prefill leg begin that takes an offer up.
const HEAD: &[u8] = br#"{"do_remote_decode":true,"do_remote_prefill":false"#;

/// Largest offer that is kept, in bytes. A block id takes some six; this is a million tokens in blocks of 32.
const MAX_BYTES: usize = 256 * 1024;

/// KV that a decode engine keeps for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// The engine, in its present life, as the text that it wrote.
    pub(super) engine: Bytes,
    /// `kv_transfer_params` of the prefill leg that takes the offer up.
    pub(super) params: Bytes,
}

/// The offer in the parameters of a decode answer, if they offer something.
#[derive(Debug, Default)]
pub(super) struct Offered(pub(super) Option<Offer>);

/// The values of [`MEMBERS`], as their text.
type Values<'a> = [Option<&'a str>; MEMBERS.len()];

impl<'de> Deserialize<'de> for Offered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Option<Offer>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        let (mut offers, mut values) = (false, Values::default());
        while let Some((Name(name), value)) = object.next_entry::<_, &RawValue>()? {
            if name == SWITCH {
                offers = value.get() == "true";
            } else if let Some(member) = MEMBERS.iter().position(|member| *member == name) {
                values[member] = Some(value.get());
            }
        }
        Ok(if offers { Offer::of(values) } else { None })
    }
}

/// A name that is copied only if it is spelled with escapes.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Offer {
    fn of(values: Values<'_>) -> Option<Self> {
        let parts = || MEMBERS.into_iter().zip(values);
        let around =
            |(name, value): (&str, Option<&str>)| value.map_or(0, |value| name.len() + value.len() + 4);
        let size = HEAD.len() + parts().map(around).sum::<usize>() + 1;
        if size > MAX_BYTES {
            return None;
        }
        let mut params = Vec::with_capacity(size);
        params.extend_from_slice(HEAD);
        for (at, (name, value)) in parts().enumerate() {
            match value.map(str::as_bytes) {
                Some(value) if says_something(value) => {
                    for part in [b",\"", name.as_bytes(), b"\":", value] {
                        params.extend_from_slice(part);
                    }
                }
                _ if at < NEEDED => return None,
                _ => {}
            }
        }
        params.push(b'}');
        let [engine, ..] = values;
        Some(Self { engine: Bytes::copy_from_slice(engine?.as_bytes()), params: params.into() })
    }
}

/// Whether a value is more than a null, an empty text, or lists of nothing.
fn says_something(value: &[u8]) -> bool {
    value != b"null" && value != b"0" && value.iter().any(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const OFFER: &str = r#"{"do_remote_prefill":false,"do_remote_decode":true,"remote_block_ids":[[4, 5]],"remote_engine_id":"d-1","remote_request_id":"chatcmpl-1","remote_host":"10.0.0.9","remote_port":5601,"tp_size":1,"dcp_size":1,"pp_size":1,"remote_num_tokens":40,"remote_blocks_expiry_time":123456.789,"transfer_mode":"pull","other":1}"#;

    pub(crate) fn read(returned: &str) -> Option<Offer> {
        serde_json::from_str::<Offered>(returned).ok()?.0
    }

    #[test]
    fn an_offer_goes_on_with_the_allowed_members_alone() {
        let offer = read(OFFER).unwrap();
        assert_eq!(offer.engine, "\"d-1\"");
        assert_eq!(
            offer.params,
            r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":"d-1","remote_request_id":"chatcmpl-1","remote_host":"10.0.0.9","remote_port":5601,"remote_block_ids":[[4, 5]],"remote_num_tokens":40,"remote_blocks_expiry_time":123456.789,"tp_size":1,"dcp_size":1,"pp_size":1,"transfer_mode":"pull"}"#
        );
    }

    #[test]
    fn of_several_members_of_a_name_the_last_counts_however_they_are_spelled() {
        let twice = OFFER.replace("\"remote_port\":5601", "\"remote_port\":1,\"remote_p\\u006frt\":5601");
        assert_eq!(read(&twice), read(OFFER));
    }

    #[test]
    fn parameters_that_do_not_say_where_the_kv_is_are_no_offer() {
        for (from, to) in [
            ("\"do_remote_decode\":true", "\"do_remote_decode\":false"),
            ("\"do_remote_decode\":true,", ""),
            ("\"d-1\"", "\"\""),
            ("\"d-1\"", "null"),
            ("\"chatcmpl-1\"", "null"),
            ("\"10.0.0.9\"", "\"\""),
            ("5601", "0"),
            ("[[4, 5]]", "[]"),
            ("[[4, 5]]", "[[ ],[]]"),
            ("\"remote_port\":5601,", ""),
        ] {
            assert_eq!(read(&OFFER.replace(from, to)), None, "{to}");
        }
        for other in ["null", "[1]", "\"x\"", ""] {
            assert_eq!(read(other), None, "{other}");
        }
        let huge = OFFER.replace("4, 5", &"123456,".repeat(MAX_BYTES / 7 + 1));
        assert_eq!(read(&huge.replace(",]", "]")), None);
    }
}
