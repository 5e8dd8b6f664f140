//! The engines, and what befalls them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvferry_emulator::{Config, Emulator, Faults, Role, State};
use tokio::time::sleep;

use crate::Result;
use crate::plan::{self, Upset};
use crate::ports::Ports;

/// How long a finished prefill waits for its reader. Short against vLLM's 30 s, so that what a storm makes impossible to
/// release (the answer that named it was lost) is gone soon after; long against every way of an ordinary request.
pub(crate) const LEASE: Duration = Duration::from_secs(20);

/// How often an engine is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long an engine may take to come back on its ports.
const REVIVAL: Duration = Duration::from_secs(20);

/// Ports that are the same at every engine, since the sidecar knows one number for all of them. Each engine has a
/// loopback address of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SharedPorts {
    /// Of the bootstrap servers (sglang, mooncake).
    pub(crate) bootstrap: u16,
    /// Of the engines' P2P tier (offloading).
    pub(crate) p2p: u16,
    /// Where prefill engines deliver what they write themselves (MoRI-IO).
    pub(crate) notify: u16,
}

/// One engine, which may be down for a moment.
pub(crate) struct Engine {
    /// Told in reports.
    pub(crate) name: String,
    /// Where it serves.
    pub(crate) address: SocketAddr,
    config: Config,
    life: Mutex<Option<Emulator>>,
    stalls: AtomicU64,
    lives: AtomicU64,
}

impl Engine {
    async fn start(
        name: String,
        role: Role,
        host: Ipv4Addr,
        shared: SharedPorts,
        ports: &mut Ports,
    ) -> Result<Self> {
        let config = Config {
            role,
            host: host.to_string(),
            port: ports.next()?,
            kv_port: ports.next()?,
            bootstrap_port: shared.bootstrap,
            p2p_port: shared.p2p,
            notify_port: shared.notify,
            speeds: plan::healthy(),
            kv_lease: LEASE,
            abort_timeout: LEASE,
            ..Config::default()
        };
        let emulator = Emulator::start(config.clone()).await?;
        let life = Mutex::new(Some(emulator));
        Ok(Self {
            name,
            address: (host, config.port).into(),
            config,
            life,
            stalls: AtomicU64::new(0),
            lives: AtomicU64::new(1),
        })
    }

    /// What it holds; `None` while it is down.
    pub(crate) fn state(&self) -> Option<State> {
        self.life().as_ref().filter(|life| life.is_running()).map(Emulator::state)
    }

    /// Lives it has had, restarts included.
    pub(crate) fn lives(&self) -> u64 {
        self.lives.load(Ordering::Relaxed)
    }

    /// Requests that it was told to let wait for longer than a client waits.
    pub(crate) fn stalls(&self) -> u64 {
        self.stalls.load(Ordering::Relaxed)
    }

