//! An emulator inside another program: what integration tests start, ask and stop.
//!
//! It runs on a thread and runtime of its own, so a test that blocks or a runtime that ends does not change the
//! engine's behaviour.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::config::{Config, Speeds};
use crate::faults::Faults;
use crate::http::seen::SeenRequest;
use crate::listening::{Listening, Ports};
use crate::server::{self, Shared};
use crate::state::State;

/// A running emulator. Dropping it stops it.
pub struct Emulator {
    shared: Arc<Shared>,
    ports: Ports,
    thread: Option<JoinHandle<()>>,
}

type Started = io::Result<(Arc<Shared>, Ports)>;

impl Emulator {
    /// Binds the ports and starts serving. To bring a stopped or crashed emulator back at the same place, start
    /// another one with its ports.
    ///
    /// # Errors
    /// When the configuration makes no sense or a port cannot be bound.
    ///
    /// # Panics
    /// When the emulator's thread panics while starting.
    pub async fn start(config: Config) -> io::Result<Self> {
        config.check().map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
        let (tell, told) = oneshot::channel();
        let thread = thread::Builder::new().name("emulator".into()).spawn(move || run(config, tell))?;
        let (shared, ports) = told.await.expect("the thread tells before it ends")?;
        Ok(Self { shared, ports, thread: Some(thread) })
    }

    /// Where HTTP is served.
    pub fn addr(&self) -> SocketAddr {
        self.ports.http
    }

    /// The address as a header value: `127.0.0.1:8100`.
    pub fn host_port(&self) -> String {
        self.ports.http.to_string()
    }

    /// The port that serves KV blocks.
    pub fn kv_port(&self) -> u16 {
        self.ports.kv
    }

    /// The port of the bootstrap server.
    pub fn bootstrap_port(&self) -> u16 {
        self.ports.bootstrap
    }

    /// The port that serves KV under request ids.
    pub fn p2p_port(&self) -> u16 {
        self.ports.p2p
    }

    /// The port on which prefill engines deliver KV.
    pub fn notify_port(&self) -> u16 {
        self.ports.notify
    }

    /// What the engine holds right now.
    pub fn state(&self) -> State {
        self.shared.engine().state()
    }

    /// Replaces the faults in force.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.settings.faults.set(faults);
    }

    /// The faults still in force.
    pub fn faults(&self) -> Faults {
        self.shared.settings.faults.get()
    }

    /// Changes the speeds; running requests follow from their next token or chunk on.
    pub fn set_speeds(&self, speeds: Speeds) {
        self.shared.settings.set_speeds(speeds);
    }

    /// A new engine life: new id, no KV, no leases, counters at zero, every connection reset.
    pub fn restart(&self) {
        self.shared.restart(None);
    }

    /// The last requests (at most 256), oldest first.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.shared.seen.last(usize::MAX)
    }

    /// Forgets the requests seen so far.
    pub fn clear_requests(&self) {
        self.shared.seen.clear();
    }

    /// Whether the server still runs; false after a `crash` fault.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Stops: closes the listeners and every connection, and waits for the thread.
    pub fn stop(mut self) {
        self.end();
    }

    /// Waits until the server has ended by itself (the `crash` fault). Blocks the calling thread.
    pub fn wait(mut self) {
        self.join();
    }

    fn end(&mut self) {
        self.shared.stop();
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic was already printed by the thread; tearing down a test twice helps nobody.
            let _ = thread.join();
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(config: Config, tell: oneshot::Sender<Started>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = tell.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        match begin(config).await {
            Ok((shared, listening, ports)) => {
                if tell.send(Ok((Arc::clone(&shared), ports))).is_ok() {
                    server::serve(shared, listening).await;
                }
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        }
    });
    // Dropping the runtime drops every task, and with them every connection.
}

async fn begin(config: Config) -> io::Result<(Arc<Shared>, Listening, Ports)> {
    let listening = Listening::bind(&config).await?;
    let ports = listening.ports()?;
    Ok((Shared::new(config, ports), listening, ports))
}
