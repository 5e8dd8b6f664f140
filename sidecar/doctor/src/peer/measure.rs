//! The side that asks: moves bytes both ways, over the lane that the agent chooses and over each fabric by itself.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use kvferry_agent::{Agent, Event, Events, Options, Peer, Report, Secret, Transfer, TransferOptions};
use kvferry_transfer::fabric::{Backend, Copying};
use kvferry_transfer::{Place, RegionId, Segment};
use serde::Serialize;

use super::Setup;
use super::carriers::{ALL, Me, Refused, open};
use super::offer::{LEN, Offer};
use super::serve::scratch;

/// How long each direction is measured: long enough for a rate, short enough for a person who waits.
const MEASURE: Duration = Duration::from_secs(1);

/// One transfer's limit. What takes longer is broken.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of a block in the measured transfers: 16 tokens of one layer of a 70B model at TP 1 have 64 KiB of K and V.
const BLOCK: u64 = 64 << 10;

/// Transfers under way at a time, so that the lane never waits for us.
const DEPTH: usize = 2;

/// Reads of one block, one after the other, whose median is the latency.
const ROUNDS: usize = 101;
const SMALL: u64 = 16 << 10;

/// What was measured with one peer.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// As it calls itself.
    pub peer: String,
    /// Over the lane that the agent has chosen.
    pub chosen: Figures,
    /// Each fabric by itself.
    pub each: Vec<Figures>,
    /// Those that could not be used, here or to this peer.
    pub refused: Vec<Refused>,
}

/// One lane's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Which fabric.
    pub fabric: String,
    /// What really carries the bytes, in the fabric's words.
    pub lane: String,
    /// Whether a device or one processor moves them straight into place.
    pub zero_copy: bool,
    /// GB (10^9 bytes) a second from the peer.
    pub read: f64,
    /// And to it.
    pub write: f64,
    /// Microseconds for one read of 16 KiB, the median.
    pub latency_us: f64,
}

/// Measures with the peer at `address` (`host:port`).
///
/// # Errors
/// In words: the peer cannot be reached, or no bytes moved.
pub async fn measure(address: &str, setup: &Setup) -> Result<Measured, String> {
    let at = own_address(address)?;
    let (chosen, peer, mut refused) = with(at, &ALL, address, setup).await?;
    let mut each = Vec::new();
    for backend in ALL {
        if refused.iter().any(|refused| refused.fabric == backend.name()) {
            continue;
        }
        match with(at, &[backend], address, setup).await {
            Ok((figures, ..)) => each.push(figures),
            Err(why) => refused.push(Refused { fabric: backend.name(), why }),
        }
    }
    Ok(Measured { peer, chosen, each, refused })
}

/// The address of this side on the way to the peer: the one that the peer can come back to.
fn own_address(peer: &str) -> Result<std::net::IpAddr, String> {
    let any: SocketAddr = ([0, 0, 0, 0], 0).into();
    let any6: SocketAddr = ([0; 8], 0).into();
    // Nothing is sent: connecting only asks for the route.
    let routed = |from: SocketAddr| {
        let socket = UdpSocket::bind(from)?;
        socket.connect(peer)?;
        socket.local_addr()
    };
    let found = routed(any).or_else(|_| routed(any6));
    found.map(|own| own.ip()).map_err(|error| format!("there is no way to {peer}: {error}"))
}

async fn with(
    at: std::net::IpAddr,
    which: &[Backend],
    address: &str,
    setup: &Setup,
) -> Result<(Figures, String, Vec<Refused>), String> {
    let me = Me::new(at, "asks");
    let (carriers, refused) = open(&me, which, setup);
    if carriers.is_empty() {
        return Err(refused.into_iter().map(|refused| refused.why).collect::<Vec<_>>().join("; "));
    }
    let mut options = Options::new(me.name, me.epoch, carriers);
    options.secret = setup.secret.as_deref().map(Secret::new);
    let (agent, mut events) = Agent::open(options).map_err(|error| error.to_string())?;
    let peer = agent
        .connect(address, None)
        .await
        .map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let offer = offered(&mut events).await?;
    let region = agent.register(scratch()?).map_err(|error| error.to_string())?;
    let ways = Ways { agent: &agent, peer: &peer, region, offer: &offer };
    let figures = ways.figures().await?;
    Ok((figures, peer.name().to_string(), refused))
}

