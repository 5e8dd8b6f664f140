//! `kvferry-bench client`: what three HTTP clients cost for the same requests, so that the choice of the one on the
//! sidecar's hot path is a measurement and not a habit.
//!
//! Each sends the same POSTs on one thread over as many kept connections as there are requests under way; the CPU time is
//! this process's, which does nothing else.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cli::ClientArgs;
use crate::load::body;
use crate::num::{float, float_len, median, ratio};
use crate::procfs::{self, Machine};
use crate::proxy::Ratio;
use crate::proxy::process::{Process, http_client};
use crate::{Error, Result};

/// Requests under way at any moment, the same as in the proxy bench's throughput cells.
const CONCURRENT: usize = 32;

/// The route that is asked.
const PATH: &str = "/v1/chat/completions";

/// How often each client is measured, in turns.
const ROUNDS: u32 = 5;

/// Body sizes with their names and the requests of a round: enough for half a second of CPU time.
const SIZES: [(usize, &str, usize); 2] = [(1024, "1kb", 16_000), (220 * 1024, "220kb", 4_000)];

/// By how much a quick run shortens a round.
const QUICK_DIVISOR: usize = 4;

/// The clients, in the order in which each round runs them.
const CLIENTS: [&str; 3] = ["reqwest", "hyper-util legacy", "hyper http1 with own pool"];

/// The client that the others are compared with: what most programs would take.
const BASELINE: &str = CLIENTS[0];

/// One client at one body size.
#[derive(Debug, Serialize)]
struct Cost {
    client: &'static str,
    body: &'static str,
    /// Median over the rounds, CPU-seconds.
    cpu_s_per_1000: f64,
    /// The same over that of the baseline client.
    ratio_to_reqwest: f64,
    /// Median over the rounds.
    requests_per_s: f64,
}

/// Another client than the baseline is worth its code only if it costs less.
const GOAL: f64 = 1.0;

#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    concurrent: usize,
    costs: Vec<Cost>,
    ratios: BTreeMap<String, Ratio>,
}

