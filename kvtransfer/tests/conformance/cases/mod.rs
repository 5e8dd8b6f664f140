//! What every fabric promises, by topic.

mod data;
mod ends;
mod input;
mod kill;
mod leases;
mod load;
mod meeting;

use std::time::{Duration, Instant};

use crate::command::Footprint;
use crate::random::Random;
use crate::runner::Case;
use crate::side::Side;

macro_rules! cases {
    ($($topic:ident::$case:ident $(=> $limit:path)?),* $(,)?) => {
        &[$(Case {
            name: concat!(stringify!($topic), "::", stringify!($case)),
            run: $topic::$case,
            limit: cases!(@limit $($limit)?),
        }),*]
    };
    (@limit) => { usual };
    (@limit $limit:path) => { $limit };
}

fn usual() -> Duration {
    Duration::from_secs(240)
}

/// A moment of a transfer of some 100 MiB: mostly in the midst of it, on a fast fabric and on a slow one; at times before it
/// has begun, or after its end.
fn sooner_or_later(round: u8, random: &mut Random) -> Duration {
    Duration::from_micros(random.below(if round % 4 < 2 { 12_000 } else { 60_000 }))
}

/// Waits until a process has let go of all that it had not when it was idle, but for the descriptors that its fabric keeps.
/// A fabric may tidy up in its own time.
fn lets_go(side: &mut Side, idle: Footprint, kept: usize) {
    let start = Instant::now();
    let is_idle = |now: Footprint| {
        now.mappings == idle.mappings
            && (idle.descriptors..=idle.descriptors + kept).contains(&now.descriptors)
    };
    while !is_idle(side.footprint()) {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "{:?} is kept instead of {idle:?}",
            side.footprint()
        );
        side.poll(10);
    }
}

pub const ALL: &[Case] = cases![
    data::blocks_of_every_size_arrive_as_they_were,
    data::twenty_thousand_scattered_blocks_arrive,
    data::a_transfer_of_nothing_is_done_and_its_message_comes,
    data::a_gibibyte_arrives,
    data::a_message_comes_after_the_bytes_of_its_transfer,
    data::a_message_comes_after_the_bytes_of_transfers_that_were_done,
    data::memory_that_is_no_arena_is_moved_or_refused,
    data::regions_come_and_go_while_connected,
    load::both_directions_are_moved_at_the_same_time,
    load::four_peers_are_served_at_the_same_time,
    load::a_small_transfer_ends_while_a_large_one_runs,
    meeting::two_that_meet_at_the_same_time_have_one_connection,
    meeting::whoever_is_met_twice_keeps_its_number,
    meeting::whoever_was_only_met_hears_messages_and_of_the_end,
    meeting::whoever_parts_ends_what_is_under_way_and_may_come_again,
    meeting::a_peer_of_another_epoch_is_another_peer,
    meeting::a_stale_epoch_is_told,
    meeting::nobody_at_home_is_a_loss,
    input::metadata_cut_anywhere_is_refused,
    input::foreign_metadata_and_other_versions_are_refused,
    input::ranges_that_cannot_be_are_refused_at_once,
    input::unknown_peers_and_too_long_messages_are_refused,
    leases::what_no_lease_allows_is_refused_and_touches_nothing,
    leases::a_lease_revoked_in_mid_write_is_freed_and_nothing_is_written_after,
    leases::a_lease_revoked_in_mid_read_is_freed_and_no_later_byte_is_read,
    leases::an_owner_that_parts_in_mid_read_may_use_its_bytes_at_once,
    leases::a_lease_that_expires_in_mid_write_is_freed,
    leases::a_lease_is_freed_once,
    leases::bytes_that_are_not_registered_cannot_be_leased,
    ends::a_cancelled_transfer_ends_and_writes_nothing_after,
    ends::a_transfer_past_its_deadline_ends,
    ends::a_peer_that_stands_still_keeps_no_deadline_waiting,
    ends::a_peer_killed_in_mid_transfer_fails_what_was_under_way_and_is_lost,
    ends::closing_under_load_ends_everything,
    ends::a_region_in_use_cannot_be_forgotten,
    ends::the_wake_descriptor_is_readable_exactly_while_there_are_events,
    kill::either_side_killed_at_any_moment_costs_only_what_was_under_way => kill::limit,
];
