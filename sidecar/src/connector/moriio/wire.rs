//! The `kv_transfer_params` of both legs. The members are the contract's; MoRI-IO reads them in any order.

use bytes::Bytes;
use kvferry_splice::{Chunks, Document, Edits, scan};
use serde::Serialize;

use super::Ids;
use crate::connector::source;

/// Tells prefill where to write.
#[derive(Serialize)]
struct ToWriter<'a> {
    do_remote_decode: bool,
    do_remote_prefill: bool,
    remote_engine_id: Option<()>,
    remote_block_ids: Option<()>,
    remote_host: String,
    remote_port: Option<()>,
    remote_notify_port: u16,
    remote_dp_rank: u32,
    remote_dp_rank_override: bool,
    remote_handshake_port: u16,
    transfer_id: &'a str,
    tp_size: u32,
    remote_dp_size: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remote_hosts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_dp_size_local: Option<u32>,
}

/// Tells decode who writes.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of the wire format")]
struct ToReader<'a> {
    do_remote_prefill: bool,
    do_remote_decode: bool,
    remote_engine_id: String,
    remote_block_ids: [u32; 0],
    remote_host: &'a str,
    remote_port: u16,
    remote_notify_port: u16,
    remote_dp_rank: u32,
    remote_dp_rank_override: bool,
    remote_handshake_port: u16,
    transfer_id: &'a str,
    tp_size: u32,
    remote_dp_size: u32,
    is_request_leader: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_hosts: Option<[&'a str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_dp_size_local: Option<u32>,
}

/// Of the prefill leg. `rank`: on which it is told to run.
pub(super) fn prefill(ids: &Ids, rank: u32) -> Bytes {
    let (write, options) = (&ids.write, &ids.write.options);
    let params = json(&ToWriter {
        do_remote_decode: true,
        do_remote_prefill: false,
        remote_engine_id: None,
        remote_block_ids: None,
        remote_host: write.this_pod(),
        remote_port: None,
        remote_notify_port: options.decode_notify_port,
        remote_dp_rank: rank,
        remote_dp_rank_override: true,
        remote_handshake_port: options.decode_handshake_port,
        transfer_id: &ids.transfer_id,
        tp_size: options.tp_size,
        remote_dp_size: options.dp_size,
        remote_hosts: write.addresses(&options.decode_hosts),
        remote_dp_size_local: write.told_per_pod(&options.decode_hosts),
    });
    source::extend(params, ids.source.as_ref())
}

/// Of a decode leg that knows prefill only from the flags. `rank`: as prefill's pod calls it; to decode that pod is all
/// there is of the group.
pub(super) fn decode_by_flags(ids: &Ids, rank: u32) -> Bytes {
    let options = &ids.write.options;
    let port = options.prefill_handshake_port;
    let host = ids.prefill.host();
    let in_group = !options.remote_hosts.is_empty();
    json(&ToReader {
        do_remote_prefill: true,
        do_remote_decode: false,
        remote_engine_id: if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        },
        remote_block_ids: [],
        remote_host: host,
        remote_port: port,
        remote_notify_port: options.prefill_notify_port,
        remote_dp_rank: rank,
        remote_dp_rank_override: true,
        remote_handshake_port: port,
        transfer_id: &ids.transfer_id,
        tp_size: options.tp_size,
        remote_dp_size: ids.write.ranks.per_pod(),
        is_request_leader: true,
        remote_hosts: in_group.then_some([host]),
        remote_dp_size_local: ids.write.told_per_pod(&options.remote_hosts),
    })
}

/// What is pinned in the parameters that prefill returned, and what is added if they lack it.
const RANK: &str = "remote_dp_rank";
const RANK_RULES: &str = "remote_dp_rank_override";
const LEADER: &str = "is_request_leader";
const TRANSFER_ID: &str = "transfer_id";
const NOTIFY_PORT: &str = "remote_notify_port";
const HANDSHAKE_PORT: &str = "remote_handshake_port";
const SIZE: &str = "remote_dp_size";
const HOSTS: &str = "remote_hosts";
const SIZE_LOCAL: &str = "remote_dp_size_local";
const WATCH: [&str; 9] =
    [RANK, RANK_RULES, LEADER, TRANSFER_ID, NOTIFY_PORT, HANDSHAKE_PORT, SIZE, HOSTS, SIZE_LOCAL];

