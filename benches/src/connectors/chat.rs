//! The load: each client talks through a chat of two turns, a kilobyte each, with the routing header that makes them
//! disaggregated, now with the base and now with the side that is compared with it. So both serve the same number of
//! requests in the same moments, whatever else the machine does.
//!
//! Two turns, because only a second turn can make use of what the first one left.

use std::net::SocketAddr;

use kvferry_contract::headers::PREFILLER;

use crate::load::{Job, Leg, body};

/// The route under load.
const PATH: &str = "/v1/chat/completions";

/// A turn's body, bytes; the second is longer by the reply and one question.
const BODY: usize = 1024;

/// Turns of a chat, each a request.
pub(super) const TURNS: u64 = 2;

/// What the decode engine replies to the first turn.
pub(super) const REPLY: &str = "bafiku";

/// The header and the token by which a sidecar knows that it served the first turn: base64 of `llm/decode-0-rank-0`.
const SESSION: &str = "x-session-token: bGxtL2RlY29kZS0wLXJhbmstMA==\r\n";

/// What client `number` does: its chat with either of two sidecars, to the prefill engine at `prefill`. Half of the
/// clients begin with the other one.
pub(super) fn job(number: usize, mut sidecars: [SocketAddr; 2], prefill: SocketAddr) -> Job {
    if number % 2 == 1 {
        sidecars.reverse();
    }
    Job { legs: sidecars.into_iter().flat_map(|sidecar| chat(number, sidecar, prefill)).collect() }
}

/// The chat of client `number`. No two clients talk of the same thing.
fn chat(number: usize, sidecar: SocketAddr, prefill: SocketAddr) -> [Leg; 2] {
    let members = format!(r#""max_tokens":16,"stream":false,"cache_salt":"client-{number}""#);
    let first = body::chat(BODY, &members);
    let next = format!(
        r#""}},{{"role":"assistant","content":"{REPLY}"}},{{"role":"user","content":"Why?"}}],"model""#
    );
    let second = first.replacen(r#""}],"model""#, &next, 1);
    let routing = format!("{}: {prefill}\r\n", PREFILLER.old);
    let leg = |headers: &str, body: &str| Leg {
        address: sidecar,
        request: body::post(sidecar, PATH, headers, body),
        frames: None,
    };
    [leg(&routing, &first), leg(&format!("{routing}{SESSION}"), &second)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn bodies(number: usize) -> [serde_json::Value; 2] {
        let body = |leg: &Leg| {
            let text = std::str::from_utf8(&leg.request).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("\r\nx-prefiller-host-port: 127.0.0.1:2\r\n"), "{head}");
            serde_json::from_str(body).unwrap()
        };
        chat(number, address(1), address(2)).map(|leg| body(&leg))
    }

    #[test]
    fn the_second_turn_is_the_first_with_its_reply_and_a_question() {
        let [first, second] = bodies(3);
        let asked = first["messages"].as_array().unwrap();
        let continued = second["messages"].as_array().unwrap();
        assert_eq!(&continued[..asked.len()], &asked[..]);
        assert_eq!(continued.len(), asked.len() + 2);
        assert_eq!(continued[asked.len()]["content"], REPLY);
        assert_eq!((&first["model"], &first["cache_salt"]), (&second["model"], &second["cache_salt"]));
    }

    #[test]
    fn both_sidecars_get_the_same_and_neither_always_comes_first() {
        let ports = |number| {
            job(number, [address(1), address(3)], address(2))
                .legs
                .iter()
                .map(|leg| leg.address.port())
                .collect::<Vec<_>>()
        };
        assert_eq!((ports(0), ports(1)), (vec![1, 1, 3, 3], vec![3, 3, 1, 1]));
    }

    #[test]
    fn clients_do_not_share_a_chat() {
        assert_ne!(bodies(1)[0]["cache_salt"], bodies(2)[0]["cache_salt"]);
    }
}
