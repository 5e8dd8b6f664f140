//! Who a pushing prefill engine is: the part of its answer that is the same for every request, and new in every life of
//! the engine. With it a decode leg can ask for KV before prefill has answered.
//!
//! Values are kept as the text that the engine wrote, and compared as such.

use bytes::Bytes;
use kvferry_splice::scan;

/// Members, and whether an engine without them can be asked early. The engine id is the epoch: it alone makes an identity
/// of a former life another one.
const MEMBERS: [(&str, bool); 7] = [
    ("remote_engine_id", true),
    ("remote_host", true),
    ("remote_port", true),
    ("tp_size", true),
    ("transfer_mode", true),
    ("pp_size", false),
    ("dcp_size", false),
];

/// What has to be found in parameters, in the order above.
const WATCH: [&str; MEMBERS.len()] = {
    let mut watch = [""; MEMBERS.len()];
    let mut at = 0;
    while at < MEMBERS.len() {
        watch[at] = MEMBERS[at].0;
        at += 1;
    }
    watch
};

/// Room for an identity as most are, in bytes.
const TYPICAL: usize = 256;

/// An engine in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The members with their values, separated by commas, in the order above.
    members: Bytes,
}

impl Identity {
    /// The identity in the parameters that a prefill leg returned; `None` if that engine does not push, or does not say
    /// enough.
    pub(super) fn read(returned: &[u8]) -> Option<Self> {
        let document = scan(returned, &WATCH).ok()?;
        let mut values = [None; MEMBERS.len()];
        for (watched, at) in document.found() {
            values[watched] = Some(&returned[at]);
        }
        let mut members = Vec::with_capacity(TYPICAL);
        for ((name, needed), value) in MEMBERS.into_iter().zip(values) {
            let Some(value) = value else {
                if needed {
                    return None;
                }
                continue;
            };
            // Texts and numbers: anything else is no part of a name.
            let plain =
                value.first().is_some_and(|first| matches!(first, b'"' | b'0'..=b'9')) && value != b"\"\"";
            if !plain || name == "transfer_mode" && value != b"\"push\"" {
                return None;
            }
            if !members.is_empty() {
                members.push(b',');
            }
            for part in [b"\"", name.as_bytes(), b"\":", value] {
                members.extend_from_slice(part);
            }
        }
        Some(Self { members: members.into() })
    }

    /// `kv_transfer_params` of a decode leg that waits for this engine's KV under `transfer_id`.
    pub(super) fn params(&self, transfer_id: &str, request_id: &str) -> Bytes {
        let parts: [&[u8]; 7] = [
            br#"{"do_remote_prefill":true,"do_remote_decode":false,"#,
            &self.members,
            // Nothing is known under the request id yet, but vLLM reads the member without a default.
            br#","remote_request_id":""#,
            request_id.as_bytes(),
            br#"","transfer_id":""#,
            transfer_id.as_bytes(),
            br#""}"#,
        ];
        parts.concat().into()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const ANSWER: &str = r#"{"do_remote_prefill":true,"remote_block_ids":[[1]],"remote_request_id":"r","dcp_size": 1,
        "remote_engine_id":"e-1","remote_host":"10.0.0.5","remote_port":5600,"tp_size":2,"transfer_mode":"push"}"#;

    pub(crate) fn engine(id: &str) -> Identity {
        Identity::read(ANSWER.replace("e-1", id).as_bytes()).unwrap()
    }

    #[test]
    fn an_identity_is_what_stays_the_same_between_answers() {
        let other = ANSWER.replace("[[1]]", "[[7,8]]").replace("\"r\"", "\"r2\"");
        assert_eq!(Identity::read(other.as_bytes()).unwrap(), engine("e-1"));
        for (from, to) in [
            ("e-1", "e-2"),
            ("10.0.0.5", "10.0.0.6"),
            ("5600", "5601"),
            ("\"tp_size\":2", "\"tp_size\":4"),
            ("\"dcp_size\": 1", "\"dcp_size\": 2"),
            ("\"dcp_size\": 1", "\"pp_size\": 1"),
        ] {
            let other = ANSWER.replace(from, to);
            assert_ne!(Identity::read(other.as_bytes()).unwrap(), engine("e-1"), "{to}");
        }
    }

    #[test]
    fn who_does_not_push_or_does_not_say_who_it_is_has_none() {
        for (from, to) in [
            ("\"push\"", "\"pull\""),
            ("\"push\"", "null"),
            ("\"remote_engine_id\":\"e-1\",", ""),
            ("\"e-1\"", "null"),
            ("\"e-1\"", "\"\""),
            ("\"e-1\"", "[\"e-1\"]"),
            ("\"tp_size\":2,", ""),
            ("\"dcp_size\": 1", "\"dcp_size\": null"),
        ] {
            assert_eq!(Identity::read(ANSWER.replace(from, to).as_bytes()), None, "{to}");
        }
        assert_eq!(Identity::read(b"null"), None);
    }

    #[test]
    fn a_decode_leg_names_the_engine_but_no_blocks() {
        let params = engine("e-1").params("xfer-1", "id-1");
        assert_eq!(
            params,
            r#"{"do_remote_prefill":true,"do_remote_decode":false,"remote_engine_id":"e-1","remote_host":"10.0.0.5","remote_port":5600,"tp_size":2,"transfer_mode":"push","dcp_size":1,"remote_request_id":"id-1","transfer_id":"xfer-1"}"#
        );
    }
}