/// The parameters that prefill returned, read once.
#[derive(Debug)]
pub(super) struct Returned {
    raw: Bytes,
    /// `None` if they are no object, which alone can be completed.
    document: Option<Document<'static>>,
}

impl Returned {
    pub(super) fn new(raw: Bytes) -> Self {
        let document = scan(&raw, &WATCH).ok();
        Self { raw, document }
    }

    /// As they came.
    pub(super) fn raw(&self) -> &Bytes {
        &self.raw
    }

    pub(super) fn is_object(&self) -> bool {
        self.document.is_some()
    }

    /// The rank that they name, as its raw text.
    pub(super) fn rank(&self) -> Option<&[u8]> {
        let at = self.document.as_ref()?.value(RANK)?;
        Some(&self.raw[at])
    }
}

/// Of a decode leg after prefill: what it returned, with `rank` pinned. What is no object goes on as it is.
pub(super) fn decode_by_answer(ids: &Ids, returned: &Returned, rank: u32) -> Bytes {
    let Returned { raw, document: Some(document) } = returned else {
        return returned.raw.clone();
    };
    let (write, options) = (&ids.write, &ids.write.options);
    let mut edits = Edits::new().set(RANK, rank.to_string()).set(RANK_RULES, "true");
    if options.dp_size > 1 {
        // Decode may run on a rank with another number than prefill's, and must ask for the KV all the same.
        edits = edits.set(LEADER, "true");
    }
    let lacks = |name: &str| document.value(name).is_none_or(|at| &raw[at] == b"null");
    if lacks(TRANSFER_ID) {
        edits = edits.set(TRANSFER_ID, format!("\"{}\"", ids.transfer_id));
    }
    if lacks(NOTIFY_PORT) {
        edits = edits.set(NOTIFY_PORT, options.decode_notify_port.to_string());
    }
    if lacks(HANDSHAKE_PORT) {
        edits = edits.set(HANDSHAKE_PORT, options.decode_handshake_port.to_string());
    }
    if lacks(SIZE) {
        edits = edits.set(SIZE, options.dp_size.to_string());
    }
    if !options.remote_hosts.is_empty() && lacks(HOSTS) {
        edits = edits.set(HOSTS, json(&write.addresses(&options.remote_hosts)));
    }
    if let Some(size) = write.told_per_pod(&options.remote_hosts).filter(|_| lacks(SIZE_LOCAL)) {
        edits = edits.set(SIZE_LOCAL, size.to_string());
    }
    edits.apply(document, &Chunks::from(raw.clone())).to_bytes()
}

/// Of a release: `by_flags`, at the address where `returned` says that prefill listens.
pub(super) fn release(by_flags: &Bytes, returned: Option<&Bytes>) -> Bytes {
    const WHERE: [&str; 2] = ["remote_host", NOTIFY_PORT];
    let edited = returned.and_then(|returned| {
        let (said, flags) = (scan(returned, &WHERE).ok()?, scan(by_flags, &WHERE).ok()?);
        let mut edits = Edits::new();
        for name in WHERE {
            if let Some(value) = said.value(name).map(|at| returned.slice(at)).filter(|at| &at[..] != b"null")
            {
                edits = edits.set(name, value);
            }
        }
        Some(edits.apply(&flags, &Chunks::from(by_flags.clone())).to_bytes())
    });
    edited.unwrap_or_else(|| by_flags.clone())
}

/// What the parameters take without a list of hosts, in bytes: they are made for every leg, and grow no more then.
const USUAL: usize = 512;

fn json(value: &impl Serialize) -> Bytes {
    let mut json = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut json, value).expect("texts, numbers and booleans are JSON");
    json.into()
}
