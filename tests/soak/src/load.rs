//! The clients: thousands of them, each with one request at a time, doing what the plan says.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvferry_contract::headers::{PREFILLER, REQUEST_ID};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::client::{Answer, Call, Connection, Protocol};
use crate::expect::Expected;
use crate::outcome::{Outcome, Tally, judge};
use crate::plan::{self, Ask, Client, Phase, Prefill};
use crate::sidecar::REQUEST_TIMEOUT;

/// Clients arrive over so long: a listener's backlog is not what is tested here.
const RAMP: Duration = Duration::from_secs(8);

/// One client in so many speaks HTTP/2.
const HTTP2_ONE_IN: u64 = 5;

/// One client in so many has a small receive buffer, which the answers to a slow reader fill.
const NARROW_ONE_IN: u64 = 8;

/// That buffer, bytes; the kernel doubles it.
const NARROW_BUFFER: u32 = 2048;

/// How long a client waits where the sidecar promises no end: a request without a prefill header is passed through.
const PATIENCE: Duration = REQUEST_TIMEOUT;

/// No request takes longer: the sidecar's own limit, and what a crowded machine adds.
pub(crate) const HUNG: Duration = REQUEST_TIMEOUT.saturating_add(Duration::from_secs(30));

/// Pauses of a slow reader in one answer. An engine that drips byte by byte makes thousands of pieces, and a reader that
/// paused at each would take longer than any limit by itself.
const SLOW_PIECES: u64 = 200;

/// How long a client that sends half a body stays.
const HALF: Duration = Duration::from_millis(300);

/// A kept connection that the sidecar has just closed shows itself within this; then a new one is tried.
const STALE: Duration = Duration::from_secs(1);

/// What all clients share.
pub(crate) struct Load {
    pub(crate) seed: u64,
    pub(crate) sidecar: SocketAddr,
    /// Where prefills run, and last a port on which nobody listens.
    pub(crate) prefills: Vec<String>,
    pub(crate) nobody: String,
    pub(crate) expected: Expected,
    /// Requests under way.
    pub(crate) in_flight: AtomicU64,
}

/// The load of one phase.
struct Shift {
    load: Arc<Load>,
    phase: Phase,
    began: Instant,
    until: Instant,
    tally: Mutex<Tally>,
}

impl Load {
    /// Keeps `streams` clients busy for so long; returns when the last request has ended.
    ///
    /// # Errors
    /// A client's task failed.
    pub(crate) async fn run(self: &Arc<Self>, phase: Phase, streams: u64, lasts: Duration) -> Result<Tally> {
        let began = Instant::now();
        let tally = Mutex::default();
        let shift = Arc::new(Shift { load: Arc::clone(self), phase, began, until: began + lasts, tally });
        let mut clients = JoinSet::new();
        for client in 0..streams {
            clients.spawn(Arc::clone(&shift).client(client, RAMP.mul_f64(ratio(client, streams))));
        }
        while let Some(end) = clients.join_next().await {
            end?;
        }
        let mut tally = shift.tally();
        Ok(std::mem::take(&mut *tally))
    }
}

impl Shift {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn client(self: Arc<Self>, client: u64, arrives: Duration) {
        sleep(arrives).await;
        let mut seat = Seat {
            protocol: if client.is_multiple_of(HTTP2_ONE_IN) { Protocol::Http2 } else { Protocol::Http1 },
            receive_buffer: (client % NARROW_ONE_IN == 1).then_some(NARROW_BUFFER),
            kept: None,
        };
        for number in 0.. {
            let ask = plan::ask(self.load.seed, self.phase, client, number, self.load.prefills.len() as u64);
            sleep(ask.think).await;
            if Instant::now() >= self.until {
                return;
            }
            self.load.in_flight.fetch_add(1, Ordering::Relaxed);
            let sent = Instant::now();
            let id = format!("soak-{:?}-{client}-{number}", self.phase);
            let outcome = timeout(HUNG, self.ask(&mut seat, &ask, id)).await.unwrap_or(Outcome::Hung);
            self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
            if outcome == Outcome::Hung {
                seat.kept = None;
            }
            self.tally().count(&outcome, self.phase == Phase::Calm, || {
                format!(
                    "seed {} {:?} client {client} ({:?}) request {number}, sent {:.1} s into it, took {:.1} s, {ask:?}",
                    self.load.seed,
                    self.phase,
                    seat.protocol,
                    (sent - self.began).as_secs_f64(),
                    sent.elapsed().as_secs_f64()
                )
            });
        }
    }

