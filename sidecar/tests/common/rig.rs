//! Engines and sidecar under test, and how they are found empty at the end.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_config::{Options, World};
use kvferry_emulator::{Config, Emulator, State};
use kvferry_handoff::Counts;
use kvferry_metrics::{Metrics, Reading, Source};
use kvferry_sidecar::assemble;
use kvferry_sidecar::server::Server;
use kvferry_sidecar::worker::Rank;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Ask, LOOK, PATIENCE, eventually, within};

/// Lease of the emulated engines unless a test says otherwise: so long that running out of it cannot hide KV that the
/// sidecar left behind.
pub(crate) const LEASE: Duration = Duration::from_secs(600);

/// How long a sidecar that is stopped at the end of a test lets its connections finish. They are idle by then.
const STOP: Duration = Duration::from_secs(2);

/// Looks in a row that must find everything empty: the sidecar may be between two steps of one request.
const STEADY: u32 = 5;

/// A sidecar in this process.
pub(crate) struct Sidecar {
    server: Option<Server>,
    address: SocketAddr,
    metrics: Metrics,
}

/// Says nothing: what lives outside the metrics is looked at elsewhere.
struct Nothing;

impl Source for Nothing {
    fn reading(&self) -> Reading {
        Reading::default()
    }
}

impl Sidecar {
    /// One that forwards to the decode engine on `decode_port`.
    pub(crate) fn start(decode_port: u16, flags: &[&str]) -> Self {
        let decoder = format!("--model-server-port={decode_port}");
        let mut args = vec!["--secure-proxy=false", &decoder];
        if !flags.iter().any(|flag| flag.starts_with("--workers")) {
            args.push("--workers=2");
        }
        args.extend(flags);
        let options = options(&args);
        let mut settings = assemble::settings(&options).unwrap();
        // Any free port for the first rank; a test with more of them says where they are.
        let first = &settings.ranks[0];
        if options.ports.data_parallel_size.get() == 1 {
            settings.ranks = vec![Arc::new(Rank { index: 0, port: 0, decoder: Arc::clone(&first.decoder) })];
        }
        let server = Server::start(&settings, options.process.workers.get()).unwrap();
        let address = (Ipv4Addr::LOCALHOST, server.address().port()).into();
        Self { server: Some(server), address, metrics: settings.metrics }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs until the test ends")
    }

    pub(crate) fn ledger(&self) -> Counts {
        self.server().ledger().counts()
    }

    /// What one of its counters says; `series` without the prefix that they all have.
    pub(crate) fn counted(&self, series: &str) -> u64 {
        let text = self.metrics.encode(&Nothing);
        let line =
            text.lines().find_map(|line| line.strip_prefix("llm_d_disagg_sidecar_")?.strip_prefix(series));
        line.unwrap_or_else(|| panic!("no series {series}")).trim().parse().unwrap()
    }

    /// Client connections now.
    pub(crate) fn connections(&self) -> usize {
        self.server().connections()
    }

    /// Ends a test: no KV may be outstanding, before and after the sidecar has stopped.
    pub(crate) async fn end(mut self) -> Counts {
        eventually("no KV is outstanding", || self.ledger().outstanding() == 0).await;
        self.stop(STOP).await
    }

    /// Stops with this much patience for what runs; returns the final account.
    pub(crate) async fn stop(&mut self, patience: Duration) -> Counts {
        let server = self.server.take().expect("it is stopped once");
        let ledger = server.ledger().clone();
        // Stopping blocks, and clients of this test must be able to go on meanwhile. A thread of its own: the runtime would
        // wait for one of its own even when the test has failed.
        let (tell, told) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            server.stop(patience);
            tell.send(())
        });
        within("the sidecar stops", told).await.unwrap();
        let counts = ledger.counts();
        assert_eq!(counts.outstanding(), 0, "KV unaccounted for: {counts:?}");
        counts
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        assert!(
            self.server.is_none() || std::thread::panicking(),
            "the test did not look whether anything was left: call end()"
        );
    }
}

/// What these flags mean, without an environment.
pub(crate) fn options(args: &[&str]) -> Options {
    let world = World { variable: &|_| None, ..World::of_process() };
    let parsed = kvferry_config::parse(args, &assemble::known(), &world);
    parsed.unwrap_or_else(|exit| panic!("{}", exit.text)).options
}

/// How to start a [`Rig`].
pub(crate) struct Setup {
    /// Flags of the sidecar.
    pub(crate) flags: Vec<&'static str>,
    pub(crate) prefill: Config,
    pub(crate) decode: Config,
}

impl Default for Setup {
    fn default() -> Self {
        let engine = Config { kv_lease: LEASE, ..Config::default() };
        Self { flags: Vec::new(), prefill: engine.clone(), decode: engine }
    }
}

impl Setup {
    pub(crate) async fn start(self) -> Rig {
        let prefill = Emulator::start(self.prefill).await.unwrap();
        let decode = Emulator::start(self.decode).await.unwrap();
        let sidecar = Sidecar::start(decode.addr().port(), &self.flags);
        Rig { prefill, decode, sidecar }
    }
}

/// Two engines and the sidecar.
pub(crate) struct Rig {
    pub(crate) prefill: Emulator,
    pub(crate) decode: Emulator,
    pub(crate) sidecar: Sidecar,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Setup::default().start().await
    }

    pub(crate) async fn with(flags: &[&'static str]) -> Self {
        let flags = flags.to_vec();
        Setup { flags, ..Setup::default() }.start().await
    }

    /// Where clients go.
    pub(crate) fn address(&self) -> SocketAddr {
        self.sidecar.address()
    }

    /// A request that is to be disaggregated.
    pub(crate) fn ask(&self, path: &str, body: impl Into<Vec<u8>>) -> Ask {
        Ask::post(path, body).prefill(&self.prefill.host_port())
    }

    /// Waits until neither the sidecar nor an engine holds or does anything.
    pub(crate) async fn settled(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut steady = 0;
        while steady < STEADY {
            let empty = self.sidecar.ledger().outstanding() == 0 && self.engines_are_empty();
            steady = if empty { steady + 1 } else { 0 };
            assert!(Instant::now() < deadline, "left behind: {}", self.holdings());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends a test: nothing may be left, before and after the sidecar has stopped.
    pub(crate) async fn end(mut self) -> Counts {
        self.settled().await;
        let counts = self.sidecar.stop(STOP).await;
        let deadline = Instant::now() + PATIENCE;
        while !self.engines_are_empty() {
            assert!(Instant::now() < deadline, "left after the stop: {}", self.engines());
            tokio::time::sleep(LOOK).await;
        }
        counts
    }

    fn engines_are_empty(&self) -> bool {
        self.prefill.state().idle() && self.decode.state().idle()
    }

    fn engines(&self) -> String {
        let engine =
            |state: State| format!("{:?} {:?} {:?}", state.blocks.held, state.requests, state.leases);
        let (prefill, decode) = (self.prefill.state(), self.decode.state());
        format!("prefill {}; decode {}", engine(prefill), engine(decode))
    }

    fn holdings(&self) -> String {
        format!("{:?}; {}", self.sidecar.ledger(), self.engines())
    }
}

/// A port on which nothing listens and which nobody else gets while the socket lives. Who sets `SO_REUSEADDR`, as
/// servers do, can still bind it.
pub(crate) fn reserve_port() -> (u16, Socket) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_reuse_address(true).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).unwrap();
    let bound = socket.local_addr().unwrap().as_socket().unwrap();
    (bound.port(), socket)
}
