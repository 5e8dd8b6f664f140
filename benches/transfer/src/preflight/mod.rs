//! Every pair of hosts, each way: a host is asked to measure against each other one, as if somebody had started a run
//! there. What comes of it is a matrix, and a sentence for every pair that is not as it should be.

mod heat;
mod matrix;

use std::fs;
use std::io::{IsTerminal as _, stdout};
use std::path::Path;
use std::time::Duration;

use kvferry_bench_common::{Result, stamp};
use serde::{Deserialize, Serialize};

use crate::cli::{self, PreflightArgs};
use crate::control::Wish;
use crate::control::client::Link;
use crate::control::server::Serving;
use crate::figures::{Sample, figures};
use crate::pattern::{Order, Pattern, Raw};
use crate::place::Where;
use crate::session::{PAIR, Session};
use crate::side::Side;
use crate::work::{Op, Work};

pub use matrix::{Found, Matrix, Verdict};

/// The most hosts: 64 make 4,032 measurements, half an hour.
const MAX_PEERS: usize = 64;

/// The longest that one errand may take, beyond its windows.
const ERRAND_LIMIT: Duration = Duration::from_secs(120);

/// The longest window that a server measures for somebody else.
const MAX_WINDOW: Duration = Duration::from_secs(60);

/// What one host is asked to find out about another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errand {
    /// The other one, as the user wrote it.
    pub peer: String,
    /// As `--backend` spells it.
    pub backend: String,
    /// Threads.
    pub threads: usize,
    /// Streams.
    pub streams: usize,
    /// What is read from it, one transfer at a time.
    pub raw: Raw,
    /// For how long.
    pub window_ms: u64,
}

/// Does an errand, here.
///
/// # Errors
/// When the peer cannot be reached, or asks for more than this server lends.
pub fn run_errand(errand: &Errand, serving: &Serving) -> Result<Found> {
    let work = |raw| Work { op: Op::Read, pattern: Pattern::Raw(raw), batch: 0, depth: 1, checksum: false };
    let whole = work(errand.raw);
    let one = work(Raw { count: 1, ..errand.raw });
    let pieces = whole.pieces()?;
    if pieces.local_extent > serving.max_bytes {
        return Err(format!(
            "{} bytes are beyond this server's --max-bytes {}",
            pieces.local_extent, serving.max_bytes
        )
        .into());
    }
    let side = Side::fabric(&errand.backend, errand.threads, errand.streams)?;
    let link = Link::open(&errand.peer, serving.secret.as_ref())?;
    let place = Where {
        links: vec![link.clone()],
        secret: serving.secret.clone(),
        programs: serving.programs.clone(),
        scratch: std::env::temp_dir(),
    };
    let window = Duration::from_millis(errand.window_ms).min(MAX_WINDOW);
    let mut session = Session::open(&side, &place, PAIR, (pieces.local_extent, pieces.remote_extent))?;
    let mut measured = |name: &str, work: &Work, window: Duration| -> Result<crate::figures::Figures> {
        session.prepare(work)?;
        session.run(Duration::ZERO)?;
        let sample = Sample { cell: name.into(), side: name.into(), round: 0, window: session.run(window)? };
        figures(&[sample], name, name).ok_or_else(|| "a window in which nothing was moved".into())
    };
    let speed = measured("speed", &whole, window)?;
    let latency = measured("latency", &one, window / 4)?.latency.ok_or("no transfer was seen")?;
    let (lane, handshake_ms) = (session.cold.lane.clone(), session.cold.handshake_ms);
    drop(session);
    link.bye()?;
    Ok(Found { lane, gb_per_s: speed.gb_per_s, p50_us: latency.p50_us, p99_us: latency.p99_us, handshake_ms })
}

/// What preflight.json holds.
#[derive(Debug, Serialize)]
struct Results<'a> {
    date: String,
    backend: &'a str,
    block_bytes: u64,
    count: u64,
    threshold: f64,
    median_gb_per_s: Option<f64>,
    peers: &'a [String],
    /// Bytes go from `from` to `to`, which asks for them.
    pairs: Vec<matrix::Pair<'a>>,
    verdicts: &'a [Verdict],
}

/// Measures all pairs.
///
/// # Errors
/// When a host cannot be asked, or a pair failed or is far below the others: which, and what to look at.
pub fn preflight(arguments: &PreflightArgs) -> Result<()> {
    let peers = &arguments.peers;
    if !(2..=MAX_PEERS).contains(&peers.len()) {
        return Err(format!(
            "--peers must be 2 to {MAX_PEERS} hosts that run `kvferry-bench transfer --serve`"
        )
        .into());
    }
    if !(0.0..=1.0).contains(&arguments.threshold) {
        return Err("--threshold must be between 0 and 1".into());
    }
    // A spelling mistake is one sentence, not a matrix of failures.
    Side::fabric(&arguments.backend, arguments.threads, arguments.streams)?;
    let raw = Raw { count: arguments.count, size: arguments.block_bytes, order: Order::Backwards };
    Pattern::Raw(raw).pieces(true)?;
    let secret = cli::secret(arguments.secret_file.as_ref())?;
    let date = stamp::now();
    let mut matrix = Matrix::new(peers.clone());
    for to in 0..peers.len() {
        // One session for each host: it is busy for nobody else while it asks the others.
        let link = Link::open(&peers[to], secret.as_ref());
        for from in (0..peers.len()).filter(|from| *from != to) {
            let errand = Errand {
                peer: peers[from].clone(),
                backend: arguments.backend.clone(),
                threads: arguments.threads,
                streams: arguments.streams,
                raw,
                window_ms: arguments.window_ms,
            };
            let within = ERRAND_LIMIT + Duration::from_millis(2 * arguments.window_ms);
            let found = match &link {
                Ok(link) => link.wish(&Wish::Measure(Box::new(errand)), within),
                Err(error) => Err(error.to_string().into()),
            };
            eprintln!("{}", matrix::progress(&peers[from], &peers[to], &found));
            matrix.set(from, to, found.map_err(|error: kvferry_bench_common::Error| error.to_string()));
        }
        if let Ok(link) = link {
            link.bye()?;
        }
    }
    let verdicts = matrix.verdicts(arguments.threshold, arguments.expect_lane.as_deref());
    print!("{}", heat::terminal(&matrix, stdout().is_terminal()));
    fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("--out {}: {error}", arguments.out.display()))?;
    let results = Results {
        date: date.clone(),
        backend: &arguments.backend,
        block_bytes: arguments.block_bytes,
        count: arguments.count,
        threshold: arguments.threshold,
        median_gb_per_s: matrix.median(),
        peers,
        pairs: matrix.pairs(),
        verdicts: &verdicts,
    };
    write(&arguments.out.join("preflight.json"), &serde_json::to_string_pretty(&results)?)?;
    write(
        &arguments.out.join("preflight.svg"),
        &heat::svg(&matrix, &format!("{}, {date}", arguments.backend)),
    )?;
    if verdicts.is_empty() {
        println!("all {} pairs are as they should be", matrix.pairs().len());
        return Ok(());
    }
    let sentences: Vec<&str> = verdicts.iter().map(|verdict| verdict.sentence.as_str()).collect();
    Err(format!(
        "{} of {} pairs are not as they should be:\n  {}",
        verdicts.len(),
        matrix.pairs().len(),
        sentences.join("\n  ")
    )
    .into())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