/// Runs the bench.
///
/// # Errors
/// When the engine cannot be started or a request fails.
pub async fn run(arguments: &ClientArgs) -> Result<()> {
    let logs = arguments.out.join("logs");
    fs::create_dir_all(&logs).map_err(|error| format!("--out {}: {error}", logs.display()))?;
    let (engine, address) = start_engine(&arguments.emulator, &logs).await?;
    let divisor = if arguments.quick { QUICK_DIVISOR } else { 1 };
    let mut costs = Vec::new();
    for (bytes, name, requests) in SIZES {
        costs.extend(measure(address, bytes, name, requests / divisor).await?);
    }
    engine.stop().await;
    print!("{}", table(&costs));
    let ratios = costs
        .iter()
        .filter(|cost| cost.client != BASELINE)
        .map(|cost| {
            (
                format!("{}_vs_reqwest_{}", cost.client.replace([' ', '-'], "_"), cost.body),
                Ratio { value: cost.ratio_to_reqwest, goal: GOAL, at_least: false },
            )
        })
        .collect();
    let results = Results { machine: procfs::machine(), concurrent: CONCURRENT, costs, ratios };
    let path = arguments.out.join("client.json");
    fs::write(&path, serde_json::to_string_pretty(&results)?)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

async fn start_engine(program: &Path, logs: &Path) -> Result<(Process, SocketAddr)> {
    let arguments = ["--role", "decode", "--host", "127.0.0.1", "--port", "0", "--zero", "--workers", "1"]
        .map(str::to_owned);
    let mut engine = Process::start("engine", program, &arguments, true, logs)?;
    let address = engine.ready_line().await?;
    engine.healthy(address).await?;
    Ok((engine, address))
}

/// All clients at one body size, in turns.
///
/// # Errors
/// When a request fails.
async fn measure(
    address: SocketAddr,
    bytes: usize,
    body: &'static str,
    requests: usize,
) -> Result<Vec<Cost>> {
    let text = Bytes::from(body::chat(bytes, r#""max_tokens":16,"stream":false"#));
    let mut spent: [Vec<(f64, f64)>; CLIENTS.len()] = Default::default();
    for round in 0..=ROUNDS {
        for (client, spent) in CLIENTS.iter().zip(&mut spent) {
            let begin = Instant::now();
            let before = procfs::cpu_seconds(std::process::id())?;
            rounds_of(client, address, text.clone(), requests)
                .await
                .map_err(|error| format!("{client}: {error}"))?;
            let cpu = procfs::cpu_seconds(std::process::id())? - before;
            // The first round opens connections and warms caches.
            if round > 0 {
                spent.push((cpu, begin.elapsed().as_secs_f64()));
            }
        }
    }
    let thousands = float_len(requests) / 1000.0;
    let cost = |spent: &[(f64, f64)]| median(spent.iter().map(|(cpu, _)| cpu / thousands)).unwrap_or(0.0);
    let baseline = cost(&spent[0]);
    Ok(CLIENTS
        .iter()
        .zip(&spent)
        .map(|(client, spent)| Cost {
            client,
            body,
            cpu_s_per_1000: cost(spent),
            ratio_to_reqwest: ratio(cost(spent), baseline).unwrap_or(0.0),
            requests_per_s: median(spent.iter().map(|(_, elapsed)| float_len(requests) / elapsed))
                .unwrap_or(0.0),
        })
        .collect())
}

/// `requests` POSTs by one client, [`CONCURRENT`] at a time.
async fn rounds_of(client: &str, address: SocketAddr, body: Bytes, requests: usize) -> Result<()> {
    if client == CLIENTS[0] {
        by_reqwest(address, body, requests).await
    } else if client == CLIENTS[1] {
        by_legacy(address, body, requests).await
    } else {
        by_own_pool(address, body, requests).await
    }
}

async fn by_reqwest(address: SocketAddr, body: Bytes, requests: usize) -> Result<()> {
    let client = http_client()?;
    let url = format!("http://{address}{PATH}");
    concurrently(requests, move || {
        let request = client.post(&url).header(header::CONTENT_TYPE, "application/json").body(body.clone());
        async move { Ok(request.send().await?.error_for_status()?.bytes().await?.len()) }
    })
    .await
}

async fn by_legacy(address: SocketAddr, body: Bytes, requests: usize) -> Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let url = format!("http://{address}{PATH}");
    concurrently(requests, move || {
        let (client, request) = (client.clone(), request(&url, address, body.clone()));
        async move { whole(client.request(request?).await?).await }
    })
    .await
}

async fn by_own_pool(address: SocketAddr, body: Bytes, requests: usize) -> Result<()> {
    let pool = Rc::new(Pool { address, idle: RefCell::default() });
    concurrently(requests, move || {
        let (pool, request) = (Rc::clone(&pool), request(PATH, address, body.clone()));
        async move {
            let mut connection = pool.take().await?;
            let answer = whole(connection.send_request(request?).await?).await?;
            pool.idle.borrow_mut().push(connection);
            Ok(answer)
        }
    })
    .await
}

fn request(uri: &str, address: SocketAddr, body: Bytes) -> Result<Request<Full<Bytes>>> {
    Ok(Request::post(uri)
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?)
}

async fn whole(response: hyper::Response<hyper::body::Incoming>) -> Result<usize> {
    let status = response.status();
    if !status.is_success() {
        return Err(format!("status {status}").into());
    }
    Ok(response.into_body().collect().await?.to_bytes().len())
}

/// The least a pool can be: idle connections to one address, last used first.
struct Pool {
    address: SocketAddr,
    idle: RefCell<Vec<SendRequest<Full<Bytes>>>>,
}

impl Pool {
    async fn take(&self) -> Result<SendRequest<Full<Bytes>>> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(mut connection) = idle else { break };
            // Ready at once, unless the response's last byte has only just been read; then it is in a moment.
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            // It ends when the pool is dropped; an error before that shows at the request.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// Runs `requests` requests, [`CONCURRENT`] clients taking turns until none is left.
async fn concurrently<F>(requests: usize, one: impl Fn() -> F + Clone + 'static) -> Result<()>
where
    F: Future<Output = Result<usize>> + 'static,
{
    let left = Rc::new(Cell::new(requests));
    let mut clients = JoinSet::new();
    for _ in 0..CONCURRENT {
        let (left, one) = (Rc::clone(&left), one.clone());
        clients.spawn_local(async move {
            while let Some(rest) = left.get().checked_sub(1) {
                left.set(rest);
                if one().await? == 0 {
                    return Err("an empty answer".into());
                }
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(joined) = clients.join_next().await {
        joined??;
    }
    Ok(())
}

fn table(costs: &[Cost]) -> String {
    use std::fmt::Write as _;
    let mut text =
        format!("\n{CONCURRENT} concurrent POSTs, one thread, {} rounds\n", float(u64::from(ROUNDS)));
    for cost in costs {
        writeln!(
            text,
            "  {:<6} {:<28} {:>8.4} CPU-s per 1000 requests   {:>6.2}x reqwest   {:>8.0} req/s",
            cost.body, cost.client, cost.cpu_s_per_1000, cost.ratio_to_reqwest, cost.requests_per_s
        )
        .expect("writing to a String cannot fail");
    }
    text
}
