//! Who is compared, and the request that each side is sent for the same job.

use std::net::SocketAddr;

use kvferry_contract::headers::PREFILLER;

use super::plan::Streaming;
use crate::load::{Job, Leg, body};

/// The route under load, the one that P/D serving exists for.
pub(super) const PATH: &str = "/v1/chat/completions";

/// What the prefill engine is asked, besides the prompt: one token, and to keep its KV cache for the decode engine.
pub(super) const PREFILL_MEMBERS: &str = r#""max_tokens":1,"stream":false,"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

/// What a side is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The client asks the engines itself: what the others' latencies are counted from.
    Direct,
    /// The bare hyper forwarder.
    Forwarder,
    /// The sidecar.
    Sidecar,
    /// vllm-router in P/D mode.
    Router,
    /// Another proxy that somebody else started.
    Peer,
}

/// One side of the comparison.
#[derive(Debug, Clone)]
pub struct Side {
    /// As in the table and the JSON.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Whether a request runs on two engines (prefill, then decode) instead of on the decode engine alone.
    pub split: bool,
    /// Where its requests go.
    pub address: SocketAddr,
    /// The proxy's process, where there is one and it is known.
    pub pid: Option<u32>,
}

/// The two engines behind all sides.
#[derive(Debug, Clone)]
pub struct Engines {
    /// Address of the prefill engine.
    pub prefill: SocketAddr,
    /// Address of the decode engine.
    pub decode: SocketAddr,
    /// What the prefill engine hands over, as JSON text, for clients that do without a proxy.
    pub handoff: String,
}

/// The requests of one job: the same prompt and the same answer on every side.
pub fn job(engines: &Engines, side: &Side, body_bytes: usize, streaming: Option<Streaming>) -> Job {
    let mut headers = String::new();
    let mut members = String::from(r#""max_tokens":16,"stream":false"#);
    if let Some(Streaming { frames, pace_us }) = streaming {
        members = format!(r#""max_tokens":{frames},"stream":true"#);
        // Told twice: a router that drops headers it does not know still passes on `tracestate`.
        headers = format!(
            "x-emulator-frames: {frames}\r\nx-emulator-itl-us: {pace_us}\r\ntracestate: emulator=f{frames}_i{pace_us}\r\n"
        );
    }
    let frames = streaming.map(|streaming| streaming.frames);
    if side.role != Role::Direct {
        if side.split {
            headers = format!("{}: {}\r\n{headers}", PREFILLER.old, engines.prefill);
        }
        let request = body::post(side.address, PATH, &headers, &body::chat(body_bytes, &members));
        return Job { legs: vec![Leg { address: side.address, request, frames }] };
    }
    let mut legs = Vec::new();
    if side.split {
        let request = body::post(engines.prefill, PATH, "", &body::chat(body_bytes, PREFILL_MEMBERS));
        legs.push(Leg { address: engines.prefill, request, frames: None });
        members = format!(r#"{members},"kv_transfer_params":{}"#, engines.handoff);
    }
    let request = body::post(engines.decode, PATH, &headers, &body::chat(body_bytes, &members));
    legs.push(Leg { address: engines.decode, request, frames });
    Job { legs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engines() -> Engines {
        Engines {
            prefill: "127.0.0.1:1".parse().unwrap(),
            decode: "127.0.0.1:2".parse().unwrap(),
            handoff: r#"{"do_remote_prefill":true}"#.to_owned(),
        }
    }

    fn side(role: Role, split: bool) -> Side {
        let address = "127.0.0.1:3".parse().unwrap();
        Side { name: String::new(), role, split, address, pid: None }
    }

    fn text(leg: &Leg) -> &str {
        std::str::from_utf8(&leg.request).unwrap()
    }

    #[test]
    fn going_direct_the_client_sends_both_legs_and_carries_the_handoff() {
        let job = job(&engines(), &side(Role::Direct, true), 1024, Some(Streaming { frames: 3, pace_us: 9 }));
        let [prefill, decode] = &job.legs[..] else { panic!("two legs") };
        assert_eq!((prefill.address.port(), prefill.frames), (1, None));
        assert_eq!((decode.address.port(), decode.frames), (2, Some(3)));
        assert!(
            text(prefill).contains(r#""do_remote_decode":true"#) && !text(prefill).contains("x-emulator")
        );
        assert!(text(decode).contains(r#""kv_transfer_params":{"do_remote_prefill":true}"#));
        assert!(text(decode).contains("tracestate: emulator=f3_i9\r\n"));
    }

    #[test]
    fn a_proxy_gets_one_leg_and_the_routing_header_only_for_pd() {
        let split = job(&engines(), &side(Role::Sidecar, true), 1024, None);
        assert_eq!(split.legs.len(), 1);
        assert!(text(&split.legs[0]).contains("x-prefiller-host-port: 127.0.0.1:1\r\n"));
        let through = job(&engines(), &side(Role::Sidecar, false), 1024, None);
        assert!(!text(&through.legs[0]).contains("prefiller"));
    }
}
