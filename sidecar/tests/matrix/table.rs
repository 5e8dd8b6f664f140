//! The failure matrix. One line for each answer that some of the columns share.

use crate::column::Column;
use crate::column::Column::{
    Atom, Bidirectional, Chunked, DecodeFirst, FirstToken, Mooncake, MoriIo, MoriIoParallel, Nixl,
    Offloading, Push, Sglang, Shared,
};
use crate::event::Event;
use crate::expect::Engine::{Decode, Prefill};
use crate::expect::Leg::{Again, Cancelled, Chunks, No, Once, OnceMore, Repeated, Twice, Varies};
use crate::expect::Sees::{Answer, Cut, Error, ErrorEvent, Nothing, Words};
use crate::expect::{
    CACHE, End, FED, LEASE, Leg, MAYBE_LEASE, NOTHING, READ, RELEASED, SETTLED, SOME_CACHED, SOME_LEASES,
    Sees, UNFED, UNHEARD, UNPROVEN,
};

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) event: Event,
    pub(crate) cells: &'static [Expected],
}

/// What is expected in these columns.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) columns: &'static [Column],
    pub(crate) sees: Sees<'static>,
    pub(crate) prefill: Leg,
    pub(crate) decode: Leg,
    pub(crate) end: End,
}

const fn row(event: Event, cells: &'static [Expected]) -> Row {
    Row { event, cells }
}

const fn cell(
    columns: &'static [Column],
    sees: Sees<'static>,
    prefill: Leg,
    decode: Leg,
    end: End,
) -> Expected {
    Expected { columns, sees, prefill, decode, end }
}

