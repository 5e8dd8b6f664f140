//! The processes of a run: started, waited for until they answer, and ended whatever happens, each by its own handle.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::Result;

/// How long a program may take until it answers: a Python program on a cold disk needs several seconds.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How long a program may take to end when asked, before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// How often a program that starts is asked whether it answers.
const READY_POLL: Duration = Duration::from_millis(50);

/// A running program of the bench; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Its process id.
    pub pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it says on stderr goes to `logs/NAME.err`. Its stdout is a pipe when `piped`, else dropped:
    /// a proxy that logs each request does the work of writing, as in production, and nobody stores gigabytes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, program: &Path, arguments: &[String], piped: bool, logs: &Path) -> Result<Self> {
        Self::start_in(&[], name, program, arguments, piped, logs)
    }

    /// The same, with more variables in its environment.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_in(
        environment: &[(&str, String)],
        name: &str,
        program: &Path,
        arguments: &[String],
        piped: bool,
        logs: &Path,
    ) -> Result<Self> {
        let log = logs.join(format!("{name}.err"));
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(if piped { Stdio::piped() } else { Stdio::null() })
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{name}: cannot start {}: {error}", program.display()))?;
        let pid = child.id().ok_or("a process that was just started has an id")?;
        Ok(Self { name: name.to_owned(), child, pid, log })
    }

    /// Reads the ready line `{"ready":"http://HOST:PORT",...}` from a piped stdout.
    ///
    /// # Errors
    /// When it does not come, or is something else.
    pub async fn ready_line(&mut self) -> Result<SocketAddr> {
        let stdout = self.child.stdout.take().ok_or("stdout was not piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let line =
            tokio::time::timeout(READY_LIMIT, lines.next_line()).await.map_err(|_| self.silent())??;
        let line = line.ok_or_else(|| self.silent())?;
        // Kept open and read: a program whose stdout is closed would fail at its next word.
        tokio::task::spawn_local(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let value: serde_json::Value = serde_json::from_str(&line)
            .map_err(|_| format!("{}: unexpected first line: {line}", self.name))?;
        let address = value["ready"].as_str().and_then(|url| url.strip_prefix("http://")?.parse().ok());
        address.ok_or_else(|| format!("{}: no address in its ready line: {line}", self.name).into())
    }

    /// Waits until `GET /health` on `address` answers 200.
    ///
    /// # Errors
    /// When the program ends or does not answer in time.
    pub async fn healthy(&mut self, address: SocketAddr) -> Result<()> {
        let client = http_client()?;
        let url = format!("http://{address}/health");
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("{} ended with {status}; see {}", self.name, self.log.display()).into());
            }
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Err(self.silent().into())
    }

    /// Asks the program to end, and kills it when it does not.
    pub async fn stop(mut self) {
        if let Ok(pid) = i32::try_from(self.pid) {
            // It may have ended already; then there is nothing to do.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if tokio::time::timeout(STOP_LIMIT, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    fn silent(&self) -> String {
        let (name, log) = (&self.name, self.log.display());
        format!("{name} was not ready within {} s; see {log}", READY_LIMIT.as_secs())
    }
}

/// A client for the few requests that are not load; it ignores proxy settings of the environment.
///
/// # Errors
/// When it cannot be made.
pub fn http_client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(READY_LIMIT).build()?)
}

/// A port that was free a moment ago, for programs that cannot pick one themselves.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
