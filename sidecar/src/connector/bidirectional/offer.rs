//! What a decode engine offers to whoever continues a chat: the `kv_transfer_params` of its answer.

use bytes::Bytes;
use kvferry_splice::scan;

/// Members that go on to the prefill engine, and whether an offer without them is of no use.
const MEMBERS: [(&str, bool); 11] = [
    ("remote_engine_id", true),
    ("remote_request_id", true),
    ("remote_host", true),
    ("remote_port", true),
    ("remote_block_ids", true),
    ("remote_num_tokens", false),
    ("remote_blocks_expiry_time", false),
    ("tp_size", false),
    ("dcp_size", false),
    ("pp_size", false),
    ("transfer_mode", false),
];

/// Says that it is an offer.
const SWITCH: &str = "do_remote_decode";

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

impl Offer {
    /// Reads the parameters of a decode answer. `None`: they offer nothing.
    pub(super) fn read(returned: &[u8]) -> Option<Self> {
        let mut names = MEMBERS.map(|(name, _)| name).to_vec();
        names.push(SWITCH);
        let document = scan(returned, &names).ok()?;
        let value = |name| document.value(name).map(|at| &returned[at]);
        if value(SWITCH) != Some(b"true") || returned.len() > MAX_BYTES {
            return None;
        }
        let mut params = br#"{"do_remote_decode":true,"do_remote_prefill":false"#.to_vec();
        for (name, needed) in MEMBERS {
            match value(name) {
                Some(value) if says_something(value) => {
                    params.extend_from_slice(format!(",\"{name}\":").as_bytes());
                    params.extend_from_slice(value);
                }
                _ if needed => return None,
                _ => {}
            }
        }
        params.push(b'}');
        Some(Self { engine: Bytes::copy_from_slice(value("remote_engine_id")?), params: params.into() })
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

    #[test]
    fn an_offer_goes_on_with_the_allowed_members_alone() {
        let offer = Offer::read(OFFER.as_bytes()).unwrap();
        assert_eq!(offer.engine, "\"d-1\"");
        assert_eq!(
            offer.params,
            r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":"d-1","remote_request_id":"chatcmpl-1","remote_host":"10.0.0.9","remote_port":5601,"remote_block_ids":[[4, 5]],"remote_num_tokens":40,"remote_blocks_expiry_time":123456.789,"tp_size":1,"dcp_size":1,"pp_size":1,"transfer_mode":"pull"}"#
        );
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
            assert_eq!(Offer::read(OFFER.replace(from, to).as_bytes()), None, "{to}");
        }
        for other in ["null", "[1]", "\"x\"", ""] {
            assert_eq!(Offer::read(other.as_bytes()), None, "{other}");
        }
        let huge = OFFER.replace("4, 5", &"123456,".repeat(MAX_BYTES / 7 + 1));
        assert_eq!(Offer::read(huge.replace(",]", "]").as_bytes()), None);
    }
}
