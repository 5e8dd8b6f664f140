//! UCX's own tool, `ucx_perftest`, as one side: the same operation, size and number in flight, between two processes, with
//! the UCX that the fabric loads.
//!
//! It moves one buffer over and over, which stays in the caches. A comparison with it is fair only for a work whose bytes
//! stay there, too.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kvferry_bench_common::Result;
use nix::sys::resource::{UsageWho, getrusage};

use crate::child::Owned;
use crate::pattern::{Pattern, Raw};
use crate::programs::Programs;
use crate::protocol::{Prepared, Ran};
use crate::session::Window;
use crate::work::{Op, Work};

/// What it prints is in 2^20 bytes.
const MEGABYTE: f64 = 1_048_576.0;

/// How long its server may take to listen.
const READY_LIMIT: Duration = Duration::from_secs(10);

/// How long one measurement may take.
const RUN_LIMIT: Duration = Duration::from_secs(60);

/// Iterations of the first run, whose speed decides how many the others have.
const PROBE: f64 = 2000.0;

/// The bytes that a probe moves at most.
const PROBE_BYTES: f64 = 4e9;

/// The tool.
#[derive(Debug)]
pub struct Perftest {
    tool: PathBuf,
    /// A copy of ours that can be run, which goes with this.
    copy: Option<PathBuf>,
    libraries: Vec<PathBuf>,
    transports: Option<String>,
    work: Option<(Op, Raw, usize)>,
    rate: Option<f64>,
}

/// What it says at the end.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Said {
    bytes_per_second: f64,
    messages_per_second: f64,
}

impl Perftest {
    /// The tool of the UCX that workers load.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(programs: &Programs, transports: Option<&str>) -> Result<Self> {
        let tool = programs.ucx_perftest.clone().ok_or(
            "--compare ucx_perftest: no such tool is found beside UCX's library; name it with --ucx-perftest FILE",
        )?;
        let library = programs.ucx_library.as_deref();
        let libraries = library.map_or_else(Vec::new, |library| folders(library, &tool));
        let mut new = Self {
            tool: tool.clone(),
            copy: None,
            libraries,
            transports: transports.map(str::to_owned),
            work: None,
            rate: None,
        };
        // In wheels, it cannot be executed.
        let mode =
            fs::metadata(&tool).map_err(|error| format!("{}: {error}", tool.display()))?.permissions().mode();
        if mode & 0o111 == 0 {
            let copy = std::env::temp_dir().join(format!("kvferry-ucx_perftest-{}", uuid::Uuid::new_v4()));
            fs::copy(&tool, &copy)?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o700))?;
            new.copy = Some(copy);
        }
        Ok(new)
    }

    /// What is run.
    pub fn describe(&self) -> String {
        self.tool.display().to_string()
    }

    pub(crate) fn prepare(&mut self, work: &Work) -> Result<Prepared> {
        let Pattern::Raw(raw) = work.pattern else {
            return Err("ucx_perftest moves blocks of one size; use --block-bytes".into());
        };
        let in_flight =
            work.depth * work.batch_of(usize::try_from(raw.count)?).min(usize::try_from(raw.count)?);
        self.work = Some((work.op, raw, in_flight.min(PERFTEST_WINDOW)));
        self.rate = None;
        Ok(Prepared { blocks: raw.count, bytes: raw.count * raw.size, transfers: raw.count })
    }

    pub(crate) fn run(&mut self, window: Duration) -> Result<Window> {
        let (op, raw, in_flight) = self.work.ok_or("no work is prepared")?;
        let size = kvferry_bench_common::num::float(raw.size);
        let iterations = self.rate.map_or_else(
            || PROBE.min(PROBE_BYTES / size).max(20.0),
            |rate| (rate * window.as_secs_f64()).max(20.0),
        );
        let cpu = || -> Result<f64> {
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
            let seconds = |time: nix::sys::time::TimeVal| {
                Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap_or(0))
                    .as_secs_f64()
            };
            Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
        };
        let before = cpu()?;
        let said = self.measure(op, raw.size, in_flight, iterations)?;
        self.rate = Some(said.messages_per_second);
        let seconds = iterations / said.messages_per_second;
        let ran = Ran {
            seconds,
            bytes: whole(said.bytes_per_second * seconds),
            blocks: whole(iterations),
            transfers: whole(iterations),
            cpu_s: cpu()? - before,
            submit_s: 0.0,
            latencies: vec![],
        };
        Ok(Window { ran, driven_cpu_s: 0.0 })
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Command::new(self.copy.as_ref().unwrap_or(&self.tool));
        command.args(["-f", "-p", &port.to_string()]).stdin(Stdio::null()).stderr(Stdio::null());
        // What the fabric sets for itself: without the first, puts and gets are emulated; the next are the right size of a
        // TCP segment, and how many copies the kernel makes between two looks at everything else.
        command.envs([
            ("UCX_RNDV_THRESH", "inf"),
            ("UCX_TCP_TX_SEG_SIZE", "256k"),
            ("UCX_TCP_RX_SEG_SIZE", "256k"),
            ("UCX_CMA_TX_QUOTA", "8"),
            ("UCX_WARN_UNUSED_ENV_VARS", "n"),
        ]);
        command.envs(self.transports.iter().map(|transports| ("UCX_TLS", transports)));
        if let Ok(paths) = std::env::join_paths(&self.libraries) {
            command.env("LD_LIBRARY_PATH", paths);
        }
        command
    }

    fn measure(&self, op: Op, size: u64, in_flight: usize, iterations: f64) -> Result<Said> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Owned::start(self.command(port).stdout(Stdio::null()))?;
        listening(port, &mut server)?;
        let test = if op == Op::Read { "ucp_get" } else { "ucp_put_bw" };
        let mut command = self.command(port);
        command.args(["127.0.0.1", "-t", test, "-w", "20"]);
        command.args([
            "-s",
            &size.to_string(),
            "-n",
            &format!("{iterations:.0}"),
            "-O",
            &in_flight.to_string(),
        ]);
        let mut client = Owned::start(command.stdout(Stdio::piped()))?;
        let patience = Instant::now() + RUN_LIMIT;
        while client.child().try_wait()?.is_none() {
            if Instant::now() > patience {
                return Err(format!(
                    "ucx_perftest -t {test} -s {size} has not ended within {} s",
                    RUN_LIMIT.as_secs()
                )
                .into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        let mut text = String::new();
        if let Some(stdout) = client.child().stdout.as_mut() {
            std::io::Read::read_to_string(stdout, &mut text)?;
        }
        parse(&text).ok_or_else(|| {
            let error = text.lines().find(|line| line.contains("ERROR")).unwrap_or("and nothing of why");
            format!("ucx_perftest -t {test} -s {size}: no figures in what it says: {error}").into()
        })
    }
}

/// The most operations that `-O` is given: beyond, the tool only queues.
const PERFTEST_WINDOW: usize = 256;

impl Drop for Perftest {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            // A leftover in the temporary folder harms nobody.
            let _ = fs::remove_file(copy);
        }
    }
}

