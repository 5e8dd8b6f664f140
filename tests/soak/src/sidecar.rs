//! The sidecar under test: a process of its own, known only by what it says and what the kernel says of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::Result;
use crate::args::Args;
use crate::fleet::Fleet;
use crate::ports::Ports;

/// How long it may take until it listens.
const START: Duration = Duration::from_secs(20);

/// How long it may take to stop when nothing runs any more.
const STOP: Duration = Duration::from_secs(30);

/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(20);

/// Bytes of its log that are kept in sidecar.log: what a few hundred thousand requests say.
const MAX_LOG: usize = 128 << 20;

/// How long a disaggregated request may take: more than twice the longest honest answer, 24 tokens at a slow engine's
/// pace, as others may need the machine too.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a prefill may take.
const PREFILL_TIMEOUT: Duration = Duration::from_secs(20);

/// A running sidecar. Dropping it kills it.
pub(crate) struct Sidecar {
    child: Child,
    pub(crate) address: SocketAddr,
    /// Where it tells its metrics.
    pub(crate) metrics: SocketAddr,
    said: Arc<Mutex<Said>>,
    reader: Option<JoinHandle<()>>,
    stderr: PathBuf,
}

/// What it has said in its log.
#[derive(Debug, Default, Clone, serde::Serialize)]
pub(crate) struct Said {
    /// Requests by outcome.
    pub(crate) outcomes: BTreeMap<String, u64>,
    /// Warnings and errors, by their words.
    pub(crate) complaints: BTreeMap<String, u64>,
    /// Lines that are no JSON.
    pub(crate) unreadable: Vec<String>,
    /// The last word: what became of all KV.
    pub(crate) stopped: Option<Value>,
}

/// How it ended.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Ended {
    /// `None`: it was killed, by us if it did not stop in time.
    pub(crate) code: Option<i32>,
    pub(crate) said: Said,
    /// What it wrote to standard error.
    pub(crate) stderr: String,
}

impl Sidecar {
    /// Starts it in front of the fleet's decode engine.
    ///
    /// # Errors
    /// It does not start, or does not listen in time.
    pub(crate) fn start(args: &Args, fleet: &Fleet, ports: &mut Ports) -> Result<Self> {
        let (port, metrics) = (ports.next()?, ports.next()?);
        let shared = fleet.shared;
        let stderr = args.out.join("sidecar.err");
        let program = &args.sidecar;
        let mut child = Command::new(program)
            .arg("--secure-serving=false")
            .arg(format!("--port={port}"))
            .arg(format!("--metrics-port={metrics}"))
            .arg(format!("--model-server-port={}", fleet.decode.address.port()))
            .arg(format!("--kv-connector={}", args.connector))
            .arg(format!("--mooncake-bootstrap-port={}", shared.bootstrap))
            .env("SGLANG_BOOTSTRAP_PORT", shared.bootstrap.to_string())
            .arg(format!("--p2p-connector-port={}", shared.p2p))
            .arg(format!("--moriio-decode-notify-port={}", shared.notify))
            .arg(format!("--moriio-prefill-notify-port={}", shared.notify))
            .arg(format!("--request-timeout={}s", REQUEST_TIMEOUT.as_secs()))
            .arg(format!("--prefill-timeout={}s", PREFILL_TIMEOUT.as_secs()))
            .arg("--connect-timeout=2s")
            // Any prefill here ends within it, so no KV can be lost to a cancel in the very moment of its end.
            .arg("--prefill-cancel-grace=10s")
            .args(&args.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr)?)
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let said = Arc::new(Mutex::new(Said::default()));
        let (stdout, to) = (child.stdout.take().ok_or("stdout was not piped")?, Arc::clone(&said));
        let mut log = BufWriter::new(File::create(args.out.join("sidecar.log"))?);
        let reader = std::thread::spawn(move || {
            let mut room = MAX_LOG;
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                to.lock().unwrap_or_else(PoisonError::into_inner).hear(&line);
                room = room.saturating_sub(line.len());
                if room > 0 {
                    // A full disk costs the copy, not the run.
                    let _ = writeln!(log, "{line}");
                }
            }
        });
        let at = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, metrics) = (at(port), at(metrics));
        let mut sidecar = Self { child, address, metrics, said, reader: Some(reader), stderr };
        sidecar.listens()?;
        Ok(sidecar)
    }

    fn listens(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        while TcpStream::connect(self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the sidecar ended with {status}: {}", self.stderr()).into());
            }
            if Instant::now() >= deadline {
                return Err(format!("the sidecar does not listen after {} s", START.as_secs()).into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Stops it as a kubelet would.
    ///
    /// # Errors
    /// It cannot be signalled or waited for.
    pub(crate) fn stop(mut self) -> Result<Ended> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        // It may have ended already; its exit code will tell.
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + STOP;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                self.child.kill()?;
                break self.child.wait()?;
            }
            std::thread::sleep(LOOK);
        };
        if let Some(reader) = self.reader.take() {
            // Ends with the pipe; a panic there was printed already.
            let _ = reader.join();
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Ended { code: status.code(), said, stderr: self.stderr() })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// Unreadable lines that are kept.
    const UNREADABLE: usize = 5;

    fn hear(&mut self, line: &str) {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            if self.unreadable.len() < Self::UNREADABLE {
                self.unreadable.push(line.to_owned());
            }
            return;
        };
        let fields = &line["fields"];
        let message = fields["message"].as_str().unwrap_or_default();
        match message {
            "request" => {
                let outcome = fields["outcome"].as_str().unwrap_or("none").to_owned();
                *self.outcomes.entry(outcome).or_default() += 1;
            }
            "stopped" => self.stopped = Some(fields.clone()),
            message if line["level"] != "INFO" => {
                *self.complaints.entry(message.to_owned()).or_default() += 1;
            }
            _ => {}
        }
    }

    /// KV handles that were never settled, by its last word.
    pub(crate) fn outstanding(&self) -> Option<u64> {
        self.stopped.as_ref()?["kv_outstanding"].as_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_counted_as_it_comes() {
        let mut said = Said::default();
        for line in [
            r#"{"level":"INFO","fields":{"message":"request","outcome":"ok"}}"#,
            r#"{"level":"INFO","fields":{"message":"request","outcome":"ok"}}"#,
            r#"{"level":"WARN","fields":{"message":"careful"}}"#,
            r#"{"level":"INFO","fields":{"message":"listening"}}"#,
            "oops",
            r#"{"level":"INFO","fields":{"message":"stopped","kv_outstanding":3}}"#,
        ] {
            said.hear(line);
        }
        assert_eq!(said.outcomes, BTreeMap::from([("ok".to_owned(), 2)]));
        assert_eq!(said.complaints, BTreeMap::from([("careful".to_owned(), 1)]));
        assert_eq!((said.unreadable, said.stopped.is_some()), (vec!["oops".to_owned()], true));
        assert_eq!(Said { stopped: said.stopped, ..Said::default() }.outstanding(), Some(3));
    }
}