    async fn ask(&self, seat: &mut Seat, ask: &Ask, id: String) -> Outcome {
        let exchange = self.exchange(seat, ask, id);
        match (ask.client, ask.prefill) {
            (Client::HalfAsked, _) => {
                let _ = timeout(HALF, exchange).await;
                seat.kept = None;
                Outcome::Left
            }
            (Client::LeavesAfter(time), _) => timeout(time, exchange).await.unwrap_or(Outcome::Left),
            (_, Prefill::None) => timeout(PATIENCE, exchange).await.unwrap_or(Outcome::GaveUp),
            _ => exchange.await,
        }
    }

    /// One request. The connection is back in its seat only after a complete answer: whoever drops this has left.
    async fn exchange(&self, seat: &mut Seat, ask: &Ask, id: String) -> Outcome {
        let sent = Instant::now();
        let (mut connection, mut kept) = match seat.connection(self.load.sidecar).await {
            Ok(connection) => connection,
            Err(error) => return Outcome::NoAnswer(format!("no connection: {error}")),
        };
        let mut answer = loop {
            match connection.send(self.call(ask, &id)).await {
                Ok(answer) => break answer,
                Err(_) if kept && sent.elapsed() < STALE => {
                    (connection, kept) =
                        match Connection::open(self.load.sidecar, seat.protocol, seat.receive_buffer).await {
                            Ok(connection) => (connection, false),
                            Err(error) => return Outcome::NoAnswer(format!("no connection: {error}")),
                        };
                }
                Err(error) => return Outcome::NoAnswer(format!("{error:?}")),
            }
        };
        let body = match read(&mut answer, ask.client).await {
            Read::Whole(body) => body,
            Read::Left => return Outcome::Left,
            Read::BrokenOff => return Outcome::BrokenOff,
        };
        seat.kept = Some(connection).filter(|connection| !connection.is_closed());
        let expected = self.load.expected.of(&ask.wish);
        judge(ask, expected, answer.0.status().as_u16(), answer.0.headers(), &body)
    }

    fn call(&self, ask: &Ask, id: &str) -> Call {
        let mut headers = vec![(REQUEST_ID, id.to_owned())];
        let prefills = &self.load.prefills;
        let engine =
            |first: u64| usize::try_from(first).expect("an index of a list fits usize") % prefills.len();
        match ask.prefill {
            Prefill::None => {}
            Prefill::One(first) => headers.push((PREFILLER.old, prefills[engine(first)].clone())),
            Prefill::List(first) => {
                let list = format!("{}, {}", prefills[engine(first)], prefills[engine(first + 1)]);
                headers.push((PREFILLER.new, list));
            }
            Prefill::Nobody => headers.push((PREFILLER.old, self.load.nobody.clone())),
        }
        if ask.trailers {
            headers.push(("te", "trailers".to_owned()));
        }
        let half = ask.client == Client::HalfAsked;
        Call {
            method: http::Method::POST,
            path: ask.wish.api.path(),
            headers,
            body: ask.wish.body(ask.stream, ask.choices).into(),
            half,
        }
    }
}

/// Where a client sits: how it connects, and the connection that it keeps between requests.
struct Seat {
    protocol: Protocol,
    receive_buffer: Option<u32>,
    kept: Option<Connection>,
}

impl Seat {
    /// A connection, and whether it was kept.
    async fn connection(&mut self, to: SocketAddr) -> Result<(Connection, bool)> {
        match self.kept.take().filter(|kept| !kept.is_closed()) {
            Some(kept) => Ok((kept, true)),
            None => Ok((Connection::open(to, self.protocol, self.receive_buffer).await?, false)),
        }
    }
}

enum Read {
    Whole(Bytes),
    Left,
    BrokenOff,
}

async fn read(answer: &mut Answer, client: Client) -> Read {
    let mut body = Vec::new();
    let mut pieces = 0;
    while let Some(piece) = answer.piece().await {
        let Ok(piece) = piece else { return Read::BrokenOff };
        body.extend_from_slice(&piece);
        pieces += 1;
        match client {
            Client::LeavesAt(last) if pieces >= last => return Read::Left,
            Client::Slow(pause) if pieces <= SLOW_PIECES => sleep(pause).await,
            _ => {}
        }
    }
    Read::Whole(body.into())
}

fn ratio(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "numbers of clients are far below 2^53")]
    let ratio = part as f64 / whole as f64;
    ratio
}
