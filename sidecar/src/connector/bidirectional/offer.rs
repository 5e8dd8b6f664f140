//! What a decode engine offers to whoever continues a chat: the `kv_transfer_params` of its answer.

use bytes::Bytes;
use kvferry_splice::scan;

/// Says that it is an offer.
const SWITCH: &str = "do_remote_decode";

/// Members that go on to the prefill engine. An offer without the first [`NEEDED`] is of no use.
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

/// What has to be found in an answer's parameters: the switch, then the members.
const WATCH: [&str; MEMBERS.len() + 1] = {
    let mut watch = [SWITCH; MEMBERS.len() + 1];
    let mut at = 0;
    while at < MEMBERS.len() {
        watch[at + 1] = MEMBERS[at];
        at += 1;
    }
    watch
};

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

impl Offer {
    /// Reads the parameters of a decode answer. `None`: they offer nothing.
    pub(super) fn read(returned: &[u8]) -> Option<Self> {
        let document = scan(returned, &WATCH).ok()?;
        let value = |name| document.value(name).map(|at| &returned[at]);
        if value(SWITCH) != Some(b"true") || returned.len() > MAX_BYTES {
            return None;
        }
        // The members lose at most their white space on the way.
        let mut params = Vec::with_capacity(HEAD.len() + returned.len());
        params.extend_from_slice(HEAD);
        for (at, name) in MEMBERS.into_iter().enumerate() {
            match value(name) {
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