fn whole(count: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts, positive and far below 2^53"
    )]
    let whole = count.round() as u64;
    whole
}

/// Where the tool finds its libraries: the folder of UCX's, and of what a wheel brings along.
fn folders(library: &Path, tool: &Path) -> Vec<PathBuf> {
    let own = library.parent().map(Path::to_path_buf);
    let site = tool.ancestors().nth(3);
    let bundled = site.and_then(|site| fs::read_dir(site).ok()).into_iter().flatten().flatten();
    let bundled = bundled.map(|entry| entry.path()).filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
            name.starts_with("libucx")
                && Path::new(name).extension().is_some_and(|extension| extension == "libs")
        })
    });
    own.into_iter().chain(bundled).collect()
}

/// Waits until somebody listens on `port`, as the system's table says: connecting would be taken for the client.
fn listening(port: u16, server: &mut Owned) -> Result<()> {
    let patience = Instant::now() + READY_LIMIT;
    loop {
        let table =
            fs::read_to_string("/proc/net/tcp")? + &fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
        if listens(&table, port) {
            return Ok(());
        }
        if let Some(status) = server.child().try_wait()? {
            return Err(format!("ucx_perftest does not start here ({status})").into());
        }
        if Instant::now() > patience {
            return Err("ucx_perftest does not listen".into());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn listens(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    let rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 3).any(|row| row[1].ends_with(&suffix) && row[3] == "0A")
}

/// The last line of nothing but numbers: iterations, three times, two bandwidths, two message rates, average and overall.
fn parse(text: &str) -> Option<Said> {
    let numbers = |line: &str| -> Option<Vec<f64>> {
        let words = line.trim_start_matches("Final:").split_whitespace();
        words.map(|word| word.parse().ok()).collect::<Option<Vec<f64>>>().filter(|numbers| numbers.len() == 8)
    };
    let last = text.lines().rev().find_map(numbers)?;
    (last[7] > 0.0).then(|| Said { bytes_per_second: last[5] * MEGABYTE, messages_per_second: last[7] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_last_line_is_read_and_nothing_else() {
        let text =
            "+----+\n|    |\nFinal:     2000   0.000   5.124   5.124   3049.52  3050.00  195169  195200\n";
        let said = parse(text).unwrap();
        assert!((said.bytes_per_second - 3050.0 * 1_048_576.0).abs() < 1.0);
        assert!((said.messages_per_second - 195_200.0).abs() < 1e-6);
        assert_eq!(parse("[error] no transports\n"), None);
        assert_eq!(parse("1 2 3 4 5 6 7 0\n"), None, "a rate of nothing");
    }

    #[test]
    fn a_listener_is_found_in_the_systems_table_by_its_port_and_state() {
        let row = "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000";
        assert!(listens(row, 8080) && !listens(row, 8081));
        assert!(!listens(&row.replace(" 0A ", " 01 "), 8080), "connected, not listening");
    }
}
