//! The side that listens: lends scratch memory to whoever is let in, until it is interrupted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kvferry_agent::{Agent, Event, Options, Secret};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{Access, RegionId, Span, Token};

use super::Setup;
use super::carriers::{ALL, Me, open};
use super::offer::{LEN, Offer};

/// Peers that are lent memory at a time. More only spoil each other's figures.
const MAX_PEERS: usize = 16;

/// How long memory is lent: far longer than measuring takes.
const LENT: Duration = Duration::from_secs(600);

/// Serves until the process is told to stop. `say`: what the user should know.
///
/// # Errors
/// In words: it cannot listen there, or the machine has no memory to lend.
pub async fn serve(at: SocketAddr, setup: &Setup, say: &mut dyn FnMut(String)) -> Result<(), String> {
    if at.ip().is_unspecified() {
        return Err(format!("listen on the address that peers reach this machine by, not on {}", at.ip()));
    }
    let me = Me::new(at.ip(), "listens");
    let (carriers, refused) = open(&me, &ALL, setup);
    for refused in refused {
        say(format!("without {}: {}", refused.fabric, refused.why));
    }
    let mut options = Options::new(me.name, me.epoch, carriers);
    options.listen = Some(at);
    options.secret = setup.secret.as_deref().map(Secret::new);
    let (agent, mut events) = Agent::open(options).map_err(|error| error.to_string())?;
    let (source, sink) = (scratch()?, scratch()?);
    fill(&source);
    let regions = [&source, &sink].map(|region| agent.register(region.clone()));
    let [Ok(source), Ok(sink)] = regions else { return Err("this machine lends no memory".to_owned()) };
    say(format!("listening; on the other side: kvferry-sidecar doctor --peer {}", listening(&agent, at)));
    let mut lent = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Connected(peer) if lent.len() < MAX_PEERS => {
                let offered = offer(&agent, source, sink).and_then(|(offer, tokens)| {
                    agent.notify(&peer, offer.to_bytes().into()).map(|()| tokens)
                });
                match offered {
                    Ok(tokens) => drop(lent.insert((peer.name().clone(), peer.epoch()), tokens)),
                    Err(error) => say(format!("{peer} gets nothing: {error}")),
                }
            }
            Event::Connected(peer) => {
                say(format!("{peer} gets nothing: {MAX_PEERS} others are measuring"));
                agent.disconnect(&peer);
            }
            Event::Lost(peer, _) => {
                if let Some(tokens) = lent.remove(&(peer.name().clone(), peer.epoch())) {
                    for token in tokens {
                        agent.revoke(token);
                    }
                }
            }
            Event::Notified(..) | Event::Freed(_) => {}
        }
    }
    Ok(())
}

fn listening(agent: &Agent, asked: SocketAddr) -> SocketAddr {
    agent.listening().unwrap_or(asked)
}

fn offer(
    agent: &Agent,
    source: RegionId,
    sink: RegionId,
) -> Result<(Offer, [Token; 2]), kvferry_agent::Error> {
    let until = Instant::now() + LENT;
    let read = agent.grant(Access::Read, vec![Span::new(source, 0, LEN)], until)?;
    let write = agent.grant(Access::Write, vec![Span::new(sink, 0, LEN)], until)?;
    Ok((Offer::new((source, read), (sink, write)), [read, write]))
}

/// Memory to measure with.
pub(super) fn scratch() -> Result<Region, String> {
    let len = usize::try_from(LEN).ok().and_then(NonZeroUsize::new).expect("64 MiB fit any address space");
    Arena::create("kvferry-doctor", len).map_err(|error| error.to_string())
}

/// Bytes that differ from place to place, so that verifying them proves something.
fn fill(region: &Region) {
    const PIECE: u64 = 1 << 16;
    for at in (0..LEN).step_by(1 << 16) {
        let piece: Vec<u8> =
            (at..at + PIECE).map(|place| (place ^ (place >> 8) ^ (place >> 16)).to_le_bytes()[0]).collect();
        // A scratch region is host memory of that length.
        let written = region.write_at(at, &piece);
        debug_assert!(written, "the region is as long as its begin says");
    }
}