async fn offered(events: &mut Events) -> Result<Offer, String> {
    let wait = async {
        while let Some(event) = events.next().await {
            match event {
                Event::Notified(_, message) => {
                    return Offer::of(&message)
                        .ok_or_else(|| "the peer is no doctor of this version".to_owned());
                }
                Event::Lost(_, error) => return Err(format!("the peer left: {error}")),
                Event::Connected(_) | Event::Freed(_) => {}
            }
        }
        Err("the agent was closed".to_owned())
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .unwrap_or_else(|_| Err("the peer offers nothing; run doctor --listen there".into()))
}

#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

struct Ways<'a> {
    agent: &'a Agent,
    peer: &'a Peer,
    region: RegionId,
    offer: &'a Offer,
}

impl Ways<'_> {
    async fn figures(&self) -> Result<Figures, String> {
        // Warms the lane up, and proves that the bytes are right.
        let report = self.begin(Way::Read, LEN, BLOCK, true).await.map_err(|failure| failure.to_string())?;
        let (fabric, lane, zero_copy) = carried(&report);
        Ok(Figures {
            fabric,
            lane,
            zero_copy,
            read: self.rate(Way::Read).await?,
            write: self.rate(Way::Write).await?,
            latency_us: self.latency().await?,
        })
    }

    fn begin(&self, way: Way, bytes: u64, block: u64, verify: bool) -> Transfer {
        let (region, token) = match way {
            Way::Read => self.offer.source(),
            Way::Write => self.offer.sink(),
        };
        let mut options = TransferOptions::within(LIMIT);
        options.verify = verify;
        let segments = self.segments(region, bytes, block);
        match way {
            Way::Read => self.agent.read(self.peer, token, segments, options),
            Way::Write => self.agent.write(self.peer, token, segments, options),
        }
    }

    /// Blocks in an order that no two of them can be joined in.
    fn segments(&self, remote: RegionId, bytes: u64, block: u64) -> Vec<Segment> {
        let count = bytes / block;
        let place = |region, number: u64| Place { region, offset: number * block };
        let shuffled =
            |number: u64| if number.is_multiple_of(2) { number / 2 } else { count.div_ceil(2) + number / 2 };
        (0..count)
            .map(|number| Segment {
                local: place(self.region, number),
                remote: place(remote, shuffled(number)),
                len: block,
            })
            .collect()
    }

    async fn rate(&self, way: Way) -> Result<f64, String> {
        let since = Instant::now();
        let (mut moved, mut under_way) = (0, std::collections::VecDeque::new());
        loop {
            while under_way.len() < DEPTH && since.elapsed() < MEASURE {
                under_way.push_back(self.begin(way, LEN, BLOCK, false));
            }
            let Some(next) = under_way.pop_front() else { break };
            moved += next.await.map_err(|failure| failure.to_string())?.bytes;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let bytes = moved as f64;
        Ok(bytes / since.elapsed().as_secs_f64() / 1e9)
    }

    async fn latency(&self) -> Result<f64, String> {
        let mut took = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let since = Instant::now();
            self.begin(Way::Read, SMALL, SMALL, false).await.map_err(|failure| failure.to_string())?;
            took.push(since.elapsed());
        }
        took.sort_unstable();
        Ok(took[ROUNDS / 2].as_secs_f64() * 1e6)
    }
}

/// Which lane carried the most: the fabric, what really moved the bytes, and whether that was straight into place.
fn carried(report: &Report) -> (String, String, bool) {
    let Some(most) = report.lanes.iter().max_by_key(|used| used.bytes) else {
        return ("none".to_owned(), "nothing".to_owned(), false);
    };
    let fabric = most.lane.split('#').next().unwrap_or(&most.lane).to_owned();
    match &most.way {
        Some(way) => (fabric, way.to_string(), way.copying == Copying::ZeroCopy),
        None => (fabric, most.lane.to_string(), false),
    }
}