    fn life(&self) -> MutexGuard<'_, Option<Emulator>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_faults(&self, faults: Faults) {
        self.stalls.fetch_add(plan::stalls(&faults), Ordering::Relaxed);
        if let Some(life) = &*self.life() {
            life.set_faults(faults);
        }
    }

    /// Makes it suffer until `end`, then lets it be well again.
    ///
    /// # Errors
    /// It does not come back.
    pub(crate) async fn suffer(self: Arc<Self>, seed: u64, index: u64, end: Instant) -> Result<()> {
        for number in 0.. {
            if Instant::now() >= end {
                break;
            }
            let (upset, lasts) = plan::upset(seed, index, number);
            let mut down = Duration::ZERO;
            match upset {
                Upset::Faults(faults) => self.set_faults(*faults),
                Upset::Speeds(speeds) => {
                    if let Some(life) = &*self.life() {
                        life.set_speeds(speeds);
                    }
                }
                Upset::Restart => {
                    self.lives.fetch_add(1, Ordering::Relaxed);
                    if let Some(life) = &*self.life() {
                        life.restart();
                    }
                }
                Upset::Crash(time) => {
                    down = time;
                    self.set_faults(Faults { crash: true, times: Some(1), ..Faults::default() });
                }
            }
            let until = (Instant::now() + lasts).min(end);
            while Instant::now() < until {
                sleep(LOOK).await;
                self.revive_if_dead(down).await?;
            }
            if let Some(life) = &*self.life() {
                life.set_speeds(plan::healthy());
            }
        }
        self.set_faults(Faults::default());
        // A crash that a request has just set off shows a moment later.
        sleep(LOOK * 4).await;
        self.revive_if_dead(Duration::ZERO).await
    }

    async fn revive_if_dead(&self, down: Duration) -> Result<()> {
        let dead = {
            let mut life = self.life();
            if life.as_ref().is_some_and(Emulator::is_running) { None } else { life.take() }
        };
        let Some(dead) = dead else { return Ok(()) };
        // Waits for the thread, which must not block ours.
        tokio::task::spawn_blocking(|| dead.stop()).await?;
        sleep(down).await;
        let deadline = Instant::now() + REVIVAL;
        loop {
            match Emulator::start(self.config.clone()).await {
                Ok(life) => {
                    *self.life() = Some(life);
                    self.lives.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(format!("engine {} cannot be started again: {error}", self.name).into());
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    async fn end(&self) -> Result<()> {
        let life = self.life().take();
        if let Some(life) = life {
            tokio::task::spawn_blocking(|| life.stop()).await?;
        }
        Ok(())
    }
}

/// Several prefill engines and one decode engine.
pub(crate) struct Fleet {
    pub(crate) prefills: Vec<Arc<Engine>>,
    pub(crate) decode: Arc<Engine>,
    pub(crate) shared: SharedPorts,
}

impl Fleet {
    /// Starts them all.
    ///
    /// # Errors
    /// One cannot be started.
    pub(crate) async fn start(prefills: u8, ports: &mut Ports) -> Result<Self> {
        let shared = SharedPorts { bootstrap: ports.next()?, p2p: ports.next()?, notify: ports.next()? };
        let mut engines = Vec::new();
        for number in 0..prefills {
            // 127.0.0.1 is the decode engine's: it shares its pod with the sidecar.
            let host = Ipv4Addr::new(127, 0, 0, 2 + number);
            let name = format!("prefill {number}");
            engines.push(Arc::new(Engine::start(name, Role::Prefill, host, shared, ports).await?));
        }
        let name = "decode".to_owned();
        let decode = Arc::new(Engine::start(name, Role::Decode, Ipv4Addr::LOCALHOST, shared, ports).await?);
        Ok(Self { prefills: engines, decode, shared })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Engine>> {
        self.prefills.iter().chain([&self.decode])
    }

    /// What is held or running anywhere, in words; `None` if nothing is.
    pub(crate) fn holdings(&self) -> Option<String> {
        let busy: Vec<String> =
            self.all().filter_map(|engine| holding(&engine.name, engine.state())).collect();
        (!busy.is_empty()).then(|| busy.join("; "))
    }

    /// Leases that ran out in the present lives of the engines.
    pub(crate) fn expired(&self) -> u64 {
        self.all().filter_map(|engine| engine.state()).map(|state| state.totals.expired).sum()
    }

    /// Stops them all.
    ///
    /// # Errors
    /// A thread could not be waited for.
    pub(crate) async fn stop(&self) -> Result<()> {
        for engine in self.all() {
            engine.end().await?;
        }
        Ok(())
    }
}

fn holding(name: &str, state: Option<State>) -> Option<String> {
    match state {
        None => Some(format!("{name} is down")),
        Some(state) if state.idle() => None,
        Some(state) => Some(format!(
            "{name}: {} of {} blocks held, {} running, {} waiting, {} leases",
            state.blocks.total - state.blocks.free,
            state.blocks.total,
            state.requests.running,
            state.requests.waiting,
            state.leases.len()
        )),
    }
}