pub(crate) const MATRIX: &[Row] = &[
    row(
        Event::PrefillRefuses,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, MoriIo, Atom, Offloading, Shared],
                Words(Prefill, 422),
                Once,
                No,
                NOTHING,
            ),
            cell(&[Push, MoriIoParallel, Mooncake, Sglang], Words(Prefill, 422), Once, Cancelled, NOTHING),
            cell(&[DecodeFirst], Words(Prefill, 422), Once, Once, NOTHING),
        ],
    ),
    row(
        Event::PrefillFails,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, MoriIo, Atom, Offloading, Shared],
                Words(Prefill, 503),
                Once,
                No,
                NOTHING,
            ),
            cell(&[Push], Words(Prefill, 503), OnceMore, Cancelled, UNFED),
            cell(&[MoriIoParallel, Mooncake], Words(Prefill, 503), Once, Cancelled, RELEASED),
            cell(&[Sglang], Words(Prefill, 503), Once, Cancelled, NOTHING),
            cell(&[DecodeFirst], Words(Prefill, 503), Once, Once, NOTHING),
        ],
    ),
    row(
        Event::PrefillIsAway,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, Atom, Offloading, Shared],
                Error(502, "prefill_unreachable"),
                No,
                No,
                NOTHING,
            ),
            cell(&[MoriIo], Error(502, "prefill_unreachable"), No, No, RELEASED),
            cell(&[Push], Error(502, "prefill_unreachable"), No, Cancelled, UNFED),
            cell(&[MoriIoParallel, Mooncake], Error(502, "prefill_unreachable"), No, Cancelled, RELEASED),
            cell(&[Sglang], Error(502, "prefill_unreachable"), No, Cancelled, NOTHING),
            cell(&[DecodeFirst], Error(502, "prefill_unreachable"), No, Once, NOTHING),
        ],
    ),
    row(
        Event::PrefillBreaksOff,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, Atom],
                Error(502, "prefill_broke"),
                Once,
                No,
                UNHEARD,
            ),
            cell(&[MoriIo], Error(502, "prefill_broke"), Once, No, RELEASED),
            cell(&[Push], Error(502, "prefill_broke"), Repeated, Cancelled, FED),
            cell(&[MoriIoParallel, Mooncake], Error(502, "prefill_broke"), Once, Cancelled, RELEASED),
            cell(&[Sglang], Error(502, "prefill_broke"), Once, Cancelled, NOTHING),
            cell(&[Offloading], Error(502, "prefill_broke"), Once, No, CACHE),
            cell(&[Shared], Error(502, "prefill_broke"), Once, No, NOTHING),
            cell(&[DecodeFirst], Error(502, "prefill_broke"), Once, Once, NOTHING),
        ],
    ),
    row(
        Event::PrefillTalksNonsense,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, Atom, Offloading],
                Error(502, "prefill_answer_invalid"),
                Once,
                No,
                NOTHING,
            ),
            cell(&[MoriIo], Error(502, "prefill_answer_invalid"), Once, No, RELEASED),
            cell(&[Push], Error(502, "prefill_answer_invalid"), Repeated, Cancelled, FED),
            cell(
                &[MoriIoParallel, Mooncake],
                Error(502, "prefill_answer_invalid"),
                Once,
                Cancelled,
                RELEASED,
            ),
            cell(&[Sglang], Error(504, "decode_stalled"), Once, Once, NOTHING),
            // Decode finds nothing in the storage, and computes the prompt.
            cell(&[Shared], Answer, Once, Once, NOTHING),
            cell(&[DecodeFirst], Answer, Once, Twice, NOTHING),
        ],
    ),
    row(
        Event::PrefillHangs,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, Atom, Offloading, Shared],
                Error(504, "prefill_timeout"),
                Once,
                No,
                NOTHING,
            ),
            cell(&[MoriIo], Error(504, "prefill_timeout"), Once, No, RELEASED),
            cell(&[Push], Error(504, "prefill_timeout"), Repeated, Cancelled, UNFED),
            cell(&[MoriIoParallel, Mooncake], Error(504, "prefill_timeout"), Once, Cancelled, RELEASED),
            cell(&[Sglang], Error(504, "prefill_timeout"), Once, Cancelled, NOTHING),
            cell(&[DecodeFirst], Error(504, "prefill_timeout"), Once, Once, NOTHING),
        ],
    ),
    row(
        Event::BootstrapFails,
        &[
            cell(&[Mooncake], Error(502, "prefill_bootstrap_failed"), No, No, NOTHING),
            cell(&[Sglang], Error(502, "decode_broke"), Cancelled, Once, NOTHING),
        ],
    ),
    row(
        Event::DecodeIsAway,
        &[
            cell(&[Nixl, Chunked, MoriIo, Atom], Error(503, "decode_unreachable"), Once, No, LEASE),
            // It cannot read back what that engine has kept.
            cell(&[Bidirectional], Words(Prefill, 500), Once, No, NOTHING),
            cell(&[FirstToken], Cut, Once, No, LEASE),
            cell(
                &[Push, MoriIoParallel, Mooncake],
                Error(503, "decode_unreachable"),
                Cancelled,
                No,
                MAYBE_LEASE,
            ),
            cell(&[Sglang], Error(503, "decode_unreachable"), Cancelled, No, NOTHING),
            cell(&[Offloading], Error(503, "decode_unreachable"), Once, No, CACHE),
            cell(&[Shared], Error(503, "decode_unreachable"), Once, No, NOTHING),
            cell(&[DecodeFirst], Error(503, "decode_unreachable"), No, No, NOTHING),
        ],
    ),
    row(
        Event::DecodeFails,
        &[
            cell(&[Nixl, Chunked, Bidirectional, MoriIo], Words(Decode, 503), Once, Once, RELEASED),
            cell(&[FirstToken], Cut, Once, Once, RELEASED),
            cell(&[Push, MoriIoParallel, Mooncake], Words(Decode, 503), Cancelled, Once, RELEASED),
            cell(&[Atom], Words(Decode, 503), Once, Once, LEASE),
            cell(&[Sglang], Words(Decode, 503), Cancelled, Once, NOTHING),
            cell(&[Offloading], Words(Decode, 503), Once, Once, CACHE),
            cell(&[Shared], Words(Decode, 503), Once, Once, NOTHING),
            cell(&[DecodeFirst], Words(Decode, 503), No, Once, NOTHING),
        ],
    ),
    row(
        Event::DecodeBreaksOff,
        &[
            cell(&[Nixl, Chunked, MoriIo], Error(502, "decode_broke"), Once, Once, RELEASED),
            cell(&[Bidirectional], Error(502, "decode_broke"), Once, Again, RELEASED),
            cell(&[FirstToken], Cut, Once, Once, RELEASED),
            cell(&[Push], Error(502, "decode_broke"), Cancelled, Again, RELEASED),
            cell(&[MoriIoParallel, Mooncake], Error(502, "decode_broke"), Cancelled, Once, RELEASED),
            cell(&[Atom], Error(502, "decode_broke"), Once, Once, LEASE),
            cell(&[Sglang], Error(502, "decode_broke"), Cancelled, Once, NOTHING),
            cell(&[Offloading], Error(502, "decode_broke"), Once, Once, CACHE),
            cell(&[Shared], Error(502, "decode_broke"), Once, Once, NOTHING),
            cell(&[DecodeFirst], Error(502, "decode_broke"), No, Once, NOTHING),
        ],
    ),
    row(
        Event::DecodeHangs,
        &[
            cell(&[Nixl, Chunked, Bidirectional, MoriIo], Error(504, "decode_stalled"), Once, Once, RELEASED),
            cell(&[FirstToken], Cut, Once, Once, RELEASED),
            cell(&[Push, MoriIoParallel, Mooncake], Error(504, "decode_stalled"), Once, Once, RELEASED),
            cell(&[Atom], Error(504, "decode_stalled"), Once, Once, LEASE),
            cell(&[Sglang], Error(504, "prefill_timeout"), Once, Once, NOTHING),
            cell(&[Offloading], Error(504, "decode_stalled"), Once, Once, CACHE),
            cell(&[Shared], Error(504, "decode_stalled"), Once, Once, NOTHING),
            cell(&[DecodeFirst], Error(504, "decode_stalled"), No, Once, NOTHING),
        ],
    ),
    row(
        Event::WholeAnswerBreaksOff,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, MoriIo],
                Error(502, "decode_broke"),
                Once,
                Once,
                RELEASED,
            ),
            cell(&[Atom], Error(502, "decode_broke"), Once, Once, UNPROVEN),
            cell(&[Push, MoriIoParallel, Mooncake], Error(502, "decode_broke"), Once, Once, RELEASED),
            cell(&[Sglang], Error(502, "decode_broke"), Once, Once, NOTHING),
            cell(&[Offloading, Shared], Cut, Once, Once, NOTHING),
            cell(&[DecodeFirst], Error(502, "decode_broke"), No, Once, NOTHING),
        ],
    ),
    row(
        Event::StreamBreaksOff,
        &[
            cell(
                &[Nixl, FirstToken, Bidirectional, Push, MoriIo, MoriIoParallel, Atom, Mooncake],
                Cut,
                Once,
                Once,
                READ,
            ),
            cell(&[Chunked], ErrorEvent(502), Once, Chunks, READ),
            cell(&[Sglang, Offloading, Shared], Cut, Once, Once, NOTHING),
            cell(&[DecodeFirst], Cut, No, Once, NOTHING),
        ],
    ),
    row(
        Event::StreamHangs,
        &[
            cell(
                &[Nixl, FirstToken, Bidirectional, Push, MoriIo, MoriIoParallel, Atom, Mooncake],
                Cut,
                Once,
                Once,
                READ,
            ),
            cell(&[Chunked], ErrorEvent(504), Once, Chunks, READ),
            cell(&[Sglang, Offloading, Shared], Cut, Once, Once, NOTHING),
            cell(&[DecodeFirst], Cut, No, Once, NOTHING),
        ],
    ),
    row(
        Event::ReleaseIsRefused,
        &[
            cell(&[Nixl, Chunked, Bidirectional, MoriIo, Atom], Words(Decode, 500), Once, Once, LEASE),
            cell(&[FirstToken], Cut, Once, Once, LEASE),
            cell(&[Push, MoriIoParallel, Mooncake], Words(Decode, 500), Cancelled, Once, MAYBE_LEASE),
            cell(&[Sglang], Words(Decode, 500), Cancelled, Once, NOTHING),
            cell(&[Offloading], Words(Decode, 500), Once, Once, CACHE),
            cell(&[Shared], Words(Decode, 500), Once, Once, NOTHING),
            cell(&[DecodeFirst], Words(Decode, 500), No, Once, NOTHING),
        ],
    ),
    row(
        Event::RequestTakesTooLong,
        &[
            cell(
                &[Nixl, Chunked, Bidirectional, Push, MoriIo, MoriIoParallel, Mooncake],
                Error(504, "request_timeout"),
                Once,
                Once,
                RELEASED,
            ),
            cell(&[FirstToken], Cut, Once, Once, RELEASED),
            cell(&[Atom], Error(504, "request_timeout"), Once, Once, LEASE),
            cell(&[Sglang, Shared], Error(504, "request_timeout"), Once, Once, NOTHING),
            cell(&[Offloading], Error(504, "request_timeout"), Once, Once, CACHE),
            cell(&[DecodeFirst], Error(504, "request_timeout"), No, Once, NOTHING),
        ],
    ),
    row(
        Event::ClientLeavesInPrefill,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, Atom, Offloading, Shared],
                Nothing,
                Once,
                No,
                NOTHING,
            ),
            cell(&[MoriIo], Nothing, Once, No, RELEASED),
            cell(&[Push], Nothing, Repeated, Cancelled, FED),
            cell(&[MoriIoParallel, Mooncake], Nothing, Once, Cancelled, RELEASED),
            cell(&[Sglang], Nothing, Once, Cancelled, NOTHING),
            cell(&[DecodeFirst], Nothing, Once, Once, NOTHING),
        ],
    ),
    row(
        Event::ClientLeavesAsPrefillEnds,
        &[
            cell(&[Nixl, FirstToken, Chunked, Bidirectional, MoriIo], Nothing, Once, No, RELEASED),
            cell(&[Push, MoriIoParallel, Mooncake], Nothing, Once, Cancelled, RELEASED),
            cell(&[Atom], Nothing, Once, No, LEASE),
            cell(&[Sglang], Nothing, Once, Cancelled, NOTHING),
            cell(&[Offloading, Shared], Nothing, Once, No, NOTHING),
            cell(&[DecodeFirst], Nothing, Once, Once, NOTHING),
        ],
    ),
    row(
        Event::ClientLeavesBetween,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, Push, MoriIo, MoriIoParallel, Mooncake],
                Nothing,
                Varies,
                Varies,
                SETTLED,
            ),
            cell(&[Atom], Nothing, Varies, Varies, SOME_LEASES),
            cell(&[Offloading], Nothing, Varies, Varies, SOME_CACHED),
            cell(&[Sglang, Shared, DecodeFirst], Nothing, Varies, Varies, NOTHING),
        ],
    ),
    row(
        Event::ClientLeavesInDecode,
        &[
            cell(
                &[Nixl, FirstToken, Chunked, Bidirectional, Push, MoriIo, MoriIoParallel, Mooncake],
                Nothing,
                Once,
                Once,
                RELEASED,
            ),
            cell(&[Atom], Nothing, Once, Once, LEASE),
            cell(&[Sglang], Nothing, Cancelled, Once, NOTHING),
            cell(&[Offloading], Nothing, Once, Once, CACHE),
            cell(&[Shared], Nothing, Once, Once, NOTHING),
            cell(&[DecodeFirst], Nothing, No, Once, NOTHING),
        ],
    ),
    row(
        Event::ClientLeavesInStream,
        &[
            cell(
                &[Nixl, FirstToken, Bidirectional, Push, MoriIo, MoriIoParallel, Atom, Mooncake],
                Nothing,
                Once,
                Once,
                READ,
            ),
            cell(&[Chunked], Nothing, Once, Chunks, READ),
            cell(&[Sglang, Offloading, Shared], Nothing, Once, Once, NOTHING),
            cell(&[DecodeFirst], Nothing, No, Once, NOTHING),
        ],
    ),
    row(Event::MalformedJson, &[cell(&Column::ALL, Error(400, "malformed_body"), No, No, NOTHING)]),
    row(Event::HugeBody, &[cell(&Column::ALL, Error(413, "body_too_large"), No, No, NOTHING)]),
];
